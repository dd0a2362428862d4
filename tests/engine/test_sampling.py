"""Sampling against its slow, obvious version; draws that depend on (seed, sample, position)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from codellama.engine import sampling
from codellama.engine.params import SamplingParams
from codellama.engine.runner import Logits
from codellama.engine.sampling import Sampler, token_logprob, uniform
from codellama.errors import ModelFileError, RequestError
from codellama.native import rows as native_rows

V = 1000


def row(seed: int = 0, size: int = V) -> Logits:
    return np.random.default_rng(seed).standard_normal(size).astype(np.float32) * 3


rows = hnp.arrays(
    np.float32, st.integers(1, 300), elements=st.integers(-40, 40).map(lambda i: i / 4)
)
params = st.builds(
    SamplingParams,
    temperature=st.floats(0.05, 5),
    top_k=st.integers(-1, 310),
    top_p=st.floats(0, 1),
    min_p=st.one_of(st.just(0.0), st.floats(0, 1)),
)


def obvious(logits_V: Logits, params: SamplingParams) -> dict[int, float]:
    """Token → probability: sort everything, cut, renormalize, one step after the other."""
    scaled = logits_V.astype(np.float64) / params.temperature
    order = sorted(range(len(scaled)), key=lambda i: (-scaled[i], i))
    if params.top_k > 0:
        order = order[: params.top_k]
    weights = np.exp(scaled[order] - scaled[order[0]])
    shares = weights / weights.sum()
    if params.top_p < 1:
        before = np.cumsum(shares) - shares
        keep = max(1, int((before < params.top_p - 1e-12).sum()))
        order, weights = order[:keep], weights[:keep]
    keep = int((weights >= params.min_p * weights[0]).sum())
    order, weights = order[:keep], weights[:keep]
    return dict(zip(order, (weights / weights.sum()).tolist(), strict=True))


@given(rows, params)
@settings(deadline=None, max_examples=300)
def test_cuts_agree_with_the_obvious_version(logits_V: Logits, params: SamplingParams) -> None:
    peak = float(logits_V.max())
    cuts = (params.temperature, params.top_p, params.min_p)
    ids_C, weights_C = native_rows.nucleus(logits_V, peak, *cuts, top_k=params.top_k)
    weights_C = weights_C.astype(np.float64)
    got = dict(zip(ids_C.tolist(), (weights_C / weights_C.sum()).tolist(), strict=True))
    want = obvious(logits_V, params)
    # On the edge of top_p a rounding may keep or drop one of several equal tokens more, and the
    # row's sums are good to 3e-6: tokens that weigh less than that together may part, too.
    parted = [got.get(token, 0) + want.get(token, 0) for token in set(got) ^ set(want)]
    if sum(parted) > 1e-5:
        assert abs(len(got) - len(want)) <= 1, (got, want)
        assert max(parted) <= min({**got, **want}.values()) * 1.5 + 1e-9
    if set(got) == set(want):
        for token, probability in want.items():
            assert got[token] == pytest.approx(probability, rel=1e-5, abs=1e-12)


def test_top_p_keeps_the_fewest_tokens_that_reach_it() -> None:
    """Four equal tokens: a half is two of them, a little more is three."""
    logits_V = np.ones(4, np.float32)
    for top_p, kept in ((0.5, 2), (0.51, 3), (0.0, 1), (0.25, 1)):
        ids_C, _weights_C = native_rows.nucleus(logits_V, 1.0, 1.0, top_p, 0.0)
        assert ids_C.tolist() == list(range(kept))


@pytest.mark.parametrize("more", [{}, {"top_p": 0.9}, {"top_k": 5}, {"min_p": 0.02}])
def test_draws_follow_the_distribution(more: dict[str, float]) -> None:
    """20,000 draws at different positions; chi-square of up to 7 degrees of freedom, p > 1e-4."""
    logits_V = row(3, 8)
    params = SamplingParams(temperature=1.3, seed=5, **more)
    sampler = Sampler(params, seed=5)
    n = 20_000
    counts = np.bincount([sampler.draw(logits_V, [0], 1, i) for i in range(n)], minlength=8)
    shares = obvious(logits_V, params)
    assert set(np.flatnonzero(counts)) <= set(shares)
    expected = {i: share * n for i, share in shares.items()}
    assert sum((counts[i] - e) ** 2 / e for i, e in expected.items()) < 29.9


def test_splitmix64_gives_its_reference_outputs() -> None:
    """Seed 1234567, as published with the reference code."""
    want = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    got = [sampling._mix((1234567 + (i + 1) * sampling.GOLDEN) & sampling.MASK) for i in range(4)]
    assert got == want


@given(st.integers(-(2**63), 2**64 - 1), st.integers(0, 1000), st.integers(0, 10**6))
@settings(deadline=None)
def test_uniform_is_in_range_and_repeats(seed: int, index: int, position: int) -> None:
    number = uniform(seed, index, position)
    assert 0.0 <= number < 1.0
    assert number == uniform(seed, index, position)


def test_seeds_samples_and_positions_give_independent_numbers() -> None:
    grid = np.array([[[uniform(s, j, i) for i in range(30)] for j in range(5)] for s in range(5)])
    assert len(np.unique(grid)) == grid.size
    assert abs(grid.mean() - 0.5) < 4 * (1 / 12 / grid.size) ** 0.5
    flat = grid.reshape(25, 30)
    off_diagonal = np.corrcoef(flat)[~np.eye(25, dtype=bool)]
    assert abs(off_diagonal).max() < 0.75


def test_greedy_takes_the_largest_and_the_lowest_of_equals() -> None:
    sampler = Sampler(SamplingParams(), seed=0)
    assert sampler.draw(np.array([1, 5, 5, 2], np.float32), [0], 1) == 1


def test_tiny_temperature_is_greedy() -> None:
    logits_V = row(1)
    for temperature in (1e-2, 1e-30, 1e-300):
        sampler = Sampler(SamplingParams(temperature=temperature, top_p=0.9), seed=1)
        assert sampler.draw(logits_V, [0], 1, 7) == int(logits_V.argmax())


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_logits_that_are_no_numbers_are_an_error(value: float) -> None:
    logits_V = row(1)
    logits_V[17] = value
    for temperature in (0.0, 1.0):
        with pytest.raises(ModelFileError, match=str(value)):
            Sampler(SamplingParams(temperature=temperature), seed=0).draw(logits_V, [0], 1)


def test_penalties_are_llama_cpps() -> None:
    """By hand: token 0 twice, token 1 once, token 3 outside the window of 3."""
    logits_V = np.array([2.0, -1.0, 0.5, 3.0], np.float32)
    params = SamplingParams(
        repetition_penalty=2.0, presence_penalty=0.5, frequency_penalty=0.25, repeat_last_n=3
    )
    got = sampling.penalize(logits_V, [3, 0, 1, 0], params)
    assert got.tolist() == [2.0 / 2 - 0.5 - 0.5, -1.0 * 2 - 0.25 - 0.5, 0.5, 3.0]
    assert logits_V.tolist() == [2.0, -1.0, 0.5, 3.0], "the runner's row is not ours to change"


def test_the_window_of_penalties() -> None:
    logits_V = np.array([1.0, 0.9], np.float32)
    everything = SamplingParams(presence_penalty=1.0, repeat_last_n=-1)
    nothing = SamplingParams(presence_penalty=1.0, repeat_last_n=0)
    history = [0] + [1] * 100
    assert sampling.penalize(logits_V, history, everything).tolist() == pytest.approx([0.0, -0.1])
    assert not nothing.penalizes


def test_dry_is_llama_cpps_by_hand() -> None:
    """The output `1 2 3 1 2 1 2` continues `1 2` by 3 and by 1; a power of the length beyond what
    is allowed.
    """
    row_V, prompt, output = np.zeros(5, np.float32), [4, 2], [1, 2, 3, 1, 2, 1, 2]

    def dry(**fields: Any) -> list[float]:
        params = SamplingParams(dry_multiplier=0.8, **fields)
        breakers_B = np.array(sorted(params.dry_breakers), np.int32)
        tokens = prompt + output
        penalized = sampling.avoid_repeats(row_V, tokens, len(prompt), params, breakers_B)
        return penalized.round(6).tolist()

    assert dry() == pytest.approx([0, -0.8, 0, -0.8, 0])
    assert dry(dry_allowed_length=1) == pytest.approx([0, -1.4, 0, -1.4, 0])
    assert dry(dry_allowed_length=1, dry_base=3.0) == pytest.approx([0, -2.4, 0, -2.4, 0])
    assert dry(dry_allowed_length=3) == [0] * 5
    assert dry(dry_breakers={3}) == pytest.approx([0, -0.8, 0, 0, 0])
    assert dry(dry_breakers={2}) == [0] * 5
    assert dry(dry_allowed_length=1, dry_penalty_last_n=4) == pytest.approx([0, -1.4, 0, 0, 0])
    with_prompt = dry(dry_allowed_length=1, dry_penalty_last_n=-1)  # `2 1 2` was before 3
    assert with_prompt == pytest.approx([0, -1.4, 0, -2.45, 0])
    assert not row_V.any(), "the runner's row is not ours to change"


def test_where_repeats_are_looked_for() -> None:
    """The prompt says `1 2 3`, the output `1 2`: only with the prompt a repeat."""
    row_V = np.array([0, 0, 0, 1.0, 0.9], np.float32)
    for window, want in ((None, 3), (-1, 4), (0, 3), (5, 4), (4, 3)):
        params = SamplingParams(dry_multiplier=1.0, dry_penalty_last_n=window)
        assert Sampler(params, seed=0).draw(row_V, [1, 2, 3, 1, 2], 3) == want


def test_a_long_repeat_is_penalized_by_a_finite_number() -> None:
    row_V = np.array([0, 3.0, 0], np.float32)
    params = SamplingParams(dry_multiplier=100.0, dry_base=100.0)
    circle = [1] * 3000
    none_B = np.empty(0, np.int32)
    got = sampling.avoid_repeats(row_V, circle, 0, params, none_B)
    assert got.tolist() == [0, 3.0 - sampling.MOST_DRY, 0]


def test_a_constraint_masks_and_sees_only_the_output() -> None:
    seen: list[list[int]] = []

    def only_even(output: list[int]) -> np.ndarray:
        seen.append(output)
        return np.arange(4) % 2 == 0

    logits_V = np.array([0, 9, 1, 9], np.float32)
    sampler = Sampler(SamplingParams(), seed=0, constraint=only_even)
    assert sampler.draw(logits_V, [7, 8, 2], 2) == 2
    assert seen == [[2]]
    hot = Sampler(SamplingParams(temperature=5.0), seed=0, constraint=only_even)
    assert {hot.draw(logits_V, [7], 1, i) for i in range(50)} == {0, 2}


biases = st.dictionaries(
    st.integers(0, 9), st.one_of(st.integers(-100, 100), st.just(-np.inf)), min_size=1, max_size=8
)


@given(biases, st.sampled_from([0.0, 0.7]), st.booleans(), st.booleans(), st.integers(0, 99))
@settings(deadline=None)
def test_a_bias_is_a_sum_before_everything_else(
    bias: dict[int, float], temperature: float, penalizes: bool, constrains: bool, seed: int
) -> None:
    """A biased draw is the plain draw of a row with the bias added by hand."""
    logits_V, more = row(seed, 10), {"presence_penalty": 1.5} if penalizes else {}
    constraint = (lambda output: np.arange(10) % 3 != 0) if constrains else None
    added_V = logits_V.copy()
    for id, number in bias.items():
        added_V[id] = np.float32(logits_V[id]) + np.float32(number)

    def draw(row_V: Logits, **fields: object) -> int | str:
        params = SamplingParams(temperature=temperature, seed=seed, **more, **fields)
        try:
            return Sampler(params, seed=seed, constraint=constraint).draw(row_V, [1, 2, 4], 1)
        except RequestError as error:  # the constraint's six tokens are all forbidden
            return str(error)

    assert draw(logits_V, logit_bias=bias) == draw(added_V)
    assert (logits_V == row(seed, 10)).all(), "the runner's row is not ours to change"


def test_greedy_follows_a_bias_and_never_takes_what_it_forbids() -> None:
    logits_V = np.array([1, 5, 4.9, 2], np.float32)
    for bias, want in (({1: -0.2}, 2), ({3: 100.0}, 3), ({1: -np.inf, 2: -np.inf}, 3)):
        assert Sampler(SamplingParams(logit_bias=bias), seed=0).draw(logits_V, [0], 1) == want
    nothing = SamplingParams(logit_bias=dict.fromkeys(range(4), -np.inf))
    with pytest.raises(RequestError, match="allows no token"):
        Sampler(nothing, seed=0).draw(logits_V, [0], 1)
    only_1 = Sampler(
        SamplingParams(logit_bias={1: -np.inf}),
        seed=0,
        constraint=lambda output: np.arange(4) == 1,
    )
    with pytest.raises(RequestError, match="allows no token"):
        only_1.draw(logits_V, [0], 1)


def test_a_constraint_without_tokens_is_an_error() -> None:
    sampler = Sampler(SamplingParams(), seed=0, constraint=lambda output: np.zeros(4, bool))
    with pytest.raises(RequestError, match="allows no token"):
        sampler.draw(np.ones(4, np.float32), [0], 1)


def test_logprobs_are_of_the_models_own_distribution() -> None:
    logits_V = row(2, 300)
    exact = logits_V.astype(np.float64)
    want = exact - np.log(np.exp(exact).sum())
    got = token_logprob(logits_V, 5, 3)
    assert got.logprob == pytest.approx(want[5], abs=1e-6)
    assert [id for id, _ in got.top] == np.argsort(-want)[:3].tolist()
    assert [p for _, p in got.top] == pytest.approx(np.sort(want)[::-1][:3].tolist(), abs=1e-6)
    assert token_logprob(logits_V, 5, 0).top == ()
