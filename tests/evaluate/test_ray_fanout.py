"""A local Ray with two workers, one of which is killed midway: the same results."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from codellama.evaluate.data import Data
from codellama.evaluate.executor import SandboxExecutor
from codellama.evaluate.fanout import Local
from codellama.evaluate.run import Judge
from codellama.evaluate.suites import make_suite

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),
]


@pytest.fixture(scope="module")
def fan_out() -> Iterator[object]:
    ray = pytest.importorskip("ray", reason="the extra `cluster` is not installed")
    from codellama.evaluate.ray_fanout import RayFanOut

    yield RayFanOut(workers=2)
    ray.shutdown()


class Slow:
    """Notes the process that it runs in, then squares."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, item: int) -> int:
        (self.folder / f"{item}-{os.getpid()}").touch()
        time.sleep(0.2)
        return item * item


def test_a_killed_worker_changes_nothing(fan_out: object, tmp_path: Path) -> None:
    work, items, killed = Slow(tmp_path), list(range(24)), None
    results = []
    for item, result in fan_out(work, items):  # type: ignore[operator]
        results.append((item, result))
        if len(results) == 6:
            killed = max(int(path.name.split("-")[1]) for path in tmp_path.iterdir())
            os.kill(killed, signal.SIGKILL)
    assert sorted(results) == [(i, i * i) for i in items]
    workers = {int(path.name.split("-")[1]) for path in tmp_path.iterdir()}
    assert len(workers) >= 3, f"{killed} was replaced"


def test_judging_over_the_cluster_is_judging_here(
    fan_out: object, executor: SandboxExecutor
) -> None:
    suite = make_suite("humaneval", Data())
    problems = suite.problems()[:12]
    samples = [
        {"task_id": p.task_id, "sample": 0, "completion": suite.oracle(p) if i % 3 else "    pass"}
        for i, p in enumerate(problems)
    ]
    judge = Judge(suite, {p.task_id: p for p in problems}, executor)
    there = {s["task_id"]: o.verdict.status for s, o in fan_out(judge, samples)}  # type: ignore[operator]
    here = {s["task_id"]: o.verdict.status for s, o in Local(3)(judge, samples)}
    assert there == here
    assert [there[p.task_id] for p in problems] == ["failed", "passed", "passed"] * 4


@pytest.mark.weights
def test_generating_over_the_cluster_is_generating_here(
    fan_out: object, smollm2_path: Path, tmp_path: Path
) -> None:
    from codellama.cli.evaluation_models import LazyModel
    from codellama.evaluate.run import Run
    from codellama.evaluate.suite import Options

    for name, spread in (("here", None), ("there", fan_out)):
        model = LazyModel(str(smollm2_path), context=1024, threads=1)
        suite = make_suite("humaneval", Data(), Options(limit=4, max_tokens=8), model)
        run = Run(tmp_path / name, suite, model=model.identity(), n=2)
        run.generate(model, spread)  # type: ignore[arg-type]
        run.extract()
    here, there = ((tmp_path / name / "samples.jsonl").read_bytes() for name in ("here", "there"))
    assert here == there
    assert here.count(b"\n") == 8
