"""From one row of logits to one token: penalties → temperature → top-k → top-p → min-p → draw;
log-probabilities.

Order. Temperature comes before the cuts, as in Meta's Code Llama code, Hugging Face, vLLM and
Ollama's own engine; llama.cpp's default chain applies it last, so its top_p and min_p see the
untempered distribution. Penalties follow llama.cpp: all three see the last `repeat_last_n` tokens
of prompt and output together (vLLM counts presence and frequency over the output alone). Each cut
renormalizes what the one before it left; min_p only compares with the likeliest token, so its place
does not matter.

Random numbers. The draw for output position i of sample j is a pure function of (seed, j, i): a
SplitMix64 stream per sample, read at i. So a text does not depend on what else was in the batch, on
pre-emption or on speculation.

Knows no text, no cache, no batch. NumPy on one row [V]; never writes to the row, which belongs to
the runner.

Shape legend: V vocabulary, C candidates, likeliest first.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from codellama.engine.request import Constraint, SamplingParams, TokenLogprob
from codellama.engine.runner import Logits
from codellama.errors import ModelFileError, RequestError

__all__ = ["Sampler", "token_logprob", "top_tokens", "uniform"]

Ids = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]

MASK = 2**64 - 1
GOLDEN = 0x9E3779B97F4A7C15  # 2^64 / golden ratio: SplitMix64's step
COLDEST = 1e-5  # temperatures below are greedy: float32 logits tell no finer differences apart
CHUNK = 64  # one maximum per so many logits bounds the k-th largest from below
NUCLEUS = (256, 4096)  # candidates looked at first for top_p: they nearly always hold the mass


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
        self.needs_history = params.penalizes or constraint is not None

    def draw(
        self, logits_V: Logits, tokens: list[int], n_prompt: int, position: int | None = None
    ) -> int:
        """The token after `tokens` (prompt, then output), whose output position is `position`.

        `tokens` may be stale where `needs_history` is False; `position` defaults to the length of
        its output.

        Raises:
            ModelFileError: the logits are not finite.
            RequestError: the constraint allows no token.
        """
        likeliest = int(
            logits_V.argmax()
        )  # the first NaN, if there is one; else the lowest of equal ids
        if not np.isfinite(logits_V[likeliest]):
            raise ModelFileError(
                f"the model computed {logits_V[likeliest]} where a number belongs: "
                "its weights are damaged, or overflow in this precision"
            )
        params = self.params
        if self.needs_history:
            logits_V = self._shape(logits_V, tokens, n_prompt)
            likeliest = int(logits_V.argmax())
        if params.temperature < COLDEST:
            return likeliest
        position = len(tokens) - n_prompt if position is None else position
        ids_C, weights_C = candidates(logits_V, params, likeliest)
        choice = pick(weights_C, uniform(self._seed, self._index, position))
        return choice if ids_C is None else int(ids_C[choice])

    def _shape(self, logits_V: Logits, tokens: list[int], n_prompt: int) -> Logits:
        """A copy of the row with penalties applied and forbidden tokens at −inf."""
        logits_V = penalize(logits_V, tokens, self.params) if self.params.penalizes else logits_V
        allowed_V = self._constraint(tokens[n_prompt:]) if self._constraint is not None else None
        if allowed_V is None:
            return logits_V
        if not allowed_V.any():
            raise RequestError("the constraint allows no token here")
        return np.where(allowed_V, logits_V, np.float32(-np.inf))


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


def pick(weights_C: Float64, share: float) -> int:
    """The index at which running sums of the weights exceed `share`, from [0, 1), of their total.

    In two levels: running sums of chunks, then within one. Never an index of weight 0.
    """
    n_whole = len(weights_C) // CHUNK * CHUNK
    sums = weights_C[:n_whole].reshape(-1, CHUNK).sum(axis=1)
    sums_K = np.append(sums, weights_C[n_whole:].sum()).cumsum()
    point = share * sums_K[-1]
    chunk = _first_above(sums_K, point)
    start = chunk * CHUNK
    before = sums_K[chunk - 1] if chunk else 0.0
    return start + _first_above(weights_C[start : start + CHUNK].cumsum(), point - before)


def _first_above(rising: Float64, point: float) -> int:
    """The first index with a value above `point`, where rounding leaves none the last rise."""
    return int(rising.searchsorted(min(point, np.nextafter(rising[-1], 0.0)), side="right"))


def penalize(logits_V: Logits, tokens: list[int], params: SamplingParams) -> Logits:
    """A copy in which recent tokens are less likely, by llama.cpp's formulas."""
    window = tokens if params.repeat_last_n < 0 else tokens[-params.repeat_last_n :]
    ids_U, counts_U = np.unique(np.asarray(window, np.int64), return_counts=True)
    recent_U = logits_V[ids_U]
    factor = params.repetition_penalty
    recent_U = np.where(recent_U > 0, recent_U / factor, recent_U * factor)
    recent_U -= counts_U * params.frequency_penalty + params.presence_penalty
    out_V = logits_V.copy()
    out_V[ids_U] = recent_U
    return out_V


