"""Stages: files as promised, resumed after a kill, redone alone, the same from run to run."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from codellama.errors import NotFoundError, RequestError
from codellama.evaluate.asks import Ask, Continue, Decoding, Raw
from codellama.evaluate.data import Data
from codellama.evaluate.fanout import Local
from codellama.evaluate.records import Appender, read_lines
from codellama.evaluate.run import Run
from codellama.evaluate.statistics import bootstrap, pass_at_k
from codellama.evaluate.suite import Executor, Options, Outcome, Problem, Suite
from codellama.evaluate.suites import make_suite
from codellama.evaluate.verdicts import Verdict


class Sums(Suite):
    """A benchmark as small as they come: what a new one needs to say."""

    name = "sums"
    title = "Sums"
    executes = False

    def __init__(self, options: Options | None = None) -> None:
        super().__init__(options or Options())

    def problems(self) -> list[Problem]:
        return [Problem(f"sum/{i}", f"{i} + {i} =", {"answer": str(2 * i)}) for i in range(20)]

    def ask(self, problem: Problem) -> Ask:
        return Continue(problem.prompt)

    def extract(self, problem: Problem, raw: Raw) -> str:
        return str(raw).strip()

    def judge(self, problem: Problem, completion: Any, execute: Executor) -> Outcome:
        right = completion == problem.data["answer"]
        return Outcome(Verdict("passed" if right else "failed"), {"right": float(right)})

    def oracle(self, problem: Problem) -> Raw:
        return f" {problem.data['answer']}\n"


class Oracle:
    """A scripted model; kills itself after so many questions."""

    name = "oracle"
    infills = True
    parallel = 3
    context = 4096

    def __init__(self, suite: Suite, *, wrong: bool = False, dies_after: int | None = None) -> None:
        self.suite = suite
        self.wrong = wrong
        self.left = dies_after
        self.asked = 0
        self.lock = threading.Lock()
        self.seeds: list[int] = []

    def identity(self) -> dict[str, str | int]:
        return {"name": self.name}

    def count(self, text: str) -> int:
        return len(text)

    def answers(self, ask: Ask, n: int, decoding: Decoding) -> list[Raw]:
        with self.lock:
            if self.left is not None and self.asked >= self.left:
                raise KeyboardInterrupt
            self.asked += 1
            self.seeds.append(decoding.seed)
        assert isinstance(ask, Continue)
        problem = next(p for p in self.suite.problems() if p.prompt == ask.prompt)
        answer = self.suite.wrong(problem) if self.wrong else self.suite.oracle(problem)
        return [answer] * n


def all_stages(folder: Path, model: Oracle, n: int = 1) -> dict[str, Any]:
    run = Run(folder, model.suite, model=model.identity(), n=n)
    run.generate(model)
    run.extract()
    run.execute(None)  # type: ignore[arg-type]
    return run.score()


def test_the_oracle_scores_all_and_the_wrong_model_nothing(tmp_path: Path) -> None:
    suite = Sums()
    right = all_stages(tmp_path / "a", Oracle(suite))
    wrong = all_stages(tmp_path / "b", Oracle(suite, wrong=True))
    assert (right["pass@1"], wrong["pass@1"]) == (1.0, 0.0)
    assert right["pass@1 95%"] == [1.0, 1.0]
    assert (right["suite"], right["n"], right["problems"]) == ("sums", 20, 20)


def test_files_are_the_same_from_run_to_run(tmp_path: Path) -> None:
    suite = Sums()
    for name, parallel in (("a", 1), ("b", 8)):
        model = Oracle(suite)
        model.parallel = parallel
        all_stages(tmp_path / name, model, n=2)
    first, second = ((tmp_path / name / "samples.jsonl").read_bytes() for name in "ab")
    assert first == second
    records = read_lines(tmp_path / "a" / "samples.jsonl")
    assert records[:2] == [
        {"task_id": "sum/0", "sample": 0, "completion": "0"},
        {"task_id": "sum/0", "sample": 1, "completion": "0"},
    ]


def test_seeds_differ_by_problem_and_repeat(tmp_path: Path) -> None:
    suite = Sums()
    models = [Oracle(suite), Oracle(suite)]
    for name, model in zip("ab", models, strict=True):
        all_stages(tmp_path / name, model)
    assert sorted(models[0].seeds) == sorted(models[1].seeds)
    assert len(set(models[0].seeds)) == 20


def test_generation_resumes_after_a_kill_with_a_torn_line(tmp_path: Path) -> None:
    suite = Sums()
    with pytest.raises(KeyboardInterrupt):
        all_stages(tmp_path, Oracle(suite, dies_after=11))
    raw = tmp_path / "raw.jsonl"
    kept = raw.read_bytes().count(b"\n")
    assert 0 < kept < 20
    with raw.open("ab") as file:
        file.write(b'{"task_id": "sum/19", "sam')
    model = Oracle(suite)
    assert all_stages(tmp_path, model)["pass@1"] == 1.0
    assert model.asked == 20 - kept
    assert len(read_lines(raw)) == 20


def test_execution_resumes_and_follows_changed_samples(tmp_path: Path) -> None:
    suite = Sums()
    all_stages(tmp_path, Oracle(suite))
    judged: list[str] = []
    judge = suite.judge

    def counting(problem: Problem, completion: Any, execute: Executor) -> Outcome:
        judged.append(problem.task_id)
        return judge(problem, completion, execute)

    suite.judge = counting  # type: ignore[method-assign]
    outcomes = tmp_path / "outcomes.jsonl"
    lines = outcomes.read_bytes().splitlines(keepends=True)
    outcomes.write_bytes(b"".join(lines[:15]) + lines[15][:9])
    samples = read_lines(tmp_path / "samples.jsonl")
    samples[3]["completion"] = "7"
    (tmp_path / "samples.jsonl").write_text("".join(json.dumps(s) + "\n" for s in samples))
    run = Run(tmp_path, suite, model={"name": "oracle"})
    run.execute(None)  # type: ignore[arg-type]
    kept = {json.loads(line)["task_id"] for line in lines[:15]} - {"sum/3"}
    assert sorted(judged) == sorted({f"sum/{i}" for i in range(20)} - kept)
    assert run.score()["pass@1"] == 19 / 20


def test_sandbox_failures_are_left_out_counted_and_judged_again(tmp_path: Path) -> None:
    suite = Sums()
    all_stages(tmp_path, Oracle(suite))
    outcomes = read_lines(tmp_path / "outcomes.jsonl")
    outcomes[0] |= {"status": "error"}
    outcomes[1] |= {"status": "failed"}
    (tmp_path / "outcomes.jsonl").write_text("".join(json.dumps(o) + "\n" for o in outcomes))
    run = Run(tmp_path, suite, model={"name": "oracle"})
    result = run.score()
    assert result["unjudged"] == 1
    assert result["pass@1"] == pytest.approx(18 / 19)
    run.execute(None)  # type: ignore[arg-type]
    assert run.score()["pass@1"] == 19 / 20  # the error is gone, the failure was a verdict


def test_a_slow_answer_holds_up_no_others_line(tmp_path: Path) -> None:
    """What is ready is on disk, though the first question is still open."""
    gate = threading.Event()

    def work(item: int) -> int:
        if item == 0:
            assert gate.wait(10)
        return item

    seen = []
    for item, _ in Local(3)(work, range(9)):
        seen.append(item)
        if len(seen) == 8:
            gate.set()
    assert seen[-1] == 0 and len(seen) == 9


def test_a_folder_holds_one_run(tmp_path: Path) -> None:
    suite = Sums()
    all_stages(tmp_path, Oracle(suite))
    with pytest.raises(RequestError, match="another decoding"):
        Run(tmp_path, suite, model={"name": "oracle"}, decoding=Decoding(temperature=0.8))
    with pytest.raises(RequestError, match="another model"):
        Run(tmp_path, suite, model={"name": "else"})


@pytest.mark.parametrize(
    "text, problem",
    [
        ("", "no samples"),
        ("[1]\n", "line 1: an object"),
        ("nonsense\n", "line 1: not JSON"),
        ('{"task_id": "sum/99", "completion": "1"}\n', "record 1: needs a task_id of sums"),
        ('{"task_id": "sum/1"}\n', "completion"),
    ],
)
def test_bad_samples_say_which_line(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "samples.jsonl"
    path.write_text(text)
    run = Run(tmp_path / "run", Sums(), model={"samples": "x"})
    with pytest.raises(RequestError, match=problem):
        run.take_samples(path)


def test_given_samples_in_the_public_form(tmp_path: Path) -> None:
    path = tmp_path / "given.jsonl"
    lines = [{"task_id": "sum/1", "completion": c} for c in ("2", "3", "2")]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    run = Run(tmp_path / "run", Sums(), model={"samples": "given.jsonl"})
    run.take_samples(path)
    run.execute(None)  # type: ignore[arg-type]
    result = run.score()
    assert result["pass@1"] == pytest.approx(2 / 3)
    assert (result["n"], result["samples"]) == (1, 3)


def test_appender_drops_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a": 1}\n{"a"')
    with Appender(path) as file:
        file.write({"a": "é\ud800"})
    assert [record["a"] for record in read_lines(path)] == [1, "é?"]


def test_pass_at_k() -> None:
    assert pass_at_k(10, 3, 1) == pytest.approx(0.3)
    assert pass_at_k(4, 2, 2) == pytest.approx(1 - 1 / 6)
    assert pass_at_k(200, 199, 100) == 1.0
    assert pass_at_k(5, 0, 5) == 0.0


def test_bootstrap_covers_the_mean() -> None:
    values = [1.0] * 30 + [0.0] * 70
    low, high = bootstrap(values)
    assert 0.2 < low < 0.3 < high < 0.4
    assert bootstrap(values) == (low, high)


def test_local_fan_out_does_each_once_and_raises() -> None:
    assert sorted(Local(4)(lambda x: x * x, range(50))) == [(x, x * x) for x in range(50)]
    with pytest.raises(ZeroDivisionError):
        list(Local(4)(lambda x: 1 // x, [1, 0, 1]))


def test_unknown_suites_get_a_hint() -> None:
    with pytest.raises(NotFoundError, match="did you mean humaneval"):
        make_suite("humanevl", Data())
