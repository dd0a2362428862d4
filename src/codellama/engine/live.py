"""A request in progress: what the engine keeps for each of its samples beside the scheduler's
Sequence.

Knows how to draw a sample's next tokens from rows of logits and how to report it when it ends. Does
not decide when that is, and never touches the cache.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from codellama.engine.request import FinishReason, Output, Request, TokenEvent, TokenLogprob
from codellama.engine.runner import Logits
from codellama.engine.sampling import Sampler, token_logprob
from codellama.engine.sequence import Sequence, Slot
from codellama.engine.speculate import Drafter
from codellama.errors import CodeLlamaError

__all__ = ["Draw", "LiveRequest", "LiveSample"]


@dataclass(slots=True)
class Draw:
    """One sample's draw in one step: the right part of the draft and a token, or an error."""

    tokens: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    error: CodeLlamaError | None = None


@dataclass(slots=True)
class LiveSample:
    """One of n samples. `sequence` is the leader's until the prompt is computed."""

    sampler: Sampler
    drafter: Drafter | None
    sequence: Sequence
    logprobs: list[TokenLogprob] = field(default_factory=list)
    done: bool = False

    def draw(self, slot: Slot, rows_RV: Logits) -> Draw:
        """One token per row, for as long as the draft was right."""
        tokens, n_prompt = slot.sequence.tokens, slot.sequence.n_prompt
        n_top = self.sampler.params.logprobs
        draw = Draw()
        for row_V, guess in zip(rows_RV, (*slot.draft, None), strict=True):
            position = len(tokens) - n_prompt + len(draw.tokens)
            history = tokens + draw.tokens if self.sampler.needs_history else tokens
            try:
                token = self.sampler.draw(row_V, history, n_prompt, position)
            except CodeLlamaError as error:
                draw.error = error
                break
            draw.tokens.append(token)
            if n_top is not None:
                draw.logprobs.append(token_logprob(row_V, token, n_top))
            if token != guess:
                break
        return draw


@dataclass(slots=True)
class LiveRequest:
    """`open` samples have not ended yet; events go to `inbox`, too, where there is one."""

    id: int
    request: Request
    seed: int
    stop_ids: frozenset[int]
    samples: list[LiveSample]
    inbox: deque[TokenEvent] | None
    open: int

    @classmethod
    def start(
        cls,
        request: Request,
        sequence: Sequence,
        *,
        seed: int,
        stop_ids: frozenset[int],
        inbox: deque[TokenEvent] | None,
        drafter: Callable[[], Drafter | None],
    ) -> LiveRequest:
        """`drafter` is called once for each sample."""
        params = request.params
        samples = [
            LiveSample(
                Sampler(params, seed=seed, index=index, constraint=request.constraint),
                drafter(),
                sequence,
            )
            for index in range(request.n)
        ]
        return cls(sequence.request_id, request, seed, stop_ids, samples, inbox, request.n)

    def token_events(self, index: int, tokens: list[int], draw: Draw) -> list[TokenEvent]:
        """Events of the kept tokens of a draw, in order; their log-probabilities are noted."""
        logprobs: list[TokenLogprob | None] = [*draw.logprobs[: len(tokens)]] or [None] * len(
            tokens
        )
        self.samples[index].logprobs += draw.logprobs[: len(tokens)]
        return self._post(
            TokenEvent(request_id=self.id, index=index, token=token, logprob=logprob)
            for token, logprob in zip(tokens, logprobs, strict=True)
        )

    def end_event(
        self,
        index: int,
        reason: FinishReason,
        *,
        stop_id: int | None = None,
        error: CodeLlamaError | None = None,
    ) -> list[TokenEvent]:
        """The last event of a sample, which is done with it; empty if it was already."""
        sample = self.samples[index]
        if sample.done:
            return []
        sample.done = True
        self.open -= 1
        sequence, drafter = sample.sequence, sample.drafter
        if drafter is not None:
            drafter.close()
        output = Output(
            request_id=self.id,
            index=index,
            ids=tuple(sequence.tokens[sequence.n_prompt :]) if sequence.index == index else (),
            finish_reason=reason,
            stop_id=stop_id,
            logprobs=None if self.request.params.logprobs is None else tuple(sample.logprobs),
            prompt_tokens=sequence.n_prompt,
            cached_tokens=sequence.cached or 0,
            seed=self.seed,
            drafted=drafter.drafted if drafter else 0,
            accepted=drafter.accepted if drafter else 0,
            error=error,
        )
        return self._post([TokenEvent(request_id=self.id, index=index, output=output)])

    def _post(self, events: Iterable[TokenEvent]) -> list[TokenEvent]:
        posted = list(events)
        if self.inbox is not None:
            self.inbox.extend(posted)
        return posted
