"""Judging many answers at once, for the evaluation tests."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from codellama.evaluate.executor import SandboxExecutor
from codellama.evaluate.suite import Problem, Suite


def judge_all(
    suite: Suite, problems: list[Problem], executor: SandboxExecutor, wrong: bool = False
) -> dict[str, str]:
    """Verdicts of the oracle's (or wrong) answers, by task."""

    def one(problem: Problem) -> tuple[str, str]:
        raw = suite.wrong(problem) if wrong else suite.oracle(problem)
        outcome = suite.judge(problem, suite.extract(problem, raw), executor)
        return problem.task_id, outcome.verdict.status

    with ThreadPoolExecutor(3) as pool:
        return dict(pool.map(one, problems))
