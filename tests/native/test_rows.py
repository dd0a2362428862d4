"""Passes over a row of logits against NumPy, over lengths around the chunk and vector widths."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from codellama.native import rows

LENGTHS = (1, 5, 15, 16, 17, 63, 64, 65, 127, 128, 1000, 49_152)

short_rows = hnp.arrays(
    np.float32, st.integers(1, 300), elements=st.integers(-60, 60).map(lambda i: i / 4)
)


def row(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(n).astype(np.float32) * 3


def exact(logits: np.ndarray, temperature: float) -> np.ndarray:
    values = logits.astype(np.float64)
    return np.exp((values - values.max()) / temperature)


@pytest.mark.parametrize("n", LENGTHS)
def test_weights(n: int) -> None:
    """With no cuts the nucleus is everything, and its weights are the exponentials."""
    logits = row(n)
    for temperature in (0.3, 1.0, 7.0):
        ids, weights = rows.nucleus(logits, float(logits.max()), temperature, 1.0, 0.0)
        want = exact(logits, temperature)
        assert ids.tolist() == list(range(n))
        near = want > np.exp(-20)
        assert np.abs(weights[near] / want[near] - 1).max() < 3e-6
        assert np.abs(weights - want).max() < 1e-6


def test_what_is_forbidden_weighs_nothing() -> None:
    logits = np.array([-np.inf, 0.0, -1e30, 1.0], np.float32)
    for temperature in (1e-5, 1.0, 1000.0):
        weights = rows.nucleus(logits, 1.0, temperature, 1.0, 0.0)[1]
        assert weights[[0, 2]].tolist() == [0.0, 0.0]
        assert weights[3] == pytest.approx(1.0, abs=2e-7)


@pytest.mark.parametrize("n", LENGTHS)
def test_draw_inverts_running_sums(n: int) -> None:
    logits = row(n, 1)
    sums = exact(logits, 0.8).cumsum()
    for share in [*np.random.default_rng(n).random(200), 0.0, 1 - 2**-53]:
        token = rows.draw(logits, float(logits.max()), 0.8, float(share))
        before = sums[token - 1] if token else 0.0
        assert before / sums[-1] <= share + 1e-5
        assert sums[token] / sums[-1] >= share - 1e-5


@given(short_rows, st.floats(0, 1, exclude_max=True))
def test_draw_never_takes_weight_0(logits: np.ndarray, share: float) -> None:
    logits = logits.copy()
    logits[1::2] = -np.inf
    for top_k in (0, len(logits) - 1):
        assert rows.draw(logits, float(logits.max()), 1.0, share, top_k=top_k) % 2 == 0


@pytest.mark.parametrize("n", LENGTHS)
def test_draws_with_cuts_are_draws_from_the_nucleus(n: int) -> None:
    logits = row(n, 4)
    peak = float(logits.max())
    for top_k, top_p, min_p in (
        (0, 0.9, 0.0), (0, 0.3, 0.0), (0, 1.0, 0.05), (0, 0.99, 0.01), (0, 0.0, 0.0),
        (1, 1.0, 0.0), (40, 1.0, 0.0), (40, 0.9, 0.0), (7, 0.99, 0.2), (n, 0.9, 0.0),
    ):  # fmt: skip
        ids, weights = rows.nucleus(logits, peak, 0.8, top_p, min_p, top_k=top_k)
        sums = weights.astype(np.float64).cumsum()
        for share in [*np.random.default_rng(n).random(50), 0.0, 1 - 2**-53]:
            cuts = {"top_k": top_k, "top_p": top_p, "min_p": min_p}
            token = rows.draw(logits, peak, 0.8, float(share), **cuts)
            point = min(share * sums[-1], np.nextafter(sums[-1], 0))
            assert token == ids[int(sums.searchsorted(point, side="right"))]


@pytest.mark.parametrize("n", LENGTHS)
def test_log_sum_exp(n: int) -> None:
    logits = row(n, 2)
    values = logits.astype(np.float64)
    want = values.max() + np.log(np.exp(values - values.max()).sum())
    for k in (0, 1, 5, n):
        total, ids = rows.log_sum_exp(logits, k)
        assert total == pytest.approx(want, abs=1e-6)
        assert ids.tolist() == rows.top(logits, k).tolist() if k else len(ids) == 0


@given(short_rows, st.integers(1, 310))
def test_top_is_sorted_with_equal_ones_by_id(values: np.ndarray, k: int) -> None:
    want = sorted(range(len(values)), key=lambda i: (-values[i], i))[:k]
    assert rows.top(values, k).tolist() == want


@given(short_rows, st.data())
def test_top_k_leaves_the_likeliest_first(logits: np.ndarray, data: st.DataObject) -> None:
    """Weights by NumPy, sums one after the other: top_p may part at its edge by a rounding."""
    k = data.draw(st.integers(1, len(logits)))
    top_p, min_p = data.draw(st.sampled_from(((1.0, 0.0), (0.8, 0.0), (1.0, 0.1), (0.6, 0.05))))
    order = sorted(range(len(logits)), key=lambda i: (-logits[i], i))[:k]
    weights = exact(logits, 0.7)[order]
    before = (weights.cumsum() - weights) / weights.sum()
    got, _ = rows.nucleus(logits, float(logits.max()), 0.7, top_p, min_p, top_k=k)
    got = got.tolist() if k < len(logits) else sorted(got.tolist(), key=order.index)
    for slack in (0.0, -1e-5, 1e-5):
        kept = (before < top_p + slack) & (weights >= min_p * (1 - 1e-6))
        if got == [i for i, stays in zip(order, kept, strict=True) if stays]:
            return
    raise AssertionError((got, order, weights))


@given(short_rows, st.data())
def test_penalties(logits: np.ndarray, data: st.DataObject) -> None:
    """Against llama.cpp's formulas, token by token; the row stays as it is."""
    tokens = data.draw(st.lists(st.integers(0, len(logits) - 1), max_size=70))
    factor, frequency, presence = data.draw(st.tuples(*[st.floats(0.125, 2, width=32)] * 3))
    want, kept = logits.astype(np.float64), logits.copy()
    for token in set(tokens):
        want[token] = want[token] / factor if want[token] > 0 else want[token] * factor
        want[token] -= tokens.count(token) * frequency + presence
    got = rows.penalize(
        logits, np.array(tokens, np.int32),
        repetition=factor, frequency=frequency, presence=presence,
    )  # fmt: skip
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-4)
    np.testing.assert_array_equal(logits, kept)


