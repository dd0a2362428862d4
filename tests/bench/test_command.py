"""`codellama bench` from end to end: a table, JSON, a picture, and errors in one line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from codellama.bench import machine
from codellama.cli import main
from codellama.weights.adapter import write_adapter
from codellama.weights.load import open_model

NAME = "layers.0.attention.wq.weight"


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Machine limits from a few milliseconds."""
    measure = machine.measure_machine

    def quick(threads: int, working_set: int, **more: object) -> machine.Machine:
        return measure(threads, working_set, **{**more, "seconds": 0.005})  # type: ignore[arg-type]

    monkeypatch.setattr(machine, "measure_machine", quick)


def run(*words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["bench", *words])
    return int(ended.value.code or 0)


def test_json(tiny: Path, peer_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--cases", "pp8,tg4", "--rounds", "2", "--threads", "1", "--json"]
    assert run(str(tiny), *words, "--peer", f"{peer_folder / 'llama-bench'} -fa 1") == 0
    result = json.loads(capsys.readouterr().out)
    assert [row["case"] for row in result["rows"]] == ["pp8", "tg4"]
    assert len(result["rounds"]) == 2
    ratio = result["rows"][1]["peers"]["llama.cpp"]["ratio"]
    rates = [each["ours"]["rates"]["tg4"] / 50.0 for each in result["rounds"]]
    assert ratio == pytest.approx(sum(rates) / 2)


def test_a_peer_gets_an_adapters_model_merged(
    tiny: Path, peer_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    out, width = open_model(tiny).layout(NAME).shape
    arrays = {f"{NAME}.a": np.ones((1, width), np.float16)}
    arrays[f"{NAME}.b"] = np.ones((out, 1), np.float16)
    about = {"name": "m", "base": str(tiny), "scale": 1.0, "rows": [], "pieces": []}
    about["infill"] = None
    adapter = tmp_path / "mine.safetensors"
    write_adapter(adapter, arrays, about)
    words = ["--cases", "tg4", "--rounds", "1", "--peer", str(peer_folder / "llama-bench")]
    assert run(str(adapter), *words) == 0
    _, arguments = json.loads((tmp_path / "calls").read_text().splitlines()[0])
    given = Path(arguments[arguments.index("-m") + 1])
    assert given.suffix == ".gguf" and given != tiny and open_model(given).config.dim == 64


def test_table_and_picture(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "roofline.svg"
    assert run(str(tiny), "--cases", "pp8,tg4", "--rounds", "1", "--plot", str(picture)) == 0
    out = capsys.readouterr().out
    assert "case  tok/s" in out and "peak memory" in out
    assert max(map(len, out.splitlines())) < 160
    assert "tiny.Q8_0.gguf: roofline" in picture.read_text()


@pytest.mark.parametrize(
    "words, message",
    [
        (["--cases", "pp0"], "'pp0' is no case"),
        (["--rounds", "0"], "must be 1 or more"),
        (["--peer", "/nowhere/llama-bench"], "is no program"),
        (["--cases", "pp9999"], "a case needs 10000"),
        (["--cases", "tg1", "--rounds", "1", "--plot", "/nowhere/x.png"], "cannot be written"),
        (["--cases", "tg1", "--rounds", "1", "--isa", "abacus"], "'abacus' is not available"),
    ],
)
def test_one_line_of_error(
    tiny: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(str(tiny), *words) == 1
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_nothing_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("no-such-model:1b") == 1
    assert capsys.readouterr().err.count("\n") == 1
