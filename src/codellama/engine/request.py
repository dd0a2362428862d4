"""What is asked of the engine and what it answers, in token ids: Request, TokenEvent, Output.

Knows no text, no cache and no model. Does not check prompts against a vocabulary
or a context: the engine does, at submit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

from codellama.engine import checks
from codellama.engine.params import SamplingParams
from codellama.errors import CodeLlamaError, RequestError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = [
    "Constraint",
    "FinishReason",
    "Output",
    "Request",
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
        checks.integer("n", self.n, 1, MAX_SAMPLES)
        checks.integer("priority", self.priority, -100, 100)
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