def test_top_of_a_long_row() -> None:
    values = row(49_153)
    for k in (1, 5, 40, 300, 1000, 60_000):
        assert rows.top(values, k).tolist() == np.argsort(-values, kind="stable")[:k].tolist()


@given(short_rows, st.floats(0, 1), st.sampled_from((0.0, 0.0, 0.01, 0.5, 1.0)))
def test_nucleus_is_the_shortest_beginning_of_the_sorted_row(
    logits: np.ndarray, top_p: float, min_p: float
) -> None:
    """A sum of other order may put one token more or less on the edge of top_p."""
    order = sorted(range(len(logits)), key=lambda i: (-logits[i], i))
    weights = exact(logits, 1.0)[order]
    before = (weights.cumsum() - weights) / weights.sum()
    got = rows.nucleus(logits, float(logits.max()), 1.0, top_p, min_p)[0].tolist()
    assert got == sorted(got)
    candidates = [
        sorted(
            token
            for token, share, weight in zip(order, before, weights, strict=True)
            if (share < top_p + slack or token == order[0]) and weight >= min_p * (1 - 1e-6)
        )
        for slack in ((-1e-5, 1e-5) if top_p < 1 else (1.0,))
    ]
    assert set(candidates[0]) <= set(got) <= set(candidates[-1])
    assert got == sorted(order[: len(got)]), "a likelier token was left out"


def test_nonsense() -> None:
    logits = row(10)
    for n in (10, 64, 1000):  # a peak that is far above all: nothing weighs anything
        assert 0 <= rows.draw(row(n), 1e9, 1.0, 0.5) < n
    with pytest.raises(ValueError, match="temperature must be positive"):
        rows.draw(logits, 1.0, 0.0, 0.5)
    with pytest.raises(ValueError, match="row is empty"):
        rows.top(np.empty(0, np.float32), 3)
    with pytest.raises(ValueError, match="no room"):
        rows.top(logits, 0)
    for token in (-1, 10):
        with pytest.raises(ValueError, match="outside the row"):
            tokens = np.array([token], np.int32)
            rows.penalize(logits, tokens, repetition=1.1, frequency=0.0, presence=0.0)
    with pytest.raises(TypeError):
        rows.draw(logits.astype(np.float64), 1.0, 1.0, 0.5)  # type: ignore[arg-type]
