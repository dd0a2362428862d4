"""`codellama evaluate`, `report` and `contamination` as a user types them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from codellama.evaluate.data import Data
from codellama.evaluate.sandbox import Sandbox
from codellama.evaluate.suites import SUITES, make_suite


def codellama(
    *words: str, cwd: Path, fails: bool = False, **env: str
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "codellama", *words],
        cwd=cwd,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (done.returncode != 0) == fails, done.stderr
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    """The first eight problems of HumanEval: six right, one wrong, one that leaves early."""
    suite = make_suite("humaneval", Data())
    lines = []
    for i, problem in enumerate(suite.problems()[:8]):
        completion = str(suite.oracle(problem))
        completion = {3: "    return None\n", 5: "    import os; os._exit(0)\n"}.get(i, completion)
        lines.append(json.dumps({"task_id": problem.task_id, "completion": completion}))
    path = tmp_path / "samples.jsonl"
    path.write_text("\n".join(lines))
    return path


def test_given_samples_are_judged(sandbox: Sandbox, samples: Path, tmp_path: Path) -> None:
    words = ("evaluate", "humaneval", "--samples", str(samples), "--json")
    result = json.loads(codellama(*words, cwd=tmp_path).stdout)
    assert (result["suite"], result["n"], result["pass@1"]) == ("humaneval", 8, 0.75)
    assert not (tmp_path / "codellama-runs").exists()


def test_report_and_contamination_follow(sandbox: Sandbox, samples: Path, tmp_path: Path) -> None:
    out = tmp_path / "runs" / "he"
    words = ("evaluate", "humaneval", "--samples", str(samples), "--out", str(out))
    text = codellama(*words, cwd=tmp_path).stdout
    assert "pass@1" in text and "0.750" in text
    overlap = str(tmp_path / "runs" / "contamination.json")
    words = ("contamination", str(samples), "--suite", "humaneval", "--out", overlap)
    corpus = tmp_path / "corpus.jsonl"
    problem = make_suite("humaneval", Data()).problems()[10]
    whole = problem.prompt + problem.data["canonical_solution"]
    corpus.write_text(json.dumps({"text": whole}) + "\n")
    words = ("contamination", str(corpus), "--suite", "humaneval", "--out", overlap)
    assert "humaneval" in codellama(*words, cwd=tmp_path).stdout
    codellama("report", "runs", "--out", "page", cwd=tmp_path)
    html = (tmp_path / "page.html").read_text()
    assert "75.0 %" in html
    assert "1 of 164 problems share 10 words" in html
    assert "75.0" in (tmp_path / "page.md").read_text()


def test_suites_are_listed(tmp_path: Path) -> None:
    listed = json.loads(codellama("evaluate", "--json", cwd=tmp_path).stdout)
    assert [each["suite"] for each in listed] == list(SUITES)


@pytest.mark.weights
def test_a_model_is_measured_and_a_second_run_does_nothing(
    sandbox: Sandbox, smollm2_path: Path, tmp_path: Path
) -> None:
    words = ("evaluate", "humaneval", "--model", str(smollm2_path), "--limit", "3")
    words = (*words, "--max-tokens", "24", "--out", "run", "--json")
    first = json.loads(codellama(*words, cwd=tmp_path).stdout)
    raw = (tmp_path / "run" / "raw.jsonl").read_bytes()
    samples = (tmp_path / "run" / "samples.jsonl").read_bytes()
    second = json.loads(codellama(*words, cwd=tmp_path).stdout)
    assert first["pass@1"] == second["pass@1"]
    assert first["config"]["model"]["sha256"].startswith("b179c952")
    assert (tmp_path / "run" / "raw.jsonl").read_bytes() == raw
    other = (*words[:-3], "--out", "other", "--json")
    codellama(*other, cwd=tmp_path)
    assert (tmp_path / "other" / "samples.jsonl").read_bytes() == samples
    again = codellama(*words[:-1], "--stage", "execute", "--stage", "score", cwd=tmp_path)
    assert "pass@1" in again.stdout


@pytest.mark.parametrize(
    "words, problem",
    [
        (("evaluate", "humanevl"), "no suite 'humanevl': did you mean humaneval"),
        (("evaluate", "humaneval", "--samples", "none.jsonl"), "none.jsonl: No such file"),
        (("evaluate", "humaneval", "--stage", "judge"), "it must be one of generate"),
        (("evaluate", "humaneval", "--order", "fim"), "it must be psm or spm"),
        (("evaluate", "humaneval", "--url", "http://127.0.0.1:9/v1"), "--url needs --model"),
        (("evaluate", "humaneval", "--stage", "score", "--out", "x"), "x has no run yet"),
        (("report", "nowhere"), "no scored runs in nowhere"),
        (("contamination", "nowhere"), "nowhere: no such file or folder"),
    ],
)
def test_bad_input_gets_one_line(words: tuple[str, ...], problem: str, tmp_path: Path) -> None:
    done = codellama(*words, cwd=tmp_path, fails=True)
    assert problem in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.returncode == 1
