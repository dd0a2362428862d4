"""The scripts behind claims: rounds are kept between calls, results written, starts timed."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

import cold_start
import rope
import speed
from codellama.bench import machine
from codellama.bench.cases import parse_cases
from codellama.bench.peer import Peer
from codellama.bench.session import Session
from codellama.evaluate.corpus import held_out


def test_rounds_add_up_over_calls(
    tiny: Path, peer: Peer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fixed = machine.Machine("a processor", 2, 8 << 30, 1, 1e10, 1 << 20, 2e10, {})
    monkeypatch.setattr(speed, "measure_machine", lambda threads, working_set: fixed)
    monkeypatch.setattr(speed, "RESULTS", tmp_path / "results")
    session = Session(tiny, parse_cases("tg2"), 1, peers=(peer,))
    keep = tmp_path / "rounds"
    first = speed.measure(session, 1, keep)
    second = speed.measure(session, 2, keep)
    assert (len(first.rounds), len(second.rounds)) == (1, 3)
    assert second.rounds[0] == first.rounds[0]
    speed.write(second, "tiny", ["a note"])
    (written,) = (tmp_path / "results").glob("*-tiny.json")
    found = json.loads(written.read_text())
    assert found["notes"] == ["a note"]
    assert found["rows"][0]["peers"]["llama.cpp"]["rate"] == 50.0
    assert "| tg2 |" in written.with_suffix(".md").read_text()


def test_a_start_is_timed_to_the_first_visible_byte() -> None:
    code = "import time; print(' ', flush=True); time.sleep(0.2); print(input()); time.sleep(0.2)"
    seconds, peak_mb = cold_start.start([sys.executable, "-c", code], "hello\n")
    assert seconds >= 0.2
    assert peak_mb > 5  # no upper bound: the system counts this large process until the exec


def test_a_start_is_timed_behind_a_prompt_that_is_shown() -> None:
    code = "import time; print('> def fibonacci(n):', flush=True); time.sleep(0.2); print('x')"
    seconds, _ = cold_start.start([sys.executable, "-c", code], "")
    assert seconds >= 0.2


def test_a_start_without_output_is_an_error() -> None:
    with pytest.raises(SystemExit, match="printed nothing"):
        cold_start.start([sys.executable, "-c", "pass"], "")


@pytest.mark.slow
@pytest.mark.weights
def test_another_rope_base_is_another_model(
    smollm2_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two bases of one file, scored on the same text; a second call scores nothing anew."""
    folder = tmp_path / "code"
    folder.mkdir()
    name = next(f"{i}.py" for i in range(1000) if held_out(f"{i}.py"))
    (folder / name).write_text(Path(speed.__file__).read_text() * 3)
    words = ["rope.py", f"own={smollm2_path}", f"other={smollm2_path}@1e6", "--tokens", "1024"]
    words += ["--corpus", str(folder), "--work", str(tmp_path), "--out", str(tmp_path / "rope")]
    monkeypatch.setattr(sys, "argv", words)
    rope.main()
    record = json.loads((tmp_path / "rope.json").read_text())
    own, other = record["results"]
    assert own["config"]["model"]["rope_theta"] == "100000"
    assert other["config"]["model"]["rope_theta"] == "1e+06"
    assert 1 < own["perplexity"] < 1.2 * other["perplexity"]
    assert own["perplexity"] != other["perplexity"]
    assert "| own | other |" in (tmp_path / "rope.md").read_text()
    assert "<svg" in (tmp_path / "rope.svg").read_text()
    monkeypatch.setattr(rope.OneAtATime, "answers", None)  # whatever asks again, fails
    rope.main()
