"""Repeats within the tokens so far against the definition, written down in quadratic time."""

from __future__ import annotations

import doctest

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codellama.native import rows


def found(tokens: list[int], least: int = 1, breakers: list[int] | None = None) -> dict[int, int]:
    arrays = (np.array(each, np.int32) for each in (tokens, breakers or []))
    ids, lengths = rows.repeats(next(arrays), least, next(arrays))
    assert ids.tolist() == sorted(set(ids.tolist()))
    return dict(zip(ids.tolist(), lengths.tolist(), strict=True))


def obvious(tokens: list[int], least: int, breakers: list[int]) -> dict[int, int]:
    longest: dict[int, int] = {}
    for place, token in enumerate(tokens):
        length = 0
        while (
            length < place
            and tokens[-1 - length] == tokens[place - 1 - length]
            and tokens[-1 - length] not in breakers
        ):
            length += 1
        if place and length >= least and token not in breakers:
            longest[token] = max(longest.get(token, 0), length)
    return longest


def test_the_doctest() -> None:
    assert doctest.testmod(rows).failed == 0


def test_the_example_of_llama_cpp() -> None:
    """Its comment: after `a b c c b c y a b c` come c (of `a b c`), b (of `c`) and y (of `b c`)."""
    tokens = [ord(each) for each in "abccbcyabc"]
    want = {"c": 3, "b": 1, "y": 2}
    assert found(tokens) == {ord(each): length for each, length in want.items()}
    assert found(tokens, least=2) == {ord("c"): 3, ord("y"): 2}


@given(
    st.lists(st.integers(0, 3), max_size=60),
    st.integers(0, 5),
    st.lists(st.integers(0, 3), max_size=2),
)
def test_any_tokens(tokens: list[int], least: int, breakers: list[int]) -> None:
    assert found(tokens, least, sorted(breakers)) == obvious(tokens, least, breakers)


def test_a_long_circle_takes_linear_time() -> None:
    """A hundred thousand tokens: quadratic time would be minutes."""
    assert found([1, 2] * 50_000, least=2) == {1: 99_998}


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="sorted"):
        found([1, 2], 1, [5, 3])
    with pytest.raises(ValueError, match="negative"):
        found([1, 2], -1)
    with pytest.raises(TypeError):
        rows.repeats(np.array([1.0]), 1, np.empty(0, np.int32))  # type: ignore[arg-type]
