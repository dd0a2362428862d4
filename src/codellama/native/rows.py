"""Passes over one row of logits, for sampling: a vocabulary of 49,152 is too long for NumPy's many;
and one over the tokens so far.

Imports nothing of ours. A token weighs exp((logit − peak) / temperature), to a relative error of
3e-6 where that matters; peak is the largest logit. Rows hold no NaN, and are not written to.

Shape legend: V vocabulary, C candidates, T tokens, B breakers.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

import codellama.native._native as _native

__all__ = ["draw", "log_sum_exp", "nucleus", "penalize", "repeats", "top"]

Float32 = npt.NDArray[np.float32]
Int32 = npt.NDArray[np.int32]


def draw(
    logits_V: Float32,
    peak: float,
    temperature: float,
    share: float,
    *,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
) -> int:
    """The token at which running sums of the weights exceed `share`, from [0, 1), of their total:
    over what `nucleus` keeps, in its order.

    Never one of weight 0. Raises ValueError for a temperature that is not positive.
    """
    return _native.draw(logits_V, peak, temperature, top_k, top_p, min_p, share)


def top(values_V: Float32, k: int) -> Int32:
    """Ids of the k largest values (all, if there are fewer), largest first, equal ones by id."""
    ids_C = np.empty(min(k, len(values_V)), np.int32)
    _native.top(values_V, k, ids_C)
    return ids_C


def nucleus(
    logits_V: Float32,
    peak: float,
    temperature: float,
    top_p: float,
    min_p: float,
    *,
    top_k: int = 0,
) -> tuple[Int32, Float32]:
    """Of the top_k likeliest tokens (0: of all) the fewest that hold the share top_p of their
    weights (1: all), without those that weigh less than min_p: ids, and their weights. By rising
    id, with top_k the likeliest first; of equal logits the lower ids; at least the likeliest token.

    Raises ValueError for a temperature that is not positive.
    """
    ids_V, weights_V = np.empty(len(logits_V), np.int32), np.empty(len(logits_V), np.float32)
    n = _native.nucleus(logits_V, peak, temperature, top_k, top_p, min_p, ids_V, weights_V)
    return ids_V[:n], weights_V[:n]


def log_sum_exp(logits_V: Float32, k: int = 0) -> tuple[float, Int32]:
    """log Σ exp(logits), to an error of 1e-6, and the ids of the k largest, as `top` has them."""
    ids_C = np.empty(min(k, len(logits_V)), np.int32)
    return _native.log_sum_exp(logits_V, ids_C), ids_C


def penalize(
    logits_V: Float32, tokens: Int32, *, repetition: float, frequency: float, presence: float
) -> Float32:
    """A copy in which each of `tokens` is less likely: a positive logit is divided by `repetition`,
    a negative one multiplied with it; then `presence` is subtracted, and `frequency` for every
    occurrence (llama.cpp's formulas). Raises ValueError for a token outside the row.
    """
    out_V = np.empty_like(logits_V)
    _native.penalize(logits_V, tokens, repetition, frequency, presence, out_V)
    return out_V


def repeats(tokens_T: Int32, least: int, breakers_B: Int32) -> tuple[Int32, Int32]:
    """The tokens that would continue a repeat, by rising id, and how long it is: that many of the
    last tokens, `least` or more, also stand earlier, just before the token. Of several the longest.
    No repeat contains or ends in one of `breakers_B`, which must be sorted.

    Raises ValueError for breakers in another order or a negative `least`.

    >>> text = np.array([5, 6, 7, 9, 5, 6], np.int32)  # 5 6 was followed by 7
    >>> [array.tolist() for array in repeats(text, 1, np.empty(0, np.int32))]
    [[7], [2]]
    """
    ids_T, lengths_T = np.empty(len(tokens_T), np.int32), np.empty(len(tokens_T), np.int32)
    n = _native.repeats(tokens_T, least, breakers_B, ids_T, lengths_T)
    return ids_T[:n], lengths_T[:n]
