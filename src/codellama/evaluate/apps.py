"""APPS: contest problems by their hidden tests, 2-shot (paper §3.1 and appendix E, Tables 3 and
15; Hendrycks et al. 2021). The problems are the user's to download."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from codellama.errors import RequestError
from codellama.evaluate.asks import Ask, Continue, Raw, Talk
from codellama.evaluate.data import Data
from codellama.evaluate.python_judge import PythonProgram
from codellama.evaluate.sandbox import PYTHON, Limits
from codellama.evaluate.suite import Executor, Outcome, Problem, Suite
from codellama.evaluate.verdicts import Status, Verdict

__all__ = ["Apps"]

STDIN = "read from and write to standard IO"
CALL = "use the provided function signature"
TASK = (
    "Write a python code to solve the following coding problem that obeys the constraints and "
    "passes the example test cases. The output code needs to {guide}. Please wrap your code answer "
    "using ```:\n{problem}"
)
LEVELS = ("introductory", "interview", "competition")
# Contest solutions take what the contest gave them.
LIMITS = Limits(cpu_s=4, wall_s=16)
PRELUDE = (
    "from typing import *\nimport sys, math, re, itertools, collections, functools, heapq, bisect, "
    "random, string, operator\nfrom collections import *\nfrom itertools import *\n"
    "from functools import *\nfrom heapq import *\nfrom bisect import *\nfrom math import *\n"
    "sys.setrecursionlimit(10000)\n"
)
# Two problems of our own, in the data set's two kinds: which ones the paper showed is not stated.
SHOTS = (
    (
        STDIN,
        "Given n and then n integers, print their sum.\n\n-----Example-----\nInput\n3\n1 2 3\n"
        "Output\n6\n",
        "n = int(input())\nprint(sum(map(int, input().split())))",
    ),
    (
        CALL,
        "Given a list of integers, return the largest one.\n\nclass Solution:\n"
        "    def largest(self, nums: List[int]) -> int:\n",
        "class Solution:\n    def largest(self, nums: List[int]) -> int:\n        return max(nums)",
    ),
)


class Apps(Suite):
    """One split and level; `apps` is the test split's three levels together."""

    name = "apps"
    title = "APPS, 2-shot"
    table = "Table 3"
    folder = "apps/test"
    instruct = False

    def __init__(self, data: Data, *rest: Any) -> None:
        super().__init__(*rest)
        self.data = data

    def problems(self) -> list[Problem]:
        root = self.data.folder_of(self.folder)
        return [read_problem(path) for path in sorted(root.iterdir()) if path.is_dir()]

    def ask(self, problem: Problem) -> Ask:
        longest = self.options.max_tokens or 1024
        task = TASK.format(guide=problem.data["guide"], problem=problem.prompt)
        if self.instruct:
            return Talk((("user", task),), (), longest)
        shots = "".join(
            f"Q: {TASK.format(guide=guide, problem=text)}\nA: ```\n{answer}\n```\n\n"
            for guide, text, answer in SHOTS
        )
        return Continue(f"{shots}Q: {task}\nA:", ("\nQ:",), longest)

    def extract(self, problem: Problem, raw: Raw) -> str:
        assert isinstance(raw, str)
        fenced = re.search(r"```(?:python)?\n?(.*?)(?:```|\Z)", raw, re.DOTALL)
        return fenced[1] if fenced else raw

    def judge(self, problem: Problem, completion: Any, execute: Executor) -> Outcome:
        cases = problem.data["cases"]
        if not cases["inputs"]:
            return Outcome(Verdict("error", "this problem has no tests"))
        run = call_cases if cases.get("fn_name") else stdin_cases
        verdict = run(PRELUDE + str(completion), cases, execute)
        level = problem.data["level"]
        return Outcome(verdict, {level: float(verdict.passed)})

    def score(self, problems: Any, outcomes: Any) -> dict[str, Any]:
        figures: dict[str, Any] = super().score(problems, outcomes)
        levels = {problem.task_id: problem.data["level"] for problem in problems}
        for level in LEVELS:
            own = {task: each for task, each in outcomes.items() if levels[task] == level}
            if own:
                rates = super().score(problems, own)
                figures |= {f"{level} {key}": value for key, value in rates.items()}
        return figures

    def oracle(self, problem: Problem) -> Raw:
        return f" ```\n{problem.data['solutions'][0]}\n```"

    def wrong(self, problem: Problem) -> Raw:
        return " ```\nprint('no')\nclass Solution: pass\n```"