def candidates(
    logits_V: Logits, params: SamplingParams, likeliest: int
) -> tuple[Ids | None, Float64]:
    """What survives the cuts: ids (None: every id, in order) and their weights, not normalized."""
    peak, temperature = float(logits_V[likeliest]), params.temperature
    if 0 < params.top_k < len(logits_V):
        ids_C = top_tokens(logits_V, params.top_k)
        weights_C = _weights(logits_V[ids_C], peak, temperature)
        mass = params.top_p * float(weights_C.sum())
    else:
        weights_V = _weights(logits_V, peak, temperature)
        if params.top_p == 1.0 and params.min_p == 0.0:
            return None, weights_V
        if params.top_p == 1.0:
            ids_C = np.flatnonzero(weights_V >= params.min_p)
            return ids_C, weights_V[ids_C]
        mass = params.top_p * float(weights_V.sum())
        ids_C = _head(logits_V, weights_V, mass)
        weights_C = weights_V[ids_C]
    if params.top_p < 1.0:
        before_C = weights_C.cumsum() - weights_C  # a token stays while those before it fall short
        keep = max(1, int(np.count_nonzero(before_C < mass)))
        ids_C, weights_C = ids_C[:keep], weights_C[:keep]
    keep = int(np.count_nonzero(weights_C >= params.min_p))  # the likeliest one weighs 1
    return ids_C[:keep], weights_C[:keep]


def _weights(logits_C: Logits, peak: float, temperature: float) -> Float64:
    """exp((logit − peak) / temperature), to a relative error of 3e-6; float64 for the sums."""
    with np.errstate(under="ignore"):
        weights_C: Logits = np.exp((logits_C - np.float32(peak)) / np.float32(temperature))
    return weights_C.astype(np.float64)


def _head(logits_V: Logits, weights_V: Float64, mass: float) -> Ids:
    """The likeliest tokens, in order, that weigh at least `mass`: all only where needed."""
    for size in NUCLEUS:
        ids_C = top_tokens(logits_V, size)
        if weights_V[ids_C].sum() >= mass:
            return ids_C
    return top_tokens(logits_V, len(logits_V))


def top_tokens(logits_V: Logits, k: int) -> Ids:
    """Ids of the k largest logits, largest first, equal ones by id.

    The k-th largest of the maxima of chunks is no larger than the k-th largest of all, so one pass
    of maxima and one comparison leave few ids to sort.
    """
    size, n_chunks = len(logits_V), len(logits_V) // CHUNK
    if k < n_chunks:
        maxima = logits_V[: n_chunks * CHUNK].reshape(n_chunks, CHUNK).max(axis=1)
        bound = np.partition(maxima, n_chunks - k)[n_chunks - k]
    elif k < size:
        bound = np.partition(logits_V, size - k)[size - k]
    else:
        return _descending(logits_V, np.arange(size))
    ids: Ids = np.flatnonzero(logits_V >= bound)
    return _descending(logits_V[ids], ids)[:k]


def _descending(values: Logits, ids: Ids) -> Ids:
    """`ids` by falling value, equal ones by id: one fast sort of keys that are all different."""
    bits = (values + np.float32(0.0)).view(np.uint32)  # −0 becomes 0, so that equal is equal
    # The bits of positive floats rise with them, those of negative ones fall.
    rising = np.where(bits >> 31, ~bits, bits | np.uint32(0x80000000))
    keys = (~rising).astype(np.uint64) << np.uint64(32) | ids.astype(np.uint64)
    keys.sort()
    return (keys & np.uint64(0xFFFFFFFF)).astype(np.int64)


def token_logprob(logits_V: Logits, token: int, n_top: int) -> TokenLogprob:
    """Log-probabilities under softmax(logits), of `token` and of the n_top likeliest ones."""
    exact_V = logits_V.astype(np.float64)
    peak = exact_V.max()
    with np.errstate(under="ignore"):
        log_total = peak + np.log(np.exp(exact_V - peak).sum())
    top = top_tokens(logits_V, n_top) if n_top else ()
    pairs = tuple((int(id), float(exact_V[id] - log_total)) for id in top)
    return TokenLogprob(token, float(exact_V[token] - log_total), pairs)
