"""From one row of logits to one token: bias → penalties → DRY → constraint → temperature → top-k →
top-p → min-p → draw; log-probabilities.

Order. Temperature comes before the cuts, as in Meta's Code Llama code, Hugging Face, vLLM and
Ollama's own engine; llama.cpp's default chain applies it last, so its top_p and min_p see the
untempered distribution. Penalties follow llama.cpp: all three see the last `repeat_last_n` tokens
of prompt and output together (vLLM counts presence and frequency over the output alone). Each cut
renormalizes what the one before it left; min_p only compares with the likeliest token, so its place
does not matter.

Random numbers. The draw for output position i of sample j is a pure function of (seed, j, i): a
SplitMix64 stream per sample, read at i. So a text does not depend on what else was in the batch, on
pre-emption or on speculation.

Knows no text, no cache, no batch. Passes over all of a row [V] are native/rows.py's: in NumPy they
took 100 to 450 µs, a tenth of a small model's step. Never writes to the row, which belongs to the
runner.

Shape legend: V vocabulary, C candidates, U tokens with a bias.
"""

from __future__ import annotations

from math import isfinite

import numpy as np
import numpy.typing as npt

from codellama.engine.params import SamplingParams
from codellama.engine.request import Constraint, TokenLogprob
from codellama.engine.runner import Logits
from codellama.errors import ModelFileError, RequestError
from codellama.native import rows

__all__ = ["Sampler", "token_logprob", "uniform"]

MASK = 2**64 - 1
GOLDEN = 0x9E3779B97F4A7C15  # 2^64 / golden ratio: SplitMix64's step
MOST_REJECTED = 8  # draws per token; each costs a Steering a few milliseconds
MOST_DRY = 1e4  # far beyond any logit
COLDEST = 1e-5  # temperatures below are greedy: float32 logits tell no finer differences apart


class Sampler:
    """Draws the tokens of one sample.

    Args:
        params: how to draw.
        seed: params.seed, or the random one taken in its place.
        index: which of the request's n samples.
        constraint: mask of allowed tokens, given those generated so far.

    >>> Sampler(SamplingParams(), seed=1).draw(np.array([0.0, 3.0, 1.0], np.float32), [5], 1)
    1
    """

    def __init__(
        self,
        params: SamplingParams,
        *,
        seed: int,
        index: int = 0,
        constraint: Constraint | None = None,
    ) -> None:
        self.params = params
        self._seed = seed
        self._index = index
        self._constraint = constraint
        self._rejects = getattr(constraint, "rejects", None)  # of a Steering
        self._breakers_B = np.array(sorted(params.dry_breakers), np.int32)
        self.needs_history = params.penalizes or params.avoids_repeats or constraint is not None
        self._shapes = self.needs_history or bool(params.logit_bias)
        self._biased_U = np.array([id for id, _bias in params.logit_bias], np.intp)
        self._bias_U = np.array([bias for _id, bias in params.logit_bias], np.float32)

    def draw(
        self, logits_V: Logits, tokens: list[int], n_prompt: int, position: int | None = None
    ) -> int:
        """The token after `tokens` (prompt, then output), whose output position is `position`.

        `tokens` may be stale where `needs_history` is False; `position` defaults to the length of
        its output.

        Raises:
            ModelFileError: the logits are not finite.
            RequestError: constraint and bias allow no token.
        """
        likeliest = int(
            logits_V.argmax()
        )  # the first NaN, if there is one; else the lowest of equal ids
        if not isfinite(peak := float(logits_V[likeliest])):
            raise ModelFileError(
                f"the model computed {peak} where a number belongs: "
                "its weights are damaged, or overflow in this precision"
            )
        if self._shapes:
            logits_V = self._shape(logits_V, tokens, n_prompt)
            likeliest = int(logits_V.argmax())
            peak = float(logits_V[likeliest])
            if peak == -np.inf:
                raise RequestError("the constraint, or logit_bias, allows no token here")
        position = len(tokens) - n_prompt if position is None else position
        token = self._choose(logits_V, likeliest, peak, position)
        if self._rejects is not None:
            return self._steered(logits_V, token, tokens[n_prompt:], position)
        return token

    def _choose(self, logits_V: Logits, likeliest: int, peak: float, position: int) -> int:
        params = self.params
        if params.temperature < COLDEST:
            return likeliest
        return rows.draw(
            logits_V, peak, params.temperature, uniform(self._seed, self._index, position),
            top_k=params.top_k, top_p=params.top_p, min_p=params.min_p,
        )  # fmt: skip

    def _steered(self, logits_V: Logits, drawn: int, output: list[int], position: int) -> int:
        """The first draw that is not rejected, from what is left; `drawn` where all are."""
        assert self._rejects is not None
        token, left_V = drawn, logits_V.copy()
        for _ in range(MOST_REJECTED):
            if not self._rejects(output, token):
                return token
            left_V[token] = -np.inf
            likeliest = int(left_V.argmax())
            peak = float(left_V[likeliest])
            if peak == -np.inf:
                break
            token = self._choose(left_V, likeliest, peak, position)
        return drawn

    def _shape(self, logits_V: Logits, tokens: list[int], n_prompt: int) -> Logits:
        """A copy of the row with bias and penalties, and forbidden tokens at −inf."""
        params = self.params
        if len(self._biased_U):
            logits_V = logits_V.copy()
            logits_V[self._biased_U] += self._bias_U
        logits_V = penalize(logits_V, tokens, params) if params.penalizes else logits_V
        if params.avoids_repeats:
            logits_V = avoid_repeats(logits_V, tokens, n_prompt, params, self._breakers_B)
        allowed_V = self._constraint(tokens[n_prompt:]) if self._constraint is not None else None
        return logits_V if allowed_V is None else np.where(allowed_V, logits_V, np.float32(-np.inf))