class AppsInstruct(Apps):
    """0-shot, in the chat format (Figure 13)."""

    name = "apps-instruct"
    title = "APPS, 0-shot, instruct"
    table = "Table 15"
    instruct = True


def read_problem(folder: Path) -> Problem:
    """One problem's folder, as the data set lays it out.

    Raises:
        RequestError: a file is missing or damaged.
    """
    try:
        text = (folder / "question.txt").read_text()
        cases = _json(folder / "input_output.json", {"inputs": [], "outputs": []})
        solutions = _json(folder / "solutions.json", [])
        level = _json(folder / "metadata.json", {}).get("difficulty", "unknown")
        starter = folder / "starter_code.py"
        if starter.exists():
            text += f"\n\n{starter.read_text()}\n"
    except (OSError, ValueError) as error:
        raise RequestError(f"{folder} is not a problem of APPS: {error}") from None
    guide = CALL if starter.exists() else STDIN
    record = {"guide": guide, "cases": cases, "solutions": solutions, "level": level}
    return Problem(f"apps/{folder.name}", text, record)


def _json(path: Path, default: Any) -> Any:
    return json.loads(path.read_text()) if path.exists() else default


def stdin_cases(code: str, cases: dict[str, Any], execute: Executor) -> Verdict:
    """Every input in a box of its own; the outputs never enter one."""
    wall = 0.0
    for given, wanted in zip(cases["inputs"], cases["outputs"], strict=True):
        ended = execute.command(
            [PYTHON, "-I", "-S", "-B", "/tmp/box/program.py"],
            files={"program.py": code},
            stdin=lines_of(given).encode(),
            limits=LIMITS,
        )
        wall += ended.wall_s
        kinds: dict[str, Status] = {"not started": "error", "cpu": "timeout", "wall": "timeout"}
        if ended.status != "exited":
            status = kinds.get(ended.status, "memory" if ended.status == "memory" else "output")
            return Verdict(status, ended.stderr[-2000:], wall)
        if ended.code or ended.stdout.split() != lines_of(wanted).split():
            said = ended.stderr or f"printed {ended.stdout[:200]!r}, not {lines_of(wanted)[:200]!r}"
            return Verdict("failed", said[-2000:], wall)
    return Verdict("passed", "", wall)


def lines_of(value: Any) -> str:
    """Inputs and outputs are texts, or lists of lines."""
    return value if isinstance(value, str) else "\n".join(map(str, value))


def call_cases(code: str, cases: dict[str, Any], execute: Executor) -> Verdict:
    """Calls of a method of Solution, or of a function; tests stay outside the candidate's box."""
    name = cases["fn_name"]
    code += f"\ntry:\n    TheCall = Solution().{name}\nexcept NameError:\n    TheCall = {name}\n"
    tests = [
        "def same(got, want):",
        "    plain = lambda x: [plain(y) for y in x] if isinstance(x, (list, tuple)) else x",
        "    return plain(got) == plain(want) or (isinstance(want, list) and len(want) == 1",
        "                                         and plain(got) == plain(want[0]))",
    ]
    for given, wanted in zip(cases["inputs"], cases["outputs"], strict=True):
        tests.append(f"assert same(TheCall(*{given!r}), {wanted!r})")
    return execute.python(PythonProgram(code, "\n".join(tests), ("TheCall",)), LIMITS)
