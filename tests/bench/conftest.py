"""A tiny model with random weights, and a peer: a script with llama-bench's face."""

from __future__ import annotations

import json
import stat
import sys
from pathlib import Path

import pytest

from codellama.bench.peer import Peer
from codellama.model.config import ModelConfig
from random_model import write_random

TINY = ModelConfig(
    name="tiny", dim=64, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=16, ffn_dim=96,
    vocab_size=320, context=256,
)  # fmt: skip

SINGLE = """
import json, sys
args = dict(zip(sys.argv[1::2], sys.argv[2::2]))
open(LOG, "a").write(json.dumps(["llama-bench", sys.argv[1:]]) + "\\n")
print("a line about threads")
sizes = lambda key: [int(n) for n in args[key].split(",") if n != "0"]
print(json.dumps(
    [{"n_prompt": n, "n_gen": 0, "n_depth": int(args.get("-d", 0)), "avg_ts": 100.0} for n in sizes("-p")]
    + [{"n_prompt": 0, "n_gen": n, "n_depth": int(args.get("-d", 0)), "avg_ts": 50.0} for n in sizes("-n")],
    indent=1))
"""  # noqa: E501

BATCHED = """
import json, sys
args = dict(zip(sys.argv[1::2], sys.argv[2::2]))
open(LOG, "a").write(json.dumps(["llama-batched-bench", sys.argv[1:]]) + "\\n")
print("main: n_kv_max = 1")
for n in args["-npl"].split(","):
    print(json.dumps({"pp": int(args["-npp"]), "tg": int(args["-ntg"]), "pl": int(n),
                      "speed_tg": 10.0 * int(n)}))
"""

BROKEN = """
import sys
print("not a list of tests")
sys.exit("error: no such model")
"""


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bench") / "tiny.Q8_0.gguf"
    write_random(path, TINY, "Q8_0")
    return path


@pytest.fixture
def peer_folder(tmp_path: Path) -> Path:
    """llama-bench and llama-batched-bench, which note how they were called; and a broken one."""
    log = json.dumps(str(tmp_path / "calls"))
    for name, body in (("bench", SINGLE), ("batched-bench", BATCHED), ("bench-broken", BROKEN)):
        path = tmp_path / f"llama-{name}"
        path.write_text(f"#!{sys.executable}\nLOG = {log}\n{body}")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return tmp_path


@pytest.fixture
def peer(peer_folder: Path) -> Peer:
    return Peer(peer_folder / "llama-bench", extra=("-fa", "1"))
