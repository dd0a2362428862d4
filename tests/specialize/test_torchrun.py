"""`torchrun … -m codellama specialize …`: two processes from the command line give the losses of
one, and one model.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from codellama.weights.load import open_model

pytestmark = pytest.mark.slow

STEPS = 3
LAUNCH = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of some length, in `python` and `code`: what the recipe mixes."""
    folder = tmp_path_factory.mktemp("corpus")
    for name, module in (("python", textwrap), ("code", argparse)):
        (folder / name).mkdir()
        (folder / name / "LICENSE").write_text("Permission is hereby granted, free of charge, …")
        text = Path(str(module.__file__)).read_text()[:18_000]
        for i, place in enumerate(range(0, len(text), 1500)):
            (folder / name / f"{name}{i}.py").write_text(text[place : place + 1500])
    words = ["corpus", "build", str(folder / "built")]
    words += [f"{name}={folder / name}" for name in ("python", "code")]
    subprocess.run([sys.executable, "-m", "codellama", *words], check=True, timeout=120)
    return folder / "built"


def specialize(
    processes: int, base: Path, corpus: Path, out: Path, *more: str
) -> subprocess.CompletedProcess[str]:
    launch = [*LAUNCH, str(processes)] if processes > 1 else []
    words = ["-m", "codellama", "specialize", "smol-135m-full", str(corpus), "--out", str(out)]
    words += ["--base", str(base), "--profile", "laptop-float32", "--threads", "1"]
    words += ["--tokens", str(STEPS * 2048), *more]
    return subprocess.run(
        [sys.executable, *launch, *words], capture_output=True, text=True, timeout=500
    )


def log(out: Path) -> list[dict[str, Any]]:
    lines = (out / "smol-135m-full" / "log.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_two_processes_are_one(tiny_base: Path, corpus: Path, tmp_path: Path) -> None:
    one = specialize(1, tiny_base, corpus, tmp_path / "one")
    assert one.returncode == 0, one.stderr
    two = specialize(2, tiny_base, corpus, tmp_path / "two", "--export", str(tmp_path / "x.gguf"))
    assert two.returncode == 0, two.stderr
    alone, shared = log(tmp_path / "one"), log(tmp_path / "two")
    assert [line["step"] for line in shared] == [line["step"] for line in alone] != []
    for key, tolerance in (("loss", 1e-4), ("gradient_norm", 1e-3)):
        values = [line[key] for line in alone]
        assert [line[key] for line in shared] == pytest.approx(values, rel=tolerance)
    assert len({line["loss"] for line in alone}) == len(alone)
    # Process 0 alone speaks, and once.
    assert two.stdout.count("is written") == 1
    assert two.stderr.count("steps of 2,048 tokens") == 1
    assert "destroy_process_group" not in two.stderr
    assert open_model(tmp_path / "x.gguf").config.n_layers == 2


def test_processes_that_share_rows_and_layers(
    tiny_base: Path, corpus: Path, tmp_path: Path
) -> None:
    """Two that share every row; the run goes on with four that share layers, too."""
    one = specialize(1, tiny_base, corpus, tmp_path / "one")
    assert one.returncode == 0, one.stderr
    several = tmp_path / "several"
    for count, words in ((2, ("--cp", "2", "--minutes", "0.001")), (4, ("--cp", "2", "--tp", "2"))):
        done = specialize(count, tiny_base, corpus, several, *words)
        assert done.returncode == 0, done.stderr
    alone, shared = log(tmp_path / "one"), log(several)
    assert [line["step"] for line in shared] == [line["step"] for line in alone] != []
    losses = [line["loss"] for line in alone]
    assert [line["loss"] for line in shared] == pytest.approx(losses, rel=1e-4)


def test_what_several_cannot_do_is_one_line(tiny_base: Path, corpus: Path, tmp_path: Path) -> None:
    three = specialize(3, tiny_base, corpus, tmp_path / "three")
    assert three.returncode != 0
    assert "a batch of 2 rows does not divide among 3 processes" in three.stderr
    assert "Error executing job" not in three.stderr


def test_axes_need_processes(tiny_base: Path, corpus: Path, tmp_path: Path) -> None:
    one = specialize(1, tiny_base, corpus, tmp_path / "one", "--cp", "2", "--tp", "2")
    assert one.returncode != 0
    assert "cp 2 x tp 2 needs 4 processes, or a multiple of them, and 1 was started" in one.stderr
    assert len(one.stderr.strip().splitlines()) == 1
