"""Files → units that fit a row of a small model: Python's functions and methods, each whole.

With files of thousands of tokens few documents fit a row, so few may be rearranged for infilling;
functions all do, and the rate that the recipe names is the rate that is trained.
"""

from __future__ import annotations

import ast
import textwrap
import warnings
from collections.abc import Iterator

__all__ = ["definitions"]


def definitions(text: str, *, smallest: int = 120, largest: int = 1600) -> Iterator[str]:
    """Functions and methods of a Python file, dedented, decorators and comments above included,
    of `smallest` to `largest` characters; nothing where the file does not parse.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return
    lines = [line + "\n" for line in text.split("\n")]  # not splitlines: it also cuts at form feeds
    for node in _functions(tree):
        first = min([node.lineno, *(d.lineno for d in node.decorator_list)]) - 1
        while first > 0 and lines[first - 1].lstrip().startswith("#"):
            first -= 1
        unit = textwrap.dedent("".join(lines[first : node.end_lineno]))
        if smallest <= len(unit) <= largest and len(node.body) + _has_docstring(node) > 1:
            yield unit.rstrip() + "\n"


def _has_docstring(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return ast.get_docstring(node, clean=False) is not None


def _functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Of modules and classes; not functions inside functions."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node
        elif isinstance(node, ast.ClassDef | ast.If | ast.Try):
            yield from _functions(node)
