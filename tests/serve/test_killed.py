"""kill -9 at random points of creating models and of saving caches: what is there is whole."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from codellama import hub
from codellama.engine.engine import Engine
from codellama.weights.adapter import write_adapter
from codellama.weights.blocks import check_finite
from codellama.weights.load import open_model
from engine.test_saved_prefixes import MODEL, PROMPTS, ROOM, ask, filled
from fakes import KeepingRunner
from serve.support import INFILLS, add_model, tiny_infiller

TESTS = Path(__file__).resolve().parents[1]
KILLS = 8

CREATE = """
import asyncio, json, sys
import httpx
from codellama.serve.app import create_app
from codellama.serve.settings import Settings

async def main():
    transport = httpx.ASGITransport(create_app(Settings()))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
        n = 0
        while True:
            n += 1
            if n == 3:  # one of each kind is made: what is killed from here on replaces them
                print("go", flush=True)
            body = {"model": f"made{n % 3}", "from": sys.argv[1], "system": sys.argv[2] + str(n)}
            body |= {"stream": False, "adapters": {"a.safetensors": sys.argv[3]}}
            body |= {"quantize": "q8_0"} if n % 2 else {}
            reply = await http.post("/api/create", json=body)
            assert reply.status_code == 200, reply.text

asyncio.run(main())
"""

SAVE = """
import sys
from pathlib import Path
sys.path[:0] = sys.argv[2:3]
from engine.test_saved_prefixes import MODEL, ROOM, filled
engine = filled()
print("go", flush=True)
while True:
    engine.save_prefixes(Path(sys.argv[1]), MODEL, most_bytes=ROOM)
"""


def killed(program: str, *arguments: str, seconds: float) -> None:
    """Run a program, and kill it this long after it said that it goes."""
    process = subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stderr is not None
    with process.stdout, process.stderr:
        said = process.stdout.readline()
        time.sleep(seconds)
        process.send_signal(signal.SIGKILL)
        assert said == "go\n", process.stderr.read()
    assert process.wait() == -signal.SIGKILL


def whole_models(root: Path) -> set[str]:
    """Every blob is what its name says, every model of the store opens and computes; their names.

    Models of other tools on this machine are not the store's.
    """
    for blob in (root / "blobs").glob("sha256-*"):
        if blob.suffix != ".tmp":
            assert blob.name[7:] == hashlib.sha256(blob.read_bytes()).hexdigest()
    names = {entry.name for entry in hub.list_models() if entry.where == "store"}
    for name in names:
        model = open_model(hub.resolve(name))
        for tensor in model.names:
            check_finite(model.tensor(tensor))
    return names


@pytest.mark.slow
def test_creating(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "models"
    root.mkdir()
    monkeypatch.setenv("CODELLAMA_MODELS", str(root))
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "none"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "none"))
    add_model(root, INFILLS, tiny_infiller(tmp_path))
    name = "layers.0.attention.wo.weight"
    out, width = open_model(hub.resolve(INFILLS)).layout(name).shape
    arrays = {f"{name}.a": np.ones((1, width), np.float16)}
    arrays[f"{name}.b"] = np.ones((out, 1), np.float16)
    about = {"name": "a", "scale": 0.1, "rows": [], "pieces": [], "infill": None}
    write_adapter(tmp_path / "a", arrays, about)
    data = (tmp_path / "a").read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    (root / "blobs" / f"sha256-{digest}").write_bytes(data)
    chance = random.Random(4)
    for attempt in range(KILLS):
        where = INFILLS, str(attempt), f"sha256:{digest}"
        killed(CREATE, *where, seconds=chance.random() * 0.6)
        assert whole_models(root) >= {"made1:latest", "made2:latest"}
    assert whole_models(root) <= {INFILLS, *(f"made{n}:latest" for n in range(3))}


def test_saving_a_cache(tmp_path: Path) -> None:
    path = tmp_path / "p"
    wanted = ask(filled(), PROMPTS[0])[0]
    chance = random.Random(4)
    for _ in range(4):
        killed(SAVE, str(path), str(TESTS), seconds=chance.random() * 0.1)
        if path.exists():
            fresh = Engine(KeepingRunner(n_blocks=64))
            assert fresh.restore_prefixes(path, MODEL) >= 3 * 64
            assert ask(fresh, PROMPTS[0]) == (wanted, 64)
    left = set(tmp_path.iterdir()) - {path}
    for each in left:  # an hour later
        os.utime(each, (0, 0))
    assert filled().save_prefixes(path, MODEL, most_bytes=ROOM)
    assert list(tmp_path.iterdir()) == [path]
