"""Where a middle lies: characters (the paper's), one whole line or some, the rest of a line, or
syntax nodes.

`draw_span` returns character offsets [begin, end). Syntax trees come from tree-sitter grammars
where one is installed for the language; other texts fall back to lines. Random numbers are taken
from the caller's generator, so that a span is a pure function of (recipe, document, epoch).
"""

from __future__ import annotations

import random
from functools import cache
from importlib import import_module
from typing import Any

from codellama.specialize.recipe import SpanKind

__all__ = ["GRAMMARS", "draw_span", "line_span", "node_spans"]

GRAMMARS = {
    "python": "tree_sitter_python",
    "javascript": "tree_sitter_javascript",
    "java": "tree_sitter_java",
    "c": "tree_sitter_c",
    "cpp": "tree_sitter_cpp",
    "go": "tree_sitter_go",
    "rust": "tree_sitter_rust",
    "bash": "tree_sitter_bash",
}
"""Language → the wheel's module that holds its grammar."""

_MOST_LINES = 4
"""A line span has 1 line half of the time, else 2 to this many: people's gaps are short."""

_LARGEST_PARSED = 200_000  # characters; beyond it a tree costs more than it teaches
_SMALLEST_NODE = 3  # characters; punctuation is no gap

Span = tuple[int, int]


def draw_span(kind: SpanKind, text: str, numbers: random.Random, language: str) -> Span:
    """Offsets of a middle of `kind` in `text`, which is not empty."""
    if kind == "characters":
        return character_span(text, numbers)
    if kind == "rest":
        return rest_span(text, numbers)
    if kind == "nodes":
        spans = node_spans(text, language)
        if spans:
            return spans[int(numbers.random() * len(spans))]
    return line_span(text, numbers, most=1 if kind == "line" else _MOST_LINES)


def character_span(text: str, numbers: random.Random) -> Span:
    """Two cuts, each uniform over the document's length, independently (paper §2.3)."""
    size = len(text) + 1
    cuts = sorted((int(numbers.random() * size), int(numbers.random() * size)))
    return cuts[0], cuts[1]


def line_span(text: str, numbers: random.Random, most: int = _MOST_LINES) -> Span:
    """Whole lines with their newline; the first one not blank where there is such a line."""
    lines = text.splitlines(keepends=True)
    full = [i for i, line in enumerate(lines) if line.strip()] or list(range(len(lines)))
    first = full[int(numbers.random() * len(full))]
    many, extra = numbers.random(), numbers.random()
    count = 1 if many < 0.5 or most == 1 else 2 + int(extra * (most - 1))
    begin = sum(map(len, lines[:first]))
    return begin, begin + sum(map(len, lines[first : first + count]))


def rest_span(text: str, numbers: random.Random) -> Span:
    """From inside a line to its end, without the newline: what a person at the keyboard asks."""
    lines = text.splitlines(keepends=True)
    full = [i for i, line in enumerate(lines) if line.strip()] or list(range(len(lines)))
    row = full[int(numbers.random() * len(full))]
    body = lines[row].rstrip("\r\n")
    begin = sum(map(len, lines[:row]))
    return begin + int(numbers.random() * len(body)), begin + len(body)


def node_spans(text: str, language: str) -> list[Span]:
    """Character offsets of the named nodes of the syntax tree, in preorder, the root left out;
    empty where there is no grammar or the text is too long.
    """
    parser = _parser(language) if len(text) <= _LARGEST_PARSED else None
    if parser is None:
        return []
    raw = text.encode("utf-8", "surrogatepass")
    to_char = _byte_to_character(text) if len(raw) != len(text) else None
    spans, stack = [], list(reversed(parser.parse(raw).root_node.named_children))
    while stack:
        node = stack.pop()
        begin, end = node.start_byte, node.end_byte
        if to_char is not None:
            begin, end = to_char[begin], to_char[end]
        if end - begin >= _SMALLEST_NODE:
            spans.append((begin, end))
            stack.extend(reversed(node.named_children))
    return spans


def _byte_to_character(text: str) -> list[int]:
    """Character index of every byte offset of the text's UTF-8, and of its end."""
    table: list[int] = []
    for index, character in enumerate(text):
        table += [index] * len(character.encode("utf-8", "surrogatepass"))
    return [*table, len(text)]


@cache
def _parser(language: str) -> Any:
    module = GRAMMARS.get(language)
    if module is None:
        return None
    try:
        from tree_sitter import Language, Parser

        return Parser(Language(import_module(module).language()))
    except ImportError:
        return None
