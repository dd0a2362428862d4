"""The prefix cache on disk: what is saved comes back, and nothing else ever does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codellama.engine.engine import Engine
from codellama.engine.params import SamplingParams
from codellama.engine.request import Request
from codellama.engine.runner import BLOCK_SIZE
from fakes import FakeRunner, KeepingRunner

MODEL = "weights and kernels"
PARAMS = SamplingParams(max_tokens=4)
ROOM = 1 << 30


def ask(engine: Engine, prompt: list[int]) -> tuple[tuple[int, ...], int]:
    (output,) = engine.generate([Request(prompt_ids=tuple(prompt), params=PARAMS)])
    return output.ids, output.cached_tokens


PROMPTS = [[i % 60 for i in range(k, k + 70)] for k in (0, 7, 20)]


def filled() -> Engine:
    engine = Engine(KeepingRunner(n_blocks=64))
    for prompt in PROMPTS:
        ask(engine, prompt)
    return engine


def test_a_restored_cache_answers_alike_and_computes_less(tmp_path: Path) -> None:
    engine = filled()
    saved = engine.save_prefixes(tmp_path / "p", MODEL, most_bytes=ROOM)
    assert saved >= 3 * 64
    fresh = Engine(KeepingRunner(n_blocks=64))
    assert fresh.restore_prefixes(tmp_path / "p", MODEL) == saved
    fresh._scheduler.check_integrity()
    for prompt in PROMPTS:
        ids, cached = ask(fresh, prompt)
        assert cached == 64
        assert ids == ask(Engine(KeepingRunner(n_blocks=64)), prompt)[0]
    assert list(tmp_path.iterdir()) == [tmp_path / "p"]
    assert (tmp_path / "p").stat().st_mode & 0o077 == 0


def test_another_kind_of_cache_is_refused(tmp_path: Path) -> None:
    """Though its blocks be of the same size."""
    filled().save_prefixes(tmp_path / "p", MODEL, most_bytes=ROOM)
    other = KeepingRunner(n_blocks=64)
    other.kv_type = "q8_0"
    fresh = Engine(other)
    assert fresh.restore_prefixes(tmp_path / "p", MODEL) == 0
    assert ask(fresh, PROMPTS[0])[1] == 0


def test_the_most_recent_are_kept_where_room_is_short(tmp_path: Path) -> None:
    engine = filled()
    few = 5 * KeepingRunner.block_bytes
    assert engine.save_prefixes(tmp_path / "p", MODEL, most_bytes=few) == 5 * BLOCK_SIZE
    fresh = Engine(KeepingRunner(n_blocks=64))
    assert fresh.restore_prefixes(tmp_path / "p", MODEL) == 5 * BLOCK_SIZE
    assert ask(fresh, PROMPTS[-1])[1] == 64
    small = Engine(KeepingRunner(n_blocks=3, context=48))
    assert small.restore_prefixes(tmp_path / "p", MODEL) == 3 * BLOCK_SIZE
    small._scheduler.check_integrity()


def test_other_models_and_runners_refuse(tmp_path: Path) -> None:
    filled().save_prefixes(tmp_path / "p", MODEL, most_bytes=ROOM)
    fresh = Engine(KeepingRunner(n_blocks=64))
    assert fresh.restore_prefixes(tmp_path / "p", "another") == 0
    assert fresh.restore_prefixes(tmp_path / "missing", MODEL) == 0
    assert Engine(FakeRunner(n_blocks=64)).restore_prefixes(tmp_path / "p", MODEL) == 0
    assert Engine(FakeRunner()).save_prefixes(tmp_path / "q", MODEL, most_bytes=ROOM) == 0
    assert fresh.save_prefixes(tmp_path / "q", MODEL, most_bytes=ROOM) == 0  # nothing to save
    assert not (tmp_path / "q").exists()


def test_a_file_joins_what_is_there_and_can_be_forgotten(tmp_path: Path) -> None:
    """Twice restored over half of it, beside a request that runs; erased, nothing of it is left."""
    engine = filled()
    saved = engine.save_prefixes(tmp_path / "p", MODEL, most_bytes=ROOM)
    other = Engine(KeepingRunner(n_blocks=64))
    ask(other, PROMPTS[1])
    other.submit(Request(prompt_ids=tuple(PROMPTS[0]), params=PARAMS))
    other.step()
    for _ in range(2):
        assert other.restore_prefixes(tmp_path / "p", MODEL) == saved
        other._scheduler.check_integrity()
    for prompt in PROMPTS:
        ids, cached = ask(other, prompt)
        assert cached == 64 and ids == ask(filled(), prompt)[0]
    running = other.submit(Request(prompt_ids=tuple(PROMPTS[2]), params=PARAMS))
    other.step()
    held = sum(count > 0 for count in other._scheduler.pool._references)
    assert held and other.erase_prefixes() > 0
    other._scheduler.check_integrity()
    assert other._scheduler.pool.published <= held
    other.cancel(running)
    other.erase_prefixes()
    assert ask(other, PROMPTS[0])[1] == 0


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("whole") / "p"
    filled().save_prefixes(path, MODEL, most_bytes=ROOM)
    return path.read_bytes()


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_damage_is_noticed(
    whole: bytes, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged"
    kind = data.draw(st.sampled_from(["flip", "cut", "grow", "noise"]))
    if kind == "flip":
        place = data.draw(st.integers(0, len(whole) - 1))
        bit = 1 << data.draw(st.integers(0, 7))
        damaged = whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :]
    elif kind == "cut":
        damaged = whole[: data.draw(st.integers(0, len(whole) - 1))]
    elif kind == "grow":
        damaged = whole + data.draw(st.binary(min_size=1, max_size=64))
    else:
        damaged = whole[:27] + data.draw(st.binary(max_size=256))
    path.write_bytes(damaged)
    engine = Engine(KeepingRunner(n_blocks=64))
    assert engine.restore_prefixes(path, MODEL) == 0
    engine._scheduler.check_integrity()
    assert ask(engine, PROMPTS[0])[1] == 0


def test_a_kill_while_saving_leaves_the_last_whole_file(tmp_path: Path) -> None:
    filled().save_prefixes(tmp_path / "p", MODEL, most_bytes=ROOM)
    before = (tmp_path / "p").read_bytes()
    program = (
        "import os, sys; sys.path.insert(0, sys.argv[2]); sys.path.insert(0, sys.argv[3])\n"
        "from pathlib import Path\n"
        "from test_saved_prefixes import KeepingRunner, MODEL, ROOM, filled\n"
        "engine, calls = filled(), []\n"
        "read = KeepingRunner.read_block\n"
        "def slow(self, block, out):\n"
        "    read(self, block, out); calls.append(block)\n"
        "    if len(calls) == 3: os.kill(os.getpid(), 9)\n"
        "KeepingRunner.read_block = slow\n"
        "engine.save_prefixes(Path(sys.argv[1]), MODEL, most_bytes=ROOM)\n"
    )
    here = Path(__file__).resolve().parent
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "p"), str(here), str(here.parent)],
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert (tmp_path / "p").read_bytes() == before
