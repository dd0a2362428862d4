"""Beginnings of Python: no cut of a real file is taken for a dead end, and dead ends are found."""

from __future__ import annotations

import random
import warnings
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codellama.engine.python_gap import parses
from codellama.engine.python_prefix import can_go_on

FILES = sorted(Path(random.__file__).parent.glob("*.py"))


def test_every_cut_of_a_file_can_go_on() -> None:
    """300 cuts anywhere, inside words and strings too, in the standard library's smaller files."""
    chance = random.Random(7)
    small = [path for path in FILES if path.stat().st_size < 12_000]
    cuts = 0
    while cuts < 300:
        text = chance.choice(small).read_text(encoding="utf-8", errors="replace")
        if parses(text):
            cut = chance.randrange(len(text) + 1)
            assert can_go_on(text[:cut]), text[max(0, cut - 80) : cut]
            cuts += 1


DEAD = [
    "x = = 1", "x = =", "x = 1 foo ", "x = 1 2", "a)", "print())", "x = [1, 2)", "x = 'a\n",
    "if x:\ny", "def f():\n  a\n b ", "else:", "def f(:", "import 3", "1 = x\n", "x +* y",
    "try:\n  x\ny = 1", "for x of y", "class A\n", "return )", "f(a b ", "  x\n y\n",
]  # fmt: skip


@pytest.mark.parametrize("text", DEAD)
def test_dead_ends(text: str) -> None:
    assert not can_go_on(text)
    assert not can_go_on("import os\n\n" + text)


ALIVE = [
    "", "x = fo", "for i in", "x if y", "x if y el", "def", "from ", "from a", "@dec\n", "x = not",
    "x = 'a", "x = \"\"\"a\n'b", "f'{x", "rb", "x = 1e", "x = 0x", "(a :", "x = *", "a !",
    "async", "lambda", "match x:\n    ca", "x = 1 i", "# a", "x \\", "x = '\\'", "with a as",
    "if x:\n", "def f():\n    ", "def f():\n  a\n ", "try:\n  x\n", "{'a':", "a.", "é",
]  # fmt: skip


@pytest.mark.parametrize("text", ALIVE)
def test_unfinished_texts(text: str) -> None:
    assert can_go_on(text)


PIECES = st.sampled_from(
    [
        "x", " ", "=", "(", ")", "[", "]", "\n", "    ", "if ", "else", ":", "'", '"', "#", "\\",
        "1", '"""', "def f", "\0", "é", "{", "}", ",", "\t", "\r", "\f", "lambda", "import ", "rb'",
    ]
)  # fmt: skip


@given(st.lists(PIECES, max_size=14).map("".join))
def test_any_text_has_an_answer_and_files_that_parse_can_go_on(text: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = can_go_on(text)
    assert found or not parses(text)
