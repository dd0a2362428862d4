"""What a model writes itself: rows of every kind, a kill at any byte, a corpus of them."""

from __future__ import annotations

import doctest
import json
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codellama.specialize import rehearsal
from codellama.specialize.corpus.build import build_corpus, load_corpus
from codellama.specialize.jsonl import append_row, read_rows
from codellama.specialize.rehearsal import request_for, write_rehearsal

FUNCTION = 'def half(x):\n    "Half of it, for many numbers."\n    return x / 2\n'


class Parrot:
    """Repeats what it is asked; has no end for every third seed."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def text(self, opening: str, seed: int) -> str:
        self.asked.append(opening)
        return f" words that follow number {seed}, which are English."

    def question(self, seed: int) -> str | None:
        return None if seed % 3 == 0 else f"What follows after number {seed}?"

    def answer(self, question: str, seed: int) -> str | None:
        self.asked.append(question)
        return None if seed % 3 == 2 else f"You said: {question}"


def test_the_doctest() -> None:
    assert doctest.testmod(rehearsal).failed == 0


def test_rows_of_every_kind_make_a_corpus(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    counts = write_rehearsal(
        Parrot(), path, texts=4, conversations=6, functions=[FUNCTION, "x = 1\n"], license="mit",
        workers=3,
    )  # fmt: skip
    assert counts == {"texts": 4, "conversations": 2, "functions": 1, "without an end": 4}
    build_corpus([(None, path)], tmp_path / "corpus")
    sets = load_corpus(tmp_path / "corpus")
    assert {name: len(records) for name, records in sets.items()} == {"nl": 4, "instruct": 3}


@given(st.integers(0, 3000))
@settings(deadline=None, max_examples=25)
def test_a_run_that_was_cut_off_goes_on(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    folder = tmp_path_factory.mktemp("rows")
    whole, part = folder / "whole.jsonl", folder / "part.jsonl"
    write_rehearsal(Parrot(), whole, texts=5, conversations=5, functions=[FUNCTION])
    part.write_bytes(whole.read_bytes()[:cut])
    kept = part.read_bytes().count(b"\n")
    parrot = Parrot()
    counts = write_rehearsal(parrot, part, texts=5, conversations=5, functions=[FUNCTION])
    assert part.read_bytes() == whole.read_bytes()
    assert sum(counts.values()) == 11
    assert len(parrot.asked) <= 11 - kept


def test_a_second_run_may_ask_for_more(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    write_rehearsal(Parrot(), path, texts=2, conversations=0)
    before = path.read_bytes()
    seen: list[tuple[int, int]] = []
    write_rehearsal(
        Parrot(), path, texts=3, conversations=0, on_progress=lambda *at: seen.append(at)
    )
    assert path.read_bytes().startswith(before) and seen == [(3, 3)]


@pytest.mark.parametrize(
    "text",
    [
        "def (",
        "x = 1\n",
        "def f(x):\n    return x\n",
        'def f(x):\n    "Only a docstring."\n',
        FUNCTION + FUNCTION,
        f'def f(x):\n    "{"long " * 200}"\n    return x\n',
    ],
)
def test_what_cannot_be_asked_for(text: str) -> None:
    assert request_for(text, random.Random(0)) is None


def test_a_request_does_not_hold_the_body() -> None:
    forms = {request_for(FUNCTION, random.Random(seed)) for seed in range(200)}
    assert len(forms) == 6
    assert all(form is not None and "x / 2" not in form and "Half" in form for form in forms)


@given(st.binary(max_size=40))
def test_a_log_that_was_cut_off_takes_more_rows(
    tmp_path_factory: pytest.TempPathFactory, tail: bytes
) -> None:
    path = tmp_path_factory.mktemp("log") / "log.jsonl"
    append_row(path, {"a": 1})
    with path.open("ab") as file:
        file.write(tail.replace(b"\n", b""))
    assert read_rows(path) == [{"a": 1}]
    append_row(path, {"b": 2})
    assert [json.loads(line) for line in path.read_text().splitlines()] == [{"a": 1}, {"b": 2}]
