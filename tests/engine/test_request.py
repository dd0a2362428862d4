"""Parameters out of range are refused by name; lists become what the engine keeps."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codellama.engine.params import SamplingParams
from codellama.engine.request import Request
from codellama.errors import RequestError

BAD = [
    ("logit_bias", {-1: 1.0}),
    ("logit_bias", {3: float("nan")}),
    ("logit_bias", {3: float("inf")}),
    ("logit_bias", {"3": 1.0}),
    ("logit_bias", 7),
    ("logit_bias", {3: "much"}),
    ("max_tokens", -1),
    ("max_tokens", 1.5),
    ("max_tokens", True),
    ("temperature", -0.1),
    ("temperature", math.inf),
    ("temperature", math.nan),
    ("temperature", "hot"),
    ("temperature", 10**400),
    ("temperature", None),
    ("top_k", -2),
    ("top_p", 1.01),
    ("top_p", -0.1),
    ("min_p", 2),
    ("repetition_penalty", 0),
    ("repeat_last_n", -2),
    ("presence_penalty", 2.5),
    ("frequency_penalty", -3),
    ("dry_multiplier", -0.1),
    ("dry_multiplier", math.nan),
    ("dry_base", 0.5),
    ("dry_allowed_length", 0),
    ("dry_penalty_last_n", -2),
    ("dry_sequence_breakers", [""]),
    ("dry_breakers", ["a"]),
    ("seed", "x"),
    ("seed", 2**64),
    ("logprobs", 101),
    ("logprobs", -1),
    ("max_lines", 0),
    ("ignore_eos", 1),
    ("speculate", "yes"),
    ("stop", 3),
    ("stop", [""]),
    ("stop", ["a", 1]),
    ("stop_ids", "12"),
    ("stop_ids", [-1]),
    ("stop_ids", 5),
]


@pytest.mark.parametrize(("field", "value"), BAD)
def test_a_bad_value_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(RequestError, match=field):
        SamplingParams(**{field: value})


def test_an_unknown_parameter_is_named_with_the_known_ones() -> None:
    with pytest.raises(RequestError, match=r"'temprature'.*temperature, top_k"):
        SamplingParams.from_keywords({"temprature": 0.1})


def test_lists_are_frozen() -> None:
    params = SamplingParams(stop=["a", "b"], stop_ids=[3, 4])
    assert params.stop == ("a", "b")
    assert params.stop_ids == {3, 4}
    assert SamplingParams(stop="a").stop == ("a",)
    assert SamplingParams(logit_bias={7: 1, 3: -2.5}).logit_bias == ((3, -2.5), (7, 1.0))
    assert hash(params) == hash(SamplingParams(stop=("a", "b"), stop_ids={4, 3}))


@pytest.mark.parametrize("field", [{"logit_bias": {9: 1, 2**40: 1}}, {"dry_breakers": {9, 2**40}}])
def test_tokens_that_a_vocabulary_lacks_are_refused(field: dict[str, Any]) -> None:
    params = SamplingParams(**field)
    with pytest.raises(RequestError, match=f"{next(iter(field))}: {2**40} is no token id"):
        params.check_ids(100)
    params.check_ids(2**40 + 1)


@pytest.mark.parametrize("keywords", [{"n": 0}, {"priority": 1.5}, {"prompt_ids": ()}])
def test_a_bad_request_is_refused(keywords: dict[str, object]) -> None:
    with pytest.raises(RequestError):
        Request(**{"prompt_ids": (1,), **keywords})


@given(st.floats(0, 1), st.integers(-1, 10**6), st.floats(0, 100), st.integers(-(2**63), 2**64 - 1))
@settings(deadline=None)
def test_every_value_in_range_is_taken(
    top_p: float, top_k: int, temperature: float, seed: int
) -> None:
    params = SamplingParams(top_p=top_p, top_k=top_k, temperature=temperature, seed=seed)
    assert params.top_p == top_p