def uniform(seed: int, index: int, position: int) -> float:
    """A number in [0, 1), 53 random bits: output `position` of the SplitMix64 stream of (seed,
    index).

    Source: Steele, Lea and Flood, "Fast splittable pseudorandom number generators" (2014); its
    reference outputs are in the tests.
    """
    stream = _mix((_mix(seed & MASK) + index * GOLDEN) & MASK)
    return (_mix((stream + (position + 1) * GOLDEN) & MASK) >> 11) * 2.0**-53


def _mix(z: int) -> int:
    """SplitMix64's finalizer."""
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def penalize(logits_V: Logits, tokens: list[int], params: SamplingParams) -> Logits:
    """A copy in which the last repeat_last_n tokens (−1: all) are less likely."""
    window = tokens if params.repeat_last_n < 0 else tokens[-params.repeat_last_n :]
    return rows.penalize(
        logits_V, np.array(window, np.int32), repetition=params.repetition_penalty,
        frequency=params.frequency_penalty, presence=params.presence_penalty,
    )  # fmt: skip


def avoid_repeats(
    logits_V: Logits,
    tokens: list[int],
    n_prompt: int,
    params: SamplingParams,
    breakers_B: npt.NDArray[np.int32],
) -> Logits:
    """A copy in which tokens that would continue a repeat are less likely: llama.cpp's DRY, but at
    most by MOST_DRY.
    """
    last = params.dry_penalty_last_n
    begin = n_prompt if last is None else 0 if last < 0 else max(0, len(tokens) - last)
    recent_T = np.array(tokens[begin:], np.int32)
    ids_C, lengths_C = rows.repeats(recent_T, params.dry_allowed_length, breakers_B)
    if not len(ids_C):
        return logits_V
    with np.errstate(over="ignore"):
        powers_C = params.dry_base ** (lengths_C - params.dry_allowed_length).astype(np.float64)
    penalized_V = logits_V.copy()
    penalized_V[ids_C] -= np.minimum(params.dry_multiplier * powers_C, MOST_DRY).astype(np.float32)
    return penalized_V


def token_logprob(logits_V: Logits, token: int, n_top: int) -> TokenLogprob:
    """Log-probabilities under softmax(logits), to 1e-6: of `token`, and of the n_top likeliest."""
    log_total, ids_C = rows.log_sum_exp(logits_V, n_top)
    pairs = tuple((id, float(logits_V[id]) - log_total) for id in ids_C.tolist())
    return TokenLogprob(token, float(logits_V[token]) - log_total, pairs)
