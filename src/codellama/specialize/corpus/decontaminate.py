"""Nothing of an evaluation suite may be trained on.

A document is contaminated when it shares 10 successive words with an evaluation text (words are
runs of letters and digits, in lower case, as in Llama 2 and Qwen2.5-Coder), or, for Python, when
one of its functions is an evaluation function up to names, docstrings and layout.
"""

from __future__ import annotations

import ast
import hashlib
import re
import warnings
from collections.abc import Iterable, Iterator

__all__ = ["Decontaminator", "normalized_functions"]

_WORD = re.compile(r"[A-Za-z0-9]+")
WORDS = 10
_SMALLEST_BODY = 3  # statements: shorter functions are equal by chance


class Decontaminator:
    """Knows the evaluation texts by their 10-grams and functions.

    Args:
        texts: prompts, solutions, tests and suffixes, as the suites have them.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self._grams: set[int] = set()
        self._functions: set[str] = set()
        for text in texts:
            self._grams.update(_grams(text))
            self._functions.update(normalized_functions(text))

    def __len__(self) -> int:
        return len(self._grams)

    def reason(self, text: str, language: str) -> str | None:
        """Why the document is contaminated, None where it is not."""
        if any(gram in self._grams for gram in _grams(text)):
            return f"shares {WORDS} words with an evaluation"
        known = self._functions if language == "python" else set()
        if known and not known.isdisjoint(normalized_functions(text)):
            return "holds an evaluation's function"
        return None


def _grams(text: str) -> Iterator[int]:
    words = _WORD.findall(text.lower())
    for i in range(len(words) - WORDS + 1):
        yield hash(tuple(words[i : i + WORDS]))


def normalized_functions(text: str) -> set[str]:
    """Hashes of the text's Python functions with names numbered by first use, without docstrings
    and annotations; empty where the text is no Python.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return set()
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, functions):
            body = node.body[1:] if ast.get_docstring(node, clean=False) is not None else node.body
            if sum(isinstance(n, ast.stmt) for s in body for n in ast.walk(s)) >= _SMALLEST_BODY:
                found.add(_fingerprint(node, body))
    return found


def _fingerprint(function: ast.FunctionDef | ast.AsyncFunctionDef, body: list[ast.stmt]) -> str:
    names: dict[str, str] = {}

    def number(name: str) -> str:
        return names.setdefault(name, f"n{len(names)}")

    parts = [number(a.arg) for a in ast.walk(function.args) if isinstance(a, ast.arg)]
    for statement in body:
        for node in ast.walk(statement):
            parts.append(type(node).__name__)
            if isinstance(node, ast.Name):
                parts.append(number(node.id))
            elif isinstance(node, ast.arg):
                parts.append(number(node.arg))
            elif isinstance(node, ast.Attribute):
                parts.append(node.attr)
            elif isinstance(node, ast.Constant):
                parts.append(repr(node.value))
    return hashlib.sha256(" ".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:20]
