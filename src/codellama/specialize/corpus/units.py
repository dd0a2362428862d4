"""Files → units that fit a row of a small model: Python's functions and methods, each whole.

With files of thousands of tokens few documents fit a row, so few may be rearranged for infilling;
functions all do, and the rate that the recipe names is the rate that is trained. `standalone` keeps
those that need little but the language: what people ask a small model for, and what it can learn
from the text alone.
"""

from __future__ import annotations

import ast
import builtins
import sys
import textwrap
import warnings
from collections.abc import Callable, Iterator

__all__ = ["UNITS", "definitions", "standalone"]

Function = ast.FunctionDef | ast.AsyncFunctionDef

_BUILTINS = frozenset(dir(builtins)) | {"__name__", "__file__"}
_USUAL = frozenset({"numpy"})  # modules beside the standard library's


def definitions(text: str, *, smallest: int = 120, largest: int = 1600) -> Iterator[str]:
    """Functions and methods of a Python file, dedented, decorators and comments above included,
    of `smallest` to `largest` characters; nothing where the file does not parse.
    """
    tree = _parsed(text)
    if tree is None:
        return
    lines = _lines(text)
    for node in _functions(tree):
        unit = _source(node, lines)
        if _fits(node, unit, smallest, largest):
            yield unit


def standalone(
    text: str, *, smallest: int = 120, largest: int = 1600, foreign: int = 1
) -> Iterator[str]:
    """Functions of a Python module that use builtins, what they import and the standard library,
    under the module's imports that they need; nothing where the file does not parse.

    Args:
        foreign: how many other names each may use.

    >>> list(standalone("import math\\ndef area(r):\\n    return math.pi * r\\n", smallest=1))
    []
    >>> module = 'import math\\ndef area(r):\\n    "Of a circle."\\n    return math.pi * r * r\\n'
    >>> print(*standalone(module, smallest=1))
    import math
    <BLANKLINE>
    <BLANKLINE>
    def area(r):
        "Of a circle."
        return math.pi * r * r
    <BLANKLINE>
    """
    tree = _parsed(text)
    if tree is None:
        return
    lines, imports = _lines(text), _imports(tree)
    for node in _functions(tree, classes=False):
        names = _free_names(node)
        if sum(name not in imports for name in names) > foreign:
            continue
        used = sorted({imports[name] for name in names if name in imports})
        unit = _source(node, lines)
        if _fits(node, unit, smallest, largest):
            yield "\n".join([*used, "\n", unit]) if used else unit


UNITS: dict[str, Callable[[str], Iterator[str]]] = {
    "definition": definitions,
    "standalone": standalone,
}
"""Name of a unit → the units of a Python file."""


def _parsed(text: str) -> ast.Module | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _lines(text: str) -> list[str]:
    return [line + "\n" for line in text.split("\n")]  # not splitlines: it also cuts at form feeds


def _source(node: Function, lines: list[str]) -> str:
    """With the decorators and the comments right above."""
    first = min([node.lineno, *(d.lineno for d in node.decorator_list)]) - 1
    while first > 0 and lines[first - 1].lstrip().startswith("#"):
        first -= 1
    return textwrap.dedent("".join(lines[first : node.end_lineno])).rstrip() + "\n"


def _fits(node: Function, unit: str, smallest: int, largest: int) -> bool:
    """By its size, and that it has two statements or a docstring and one."""
    return smallest <= len(unit) <= largest and len(node.body) + _has_docstring(node) > 1


def _has_docstring(node: Function) -> bool:
    return ast.get_docstring(node, clean=False) is not None


def _functions(tree: ast.AST, *, classes: bool = True) -> Iterator[Function]:
    """Of modules and classes; not functions inside functions."""
    within: tuple[type[ast.AST], ...] = (ast.If, ast.Try)
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, Function):
            yield node
        elif isinstance(node, (*within, ast.ClassDef) if classes else within):
            yield from _functions(node, classes=classes)


def _imports(tree: ast.Module) -> dict[str, str]:
    """Name → the statement that brings it, of a module's imports from usual modules."""
    found = {}
    for node in tree.body:
        if isinstance(node, ast.Import):
            found.update(
                {
                    alias.asname or alias.name.partition(".")[0]: f"import {_written(alias)}"
                    for alias in node.names
                    if _is_usual(alias.name)
                }
            )
        elif isinstance(node, ast.ImportFrom) and not node.level and _is_usual(node.module or ""):
            found.update(
                {
                    alias.asname or alias.name: f"from {node.module} import {_written(alias)}"
                    for alias in node.names
                }
            )
    return found


def _written(alias: ast.alias) -> str:
    return alias.name + (f" as {alias.asname}" if alias.asname else "")


def _is_usual(module: str) -> bool:
    top = module.partition(".")[0]
    return top in sys.stdlib_module_names or top in _USUAL


def _free_names(node: Function) -> set[str]:
    """Names that it reads and nothing inside it binds: builtins aside."""
    read: set[str] = set()
    bound = {node.name}
    for inner in ast.walk(node):
        if isinstance(inner, ast.Name):
            (read if isinstance(inner.ctx, ast.Load) else bound).add(inner.id)
        elif isinstance(inner, ast.arg):
            bound.add(inner.arg)
        elif isinstance(inner, Function | ast.ClassDef):
            bound.add(inner.name)
        elif isinstance(inner, ast.alias):
            bound.add(inner.asname or inner.name.partition(".")[0])
        elif isinstance(inner, ast.ExceptHandler) and inner.name:
            bound.add(inner.name)
    return read - bound - _BUILTINS
