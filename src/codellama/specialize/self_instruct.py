"""Self-instruct with execution (paper §2.5): questions → tests → solutions; the first solution that
passes its tests is kept.

    questions  asked of one model, exact duplicates removed
    tests      written by another, between [TESTS] and [/TESTS]
    solutions  n a question, between [PYTHON] and [/PYTHON], one test shown
    kept       the first whose function passes all tests

`generate` and `execute` are passed in: any engine or URL, and any sandbox. Nothing is executed
here. The prompts have the paper's shape (Figures 9 to 11) in our own words. Raw answers are on the
disk before a question counts as done; a run that is killed asks again only what was in flight.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from codellama.specialize.jsonl import append_row, read_rows
from codellama.weights.files import atomic_file

__all__ = [
    "Funnel", "Triple", "make_instructions", "parse_questions", "parse_tests",
    "write_conversations",
]  # fmt: skip

Generate = Callable[[str, int, int], list[str]]
"""(prompt, how many, first) → its answers number first, first + 1, …: the same for the same
numbers, others for others. Called from several threads."""

Execute = Callable[[str, Sequence[str]], bool]
"""(a solution, assert statements) → whether all hold, found out in a sandbox."""

_SEEDS = (
    "Write a Python function that returns the two largest numbers of a list.",
    "Write a Python function that tells whether the brackets of a string are balanced.",
    "Write a Python function that groups words by their sorted letters.",
    "Write a Python function that merges two sorted lists into one.",
    "Write a Python function that finds the first character of a string that occurs once.",
)
QUESTIONS = (
    "Think of {count} programming exercises, easy and of medium difficulty, each of which one "
    "Python function solves.\nWrite one a line, numbered, without solutions. For example:\n"
    "{seeds}\n"
)
TESTS = (
    "Write 3 tests for a function that solves a programming problem, as assert statements between "
    "[TESTS] and [/TESTS], one a line.\n\n"
    "Problem: Write a Python function that adds two numbers.\n"
    "[TESTS]\nassert add_numbers(1, 2) == 3\nassert add_numbers(-1, 1) == 0\n"
    "assert add_numbers(0, 0) == 0\n[/TESTS]\n\nProblem: {question}\n"
)
SOLUTION = (
    "Write a Python function that solves a programming problem, between [PYTHON] and [/PYTHON]. "
    "One test shows its name and arguments.\n\n"
    "Problem: Write a Python function that adds two numbers.\n"
    "Test: assert add_numbers(1, 2) == 3\n"
    "[PYTHON]\ndef add_numbers(a, b):\n    return a + b\n[/PYTHON]\n\n"
    "Problem: {question}\nTest: {test}\n"
)
_NUMBERED = re.compile(r"^\s*(?:\d{1,3}[.)]|[-*])\s+(.{15,400}?)\s*$", re.MULTILINE)
_BETWEEN = r"\[{0}\](.*?)(?:\[/{0}\]|\Z)"
_MOST_TESTS = 10


@dataclass(frozen=True, slots=True)
class Triple:
    """A question, its tests, and a solution that passes them."""

    question: str
    tests: tuple[str, ...]
    solution: str

    @property
    def messages(self) -> tuple[tuple[str, str], ...]:
        """As an instruction example."""
        answer = f"[PYTHON]\n{self.solution.strip()}\n[/PYTHON]"
        return (("user", self.question), ("assistant", answer))


@dataclass(slots=True)
class Funnel:
    """How many are left after every step (the paper: 62,000 → 52,000 → 14,000)."""

    questions: int = 0
    unique: int = 0
    with_tests: int = 0
    solutions: int = 0
    solved: int = 0
    triples: list[Triple] = field(default_factory=list)

    def counts(self) -> dict[str, int]:
        return {k: v for k, v in asdict(self).items() if isinstance(v, int)}


def make_instructions(
    generate: Generate,
    execute: Execute,
    folder: Path,
    *,
    questions: int,
    solutions: int = 10,
    per_prompt: int = 50,
    seed: int = 0,
    workers: int = 1,
    ask: Generate | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Funnel:
    """Ask, deduplicate, test, solve, run, keep; everything in `folder`, which resumes.

    Args:
        questions: to ask for; some come twice.
        solutions: tried per question, until one passes.
        workers: questions at once.
        ask: who writes the questions, if not `generate` (the paper: Llama 2 70B, and Code Llama 7B
            for the rest).
        on_progress: called with (questions done, all).
    """
    folder.mkdir(parents=True, exist_ok=True)
    funnel = Funnel()
    asked = _questions(ask or generate, folder / "questions.jsonl", questions, per_prompt)
    funnel.questions = len(asked)
    unique = list(dict.fromkeys(" ".join(question.split()) for question in asked))
    funnel.unique = len(unique)
    log = folder / "attempts.jsonl"
    known = {entry["question"]: entry for entry in read_rows(log)}
    left = [question for question in unique if question not in known]
    attempts = _spread(
        lambda question: _attempt(generate, execute, question, solutions, seed), left, workers
    )
    for done, entry in enumerate(attempts, len(unique) - len(left) + 1):
        append_row(log, entry)
        known[entry["question"]] = entry
        if on_progress is not None:
            on_progress(done, len(unique))
    for question in unique:
        entry = known[question]
        funnel.with_tests += bool(entry["tests"])
        funnel.solutions += entry["tried"]
        if entry["solution"] is not None:
            funnel.solved += 1
            funnel.triples.append(Triple(question, tuple(entry["tests"]), entry["solution"]))
    return funnel


def write_conversations(triples: Iterable[Triple], path: Path, license: str = "unknown") -> None:
    """JSON Lines with `messages`, as corpora and other trainers read them; whole or not at all."""
    lines = []
    for triple in triples:
        messages = [{"role": role, "content": text} for role, text in triple.messages]
        row = {"messages": messages, "tests": triple.tests, "license": license}
        lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    atomic_file(path, "".join(lines).encode())


def _spread(
    work: Callable[[str], dict[str, Any]], items: Sequence[str], workers: int
) -> Iterator[dict[str, Any]]:
    """Results as they are ready; what is running when one raises is waited for, and lost."""
    left = iter(items)
    running: set[Future[dict[str, Any]]] = set()
    with ThreadPoolExecutor(max(1, workers)) as pool:
        while True:
            for item in left:
                running.add(pool.submit(work, item))
                if len(running) >= max(1, workers):
                    break
            if not running:
                return
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()


def _questions(generate: Generate, log: Path, wanted: int, per_prompt: int) -> list[str]:
    prompt = QUESTIONS.format(
        count=per_prompt, seeds="\n".join(f"{i}. {q}" for i, q in enumerate(_SEEDS, 1))
    )
    raws = [str(entry["raw"]) for entry in read_rows(log)]
    found = [question for raw in raws for question in parse_questions(raw)]
    number, most = len(raws), 2 + 4 * wanted // per_prompt
    while len(found) < wanted and number < most:
        (raw,) = generate(prompt, 1, number)
        append_row(log, {"raw": raw})
        found += parse_questions(raw)
        number += 1
    return found[:wanted]


def _attempt(
    generate: Generate, execute: Execute, question: str, solutions: int, seed: int
) -> dict[str, Any]:
    """Tests, then solutions until one passes; as it is logged."""
    raw_tests = generate(TESTS.format(question=question), 1, 0)
    tests = parse_tests(raw_tests[0]) if raw_tests else []
    entry: dict[str, Any] = {
        "question": question, "raw_tests": raw_tests, "tests": tests, "tried": 0,
        "raw_solutions": [], "solution": None,
    }  # fmt: skip
    if not tests:
        return entry
    shown = tests[int(random.Random(f"{seed}\0{question}").random() * len(tests))]
    raw = generate(SOLUTION.format(question=question, test=shown), solutions, 0)
    entry["raw_solutions"] = raw
    for tried, answer in enumerate(raw, 1):
        entry["tried"] = tried
        code = _between("PYTHON", answer)
        if code and execute(code + "\n", tests):
            entry["solution"] = code
            break
    return entry


def parse_questions(text: str) -> list[str]:
    """The items of a numbered or dotted list.

    >>> parse_questions("1. Write a function that sorts.\\nnot this\\n2) Write one that counts.")
    ['Write a function that sorts.', 'Write one that counts.']
    """
    return _NUMBERED.findall(text)


def parse_tests(text: str) -> list[str]:
    """The assert lines between [TESTS] and [/TESTS] that are valid Python, at most ten."""
    found = []
    for line in _between("TESTS", text).splitlines():
        line = line.strip()
        if line.startswith("assert ") and _compiles(line):
            found.append(line)
    return found[:_MOST_TESTS]


def _between(tag: str, text: str) -> str:
    """What is between [TAG] and [/TAG]; an answer may begin after the opening tag of its prompt."""
    if f"[{tag}]" not in text:
        text = f"[{tag}]{text}" if f"[/{tag}]" in text else ""
    match = re.search(_BETWEEN.format(tag), text, re.DOTALL)
    return match[1].strip() if match else ""


def _compiles(line: str) -> bool:
    try:
        compile(line, "test", "exec")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True
