"""How much of each benchmark is in a training corpus: shared word n-grams, and Python functions
that are the same but for names, docstrings and layout.

Reported beside scores, never subtracted from them. Finds copies and renamed copies; a paraphrase or
a translation it does not find.
"""

from __future__ import annotations

import ast
import gzip
import hashlib
import json
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from codellama.errors import NotFoundError, RequestError
from codellama.evaluate.suite import Problem, Suite

__all__ = ["Overlap", "documents", "functions", "overlaps"]

KEPT = "kept.jsonl.gz"  # of a built corpus: what is trained on
N = 10  # words, as Llama 2 and Qwen2.5-Coder count
BOILERPLATE = 5  # a gram of so many problems of one suite is its frame, not a problem
SMALLEST = 3  # statements: shorter functions are equal by chance
SUSPECT = 0.5  # of a problem's grams
WORD = re.compile(r"\w+")


@dataclass(slots=True)
class Overlap:
    """One suite against the corpus.

    Attributes:
        problems: all; `touched` share at least one gram; `mostly` share half of theirs or more;
            `same_function` have a reference function in the corpus.
        share: mean share of a problem's grams.
        examples: (problem, document), for a person to look at.
    """

    suite: str
    problems: int = 0
    touched: int = 0
    mostly: int = 0
    same_function: int = 0
    share: float = 0.0
    examples: list[tuple[str, str]] = field(default_factory=list)


def overlaps(corpus: Iterable[tuple[str, str]], suites: Sequence[Suite]) -> list[Overlap]:
    """Every suite against (name, text) documents, read once."""
    entries = [_entry(suite, problem) for suite in suites for problem in suite.problems()]
    _drop_boilerplate(entries)
    wanted = {gram for entry in entries for gram in entry.grams}
    known = {shape for entry in entries for shape in entry.shapes}
    found: dict[int, str] = {}
    shapes: dict[str, str] = {}
    for name, text in corpus:
        for gram in _grams(text):
            if gram in wanted:
                found.setdefault(gram, name)
        if known and "def " in text:
            for shape in functions(text) & known:
                shapes.setdefault(shape, name)
    return [_sum_up(suite, entries, found, shapes) for suite in suites]


@dataclass(slots=True)
class _Entry:
    suite: str
    task_id: str
    grams: set[int]
    shapes: set[str]


def _entry(suite: Suite, problem: Problem) -> _Entry:
    data = problem.data
    parts = [str(data.get("text") or problem.prompt)]
    code = ""
    if isinstance(data.get("code"), str):
        code = data["code"]
    elif isinstance(data.get("canonical_solution"), str):
        code = problem.prompt + data["canonical_solution"] + str(data.get("suffix", ""))
        parts = []
    parts.append(code)
    grams = {gram for part in parts for gram in _grams(part)}
    return _Entry(suite.name, problem.task_id, grams, functions(code))


def _drop_boilerplate(entries: list[_Entry]) -> None:
    """Infilling suites cut one program many ways: a problem is a program here."""
    seen: dict[int, set[str]] = {}
    for entry in entries:
        for gram in entry.grams:
            seen.setdefault(gram, set()).add(_root(entry.task_id))
    frames = {gram for gram, roots in seen.items() if len(roots) >= BOILERPLATE}
    for entry in entries:
        entry.grams -= frames


def _root(task_id: str) -> str:
    numbers = re.findall(r"HumanEval[/_](\d+)", task_id)
    return numbers[0] if numbers else task_id


def _sum_up(
    suite: Suite, entries: list[_Entry], found: dict[int, str], shapes: dict[str, str]
) -> Overlap:
    result = Overlap(suite.name)
    total = 0.0
    for entry in entries:
        if entry.suite != suite.name:
            continue
        hits = entry.grams & found.keys()
        same = entry.shapes & shapes.keys()
        share = len(hits) / len(entry.grams) if entry.grams else 0.0
        result.problems += 1
        result.touched += bool(hits)
        result.mostly += share >= SUSPECT
        result.same_function += bool(same)
        total += share
        if (share >= SUSPECT or same) and len(result.examples) < 20:
            where = Counter(found[gram] for gram in hits) or Counter(shapes[s] for s in same)
            result.examples.append((entry.task_id, where.most_common(1)[0][0]))
    result.share = total / max(result.problems, 1)
    return result


def _grams(text: str) -> Iterator[int]:
    words = WORD.findall(text.lower())
    for i in range(len(words) - N + 1):
        digest = hashlib.blake2b(
            " ".join(words[i : i + N]).encode("utf-8", "replace"), digest_size=8
        )
        yield int.from_bytes(digest.digest())


def functions(text: str) -> set[str]:
    """Hashes of a Python text's functions, with names numbered by first use and without docstrings
    and annotations; empty where it is no Python.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            tree = ast.parse(text)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return set()
    try:
        return {
            hashlib.sha256(_shape(node).encode()).hexdigest()
            for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef) and _statements(node) >= SMALLEST
        }
    except RecursionError:
        return set()


def _statements(node: ast.FunctionDef) -> int:
    return sum(isinstance(each, ast.stmt) for each in ast.walk(node)) - 1 - _has_docstring(node)


def _has_docstring(node: ast.FunctionDef) -> bool:
    return ast.get_docstring(node, clean=False) is not None


def _shape(function: ast.FunctionDef) -> str:
    """The function's tree as text."""
    numbers: dict[str, int] = {}

    def name(text: str) -> str:
        return f"v{numbers.setdefault(text, len(numbers))}"

    def dump(node: Any) -> str:
        if isinstance(node, list):
            return f"[{','.join(map(dump, node))}]"
        if not isinstance(node, ast.AST):
            return repr(node)
        body = getattr(node, "body", None)
        parts = []
        for key, value in ast.iter_fields(node):
            if key in ("annotation", "returns", "type_comment", "kind", "ctx", "type_params"):
                continue
            if key == "body" and isinstance(node, ast.FunctionDef) and _has_docstring(node):
                value = body[1:] if isinstance(body, list) else value
            if isinstance(value, str) and key in ("id", "arg", "name"):
                value = name(value)
            parts.append(dump(value))
        return f"{type(node).__name__}({','.join(parts)})"

    return dump(function)


def documents(path: Path) -> Iterator[tuple[str, str]]:
    """(name, text) of a corpus: a folder of text files or one of `codellama corpus build`, or JSON
    Lines (plain or gzipped) with "text" or "content".

    Raises:
        NotFoundError: no such path.
        RequestError: a line without a text, by number.
    """
    if (path / "manifest.json").is_file() and (path / KEPT).is_file():
        path = path / KEPT
    if path.is_dir():
        for each in sorted(path.rglob("*")):
            if each.is_file() and not each.is_symlink():
                yield str(each.relative_to(path)), each.read_text("utf-8", errors="replace")
        return
    if not path.is_file():
        raise NotFoundError(f"{path}: no such file or folder")
    opener: Any = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                record = json.loads(line)
                text = record.get("text", record.get("content"))
            except (ValueError, AttributeError):
                text = None
            if not isinstance(text, str):
                raise RequestError(f'{path}, line {number}: an object with "text" is needed')
            yield str(record.get("path") or record.get("name") or f"line {number}"), text
