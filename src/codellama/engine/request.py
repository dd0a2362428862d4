"""What is asked of the engine and what it answers, in token ids: SamplingParams, Request,
TokenEvent, Output.

Knows no text (stop strings and line limits are carried for the callers, who own the tokenizer), no
cache and no model. Does not check prompts against a vocabulary or a context: the engine does, at
submit.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal, Protocol

from codellama.errors import CodeLlamaError, RequestError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = [
    "Constraint",
    "FinishReason",
    "Output",
    "Request",
    "SamplingParams",
    "Steering",
    "TokenEvent",
    "TokenLogprob",
]

FinishReason = Literal["stop", "length", "cancelled", "error"]

Constraint = Callable[[list[int]], "npt.NDArray[np.bool_] | None"]
"""Tokens generated so far → mask [V] of the tokens that may follow, or None where all may.

A pure function of its argument: it is asked again for the same tokens after a pre-emption, for each
fork and for each draft, in any order. Token healing, grammars and schemas all have this shape.
"""


class Steering(Protocol):
    """A Constraint that looks at drawn tokens, too: where a mask of all would cost too much.

    `rejects` says whether `token` may not follow `output`; then the next best one is drawn, up to
    sampling.MOST_REJECTED times. Pure, as the mask is.
    """

    def __call__(self, output: list[int]) -> npt.NDArray[np.bool_] | None: ...
    def rejects(self, output: list[int], token: int) -> bool: ...


MAX_SAMPLES = 1024
MAX_LOGPROBS = 100
LARGEST_BIAS = 1e4  # far beyond any logit; sums stay finite in float32


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How tokens are drawn and when to stop. Frozen; derive variants with `dataclasses.replace`.

    Attributes:
        max_tokens: most tokens generated; None goes on to the end of the context; 0 only fills the
            prefix cache.
        temperature: 0 (below 1e-5) is greedy; otherwise logits are divided by it before top_k,
            top_p and min_p.
        top_k: keep the k likeliest tokens; 0 or -1 keeps all.
        top_p: keep the fewest likeliest tokens whose probabilities reach this sum.
        min_p: drop tokens less likely than this share of the likeliest one.
        repetition_penalty: divides positive, multiplies negative logits of recent tokens; 1 is off;
            0.01 to 100.
        repeat_last_n: how many recent tokens (prompt and output) the three penalties see; -1 all, 0
            none.
        presence_penalty, frequency_penalty: subtracted from the logit of recent tokens once, and
            once per occurrence.
        logit_bias: token id → number added to its logit before anything else; -inf forbids it. A
            mapping or pairs; kept as pairs in order of id.
        seed: makes draws repeatable on any batch; None takes a random one, which the Output
            reports.
        logprobs: report the log-probability of each token and of this many likeliest ones; None
            reports none.
        stop: texts that end the answer and are not part of it. Applied by whoever owns the
            tokenizer.
        stop_ids: token ids that end the answer, on top of the model's own.
        ignore_eos: generate past the model's own stop ids.
        max_lines: lines after which the answer ends. Applied by whoever owns the tokenizer.
        speculate: draft tokens by prompt lookup, and by the draft model if the engine has one; the
            text does not change. None: only if it has one.

    Raises:
        RequestError: a field out of its range, by name.

    >>> SamplingParams(temperature=0.8, top_p=0.95, seed=7, stop="\\ndef").stop
    ('\\ndef',)
    """

    max_tokens: int | None = 256
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    repeat_last_n: int = 64
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    seed: int | None = None
    logprobs: int | None = None
    stop: tuple[str, ...] = ()
    stop_ids: frozenset[int] = frozenset()
    ignore_eos: bool = False
    max_lines: int | None = None
    speculate: bool | None = None

    def __post_init__(self) -> None:
        _integer("max_tokens", self.max_tokens, 0, optional=True)
        _number("temperature", self.temperature, 0.0, 1000.0)
        _integer("top_k", self.top_k, -1)
        _number("top_p", self.top_p, 0.0, 1.0)
        _number("min_p", self.min_p, 0.0, 1.0)
        _number("repetition_penalty", self.repetition_penalty, 0.01, 100.0)
        _integer("repeat_last_n", self.repeat_last_n, -1)
        _number("presence_penalty", self.presence_penalty, -2.0, 2.0)
        _number("frequency_penalty", self.frequency_penalty, -2.0, 2.0)
        _integer("seed", self.seed, -(2**63), 2**64 - 1, optional=True)
        _integer("logprobs", self.logprobs, 0, MAX_LOGPROBS, optional=True)
        _integer("max_lines", self.max_lines, 1, optional=True)
        _flag("ignore_eos", self.ignore_eos)
        _flag("speculate", self.speculate, optional=True)
        object.__setattr__(self, "logit_bias", _biases("logit_bias", self.logit_bias))
        object.__setattr__(self, "stop", _texts("stop", self.stop))
        object.__setattr__(self, "stop_ids", _ids("stop_ids", self.stop_ids))

    @classmethod
    def from_keywords(cls, keywords: dict[str, Any]) -> SamplingParams:
        """The params that a caller's keyword arguments name.

        Raises:
            RequestError: an unknown keyword (the message lists the known ones) or a value out of
                range.
        """
        known = [each.name for each in fields(cls)]
        for name in keywords:
            if name not in known:
                raise RequestError(
                    f"unknown parameter {name!r}: the known ones are {', '.join(known)}"
                )
        return cls(**keywords)

    def drawn_seed(self) -> int:
        """The seed to use and report; greedy answers need none, and compare equal."""
        if self.seed is not None:
            return self.seed
        return 0 if self.temperature == 0.0 else int.from_bytes(os.urandom(8), "little") >> 1

    def check_ids(self, vocab_size: int) -> None:
        """Raises RequestError where logit_bias names a token that a vocabulary lacks."""
        for id, _bias in self.logit_bias[-1:]:
            if id >= vocab_size:
                raise RequestError(f"logit_bias: {id} is no token id: they end at {vocab_size - 1}")

    @property
    def penalizes(self) -> bool:
        """Whether any penalty changes logits."""
        return bool(self.repeat_last_n) and (
            self.repetition_penalty != 1.0 or bool(self.presence_penalty or self.frequency_penalty)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A prompt, how to continue it, and how urgent it is. The engine gives it an id at submit.

    Attributes:
        prompt_ids: at least one token id.
        params: how to draw and when to stop.
        n: samples of the one prompt; they share its prefill, and sample i draws as if it had a seed
            of its own.
        priority: larger is served first; a head start, so that nothing waits for ever.
        constraint: what the generated tokens may be.
    """

    prompt_ids: tuple[int, ...]
    params: SamplingParams = field(default_factory=SamplingParams)
    n: int = 1
    priority: int = 0
    constraint: Constraint | None = None

    def __post_init__(self) -> None:
        _integer("n", self.n, 1, MAX_SAMPLES)
        _integer("priority", self.priority, -100, 100)
        object.__setattr__(self, "prompt_ids", tuple(self.prompt_ids))
        if not self.prompt_ids:
            raise RequestError("the prompt is empty: give at least one token")


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """Log-probability of one token under the model's own distribution, before penalties,
    temperature and cuts.

    `top` holds the likeliest (token, log-probability) pairs, likeliest first; the chosen token need
    not be in it.
    """

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """One sample, finished.

    Attributes:
        request_id, index: which request, and which of its n samples.
        ids: generated tokens, without the stop token.
        finish_reason: "stop" (a stop token; callers also use it for stop texts), "length"
            (max_tokens or the end of the context), "cancelled", or "error".
        stop_id: the stop token that ended it, if one did.
        logprobs: one per id when asked for.
        prompt_tokens, cached_tokens: length of the prompt, and how many of its tokens the prefix
            cache held.
        seed: the seed in use, also when the caller gave none.
        drafted, accepted: speculated tokens, and how many of them were right.
        error: why, when finish_reason is "error".
    """

    request_id: int
    index: int
    ids: tuple[int, ...]
    finish_reason: FinishReason
    stop_id: int | None
    logprobs: tuple[TokenLogprob, ...] | None
    prompt_tokens: int
    cached_tokens: int
    seed: int
    drafted: int = 0
    accepted: int = 0
    error: CodeLlamaError | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenEvent:
    """One generated token (`token`), or the end of a sample (`output`)."""

    request_id: int
    index: int
    token: int | None = None
    logprob: TokenLogprob | None = None
    output: Output | None = None


def _number(name: str, value: float, low: float, high: float) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not low <= value <= high:  # NaN is in no range
        raise RequestError(f"{name} is {value!r}: it must be a number from {low:g} to {high:g}")


def _integer(
    name: str, value: int | None, low: int, high: int | None = None, *, optional: bool = False
) -> None:
    if value is None and optional:
        return
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or value is None or value < low or (high is not None and value > high):
        bound = f"from {low} up" if high is None else f"from {low} to {high}"
        none = " or None" if optional else ""
        raise RequestError(f"{name} is {value!r}: it must be an integer {bound}{none}")


def _flag(name: str, value: object, *, optional: bool = False) -> None:
    if not isinstance(value, bool) and not (optional and value is None):
        raise RequestError(
            f"{name} is {value!r}: it must be True{', False or None' if optional else ' or False'}"
        )


def _texts(name: str, value: object) -> tuple[str, ...]:
    texts = (value,) if isinstance(value, str) else value
    if not isinstance(texts, Iterable):
        raise RequestError(f"{name} is {value!r}: it must be a text or a list of texts")
    texts = tuple(texts)
    if not all(isinstance(text, str) and text for text in texts):
        raise RequestError(f"{name} is {value!r}: every stop text must be a non-empty text")
    return texts


def _biases(name: str, value: object) -> tuple[tuple[int, float], ...]:
    pairs = value.items() if isinstance(value, Mapping) else value
    try:
        found = {id: float(bias) for id, bias in pairs}  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        raise RequestError(f"{name}: it must be token ids with numbers") from None
    for id, bias in found.items():
        whole = isinstance(id, int) and not isinstance(id, bool) and id >= 0
        if not whole or not (bias == float("-inf") or abs(bias) <= LARGEST_BIAS):
            raise RequestError(
                f"{name} is {bias!r} for {id!r}: it must be a number from {-LARGEST_BIAS:g} to "
                f"{LARGEST_BIAS:g}, or -inf, for a token id"
            )
    return tuple(sorted(found.items()))


def _ids(name: str, value: object) -> frozenset[int]:
    ids = frozenset(value) if isinstance(value, Iterable) and not isinstance(value, str) else None
    if ids is None or not all(
        isinstance(id, int) and not isinstance(id, bool) and id >= 0 for id in ids
    ):
        raise RequestError(f"{name} is {value!r}: it must be a list of token ids")
    return ids
