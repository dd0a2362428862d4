"""A request in progress: token events become Deltas of text; time limits are kept.

Runs on the worker's thread. Knows engine events and text, no HTTP and no dialect: what a client
wants to see of a Delta is the dialect's business.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from codellama.api.answers import Answer, Completion, Prompt
from codellama.engine.params import SamplingParams
from codellama.engine.request import Request, TokenEvent, TokenLogprob
from codellama.errors import CodeLlamaError
from codellama.model.tokenizer import Tokenizer

__all__ = ["Budget", "Delta", "Finish", "Job", "Timings"]

CHAT, INFILL, WARM = 0, 1, -1
"""Priorities: infilling overtakes chat, and cache warming waits for both."""


@dataclass(frozen=True, slots=True)
class Budget:
    """Time limits, in seconds; None is none.

    Attributes:
        prompt: for the prompt; an answer without text when it is over.
        predict: for the answer, counted from its first token, ending it once it has a whole line
            (llama.cpp's t_max_predict_ms).
        total: for the request.
    """

    prompt: float | None = None
    predict: float | None = None
    total: float | None = None


@dataclass(slots=True)
class Timings:
    """When what happened, in seconds of `time.perf_counter`; 0 is not yet."""

    submitted: float = 0.0
    first_token: float = 0.0
    ended: float = 0.0

    @property
    def prompt_s(self) -> float:
        return max(0.0, (self.first_token or self.ended) - self.submitted)

    @property
    def predict_s(self) -> float:
        return max(0.0, self.ended - self.first_token) if self.first_token else 0.0


@dataclass(frozen=True, slots=True)
class Finish:
    """How a sample ended.

    `stop_text` says which stop text did, "" another reason; `limit` which budget ran out.
    """

    completion: Completion
    timings: Timings
    stop_text: str = ""
    limit: str = ""
    drafted: int = 0
    accepted: int = 0


@dataclass(frozen=True, slots=True)
class Delta:
    """What a step added to one sample: text, the tokens it was made of, and the end."""

    index: int
    text: str = ""
    tokens: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    finish: Finish | None = None
    error: CodeLlamaError | None = None


@dataclass(slots=True, eq=False)
class Job:
    """One request: n samples of one prompt.

    Attributes:
        editor: requests of one editor: a newer one ends an older one. None belongs to none.
        indent: an answer ends before a line that is indented by fewer characters (llama.cpp's
            n_indent).
        deliver: takes the Deltas of a step, on the thread of `loop`, or the worker's.
        loop: whose thread that is; None for the worker's.
        left: samples that have not ended.
    """

    prompt: Prompt
    params: SamplingParams
    n: int = 1
    priority: int = CHAT
    budget: Budget = Budget()
    editor: str | None = None
    indent: int = 0
    deliver: Callable[[list[Delta]], None] | None = None
    loop: asyncio.AbstractEventLoop | None = None
    timings: Timings = field(default_factory=Timings)
    id: int = 0
    left: int = 0
    _answers: list[Answer] = field(default_factory=list)
    _sent: list[int] = field(default_factory=list)
    _limit: str = ""

    def request(self) -> Request:
        """What the engine is asked."""
        return Request(
            prompt_ids=tuple(self.prompt.ids),
            params=self.params,
            n=self.n,
            priority=self.priority,
            constraint=self.prompt.constraint,
        )

    def start(self, id: int, tokenizer: Tokenizer) -> None:
        self.id, self.left = id, self.n
        self.timings.submitted = time.perf_counter()
        self._sent = [0] * self.n
        self._answers = [
            Answer(
                self.prompt.stream(tokenizer, self.params), tokenizer.vocab_size, self.prompt.trim
            )
            for _ in range(self.n)
        ]

    def take(self, event: TokenEvent) -> tuple[Delta | None, bool]:
        """The delta that an event makes, if any, and whether its sample is to be ended now."""
        answer = self._answers[event.index]
        if answer.output is not None:
            return None, False
        if event.token is not None and not self.timings.first_token:
            self.timings.first_token = time.perf_counter()
        running = not answer.stream.stopped
        piece = answer.take(event)
        ends = running and answer.stream.stopped and event.output is None
        if piece and self.indent and _falls_back(answer.pieces, self.indent):
            ends = ends or event.output is None
        if event.output is not None:
            return self._finish(answer, event, piece), False
        return (self._delta(answer, event.index, piece) if piece else None), ends

    @property
    def generated(self) -> int:
        """Tokens so far, of all samples."""
        return sum(len(answer.tokens) for answer in self._answers)

    def overdue(self, now: float) -> bool:
        """Whether a budget ran out; the job then says which one in its Finish."""
        timings, budget = self.timings, self.budget
        if budget.total is not None and now - timings.submitted > budget.total:
            self._limit = "total"
        elif not timings.first_token:
            if budget.prompt is not None and now - timings.submitted > budget.prompt:
                self._limit = "prompt"
        elif (
            budget.predict is not None
            and now - timings.first_token > budget.predict
            and all("\n" in "".join(answer.pieces) for answer in self._answers)
        ):
            self._limit = "predict"
        return bool(self._limit)

    def _delta(self, answer: Answer, index: int, piece: str) -> Delta:
        start, self._sent[index] = self._sent[index], len(answer.tokens)
        return Delta(
            index,
            piece,
            tuple(answer.tokens[start:]),
            tuple(answer.logprobs[start:]) if self.params.logprobs is not None else (),
        )

    def _finish(self, answer: Answer, event: TokenEvent, piece: str) -> Delta:
        output = event.output
        assert output is not None
        self.left -= 1
        self.timings.ended = time.perf_counter()
        delta = self._delta(answer, event.index, piece)
        if output.error is not None:
            return Delta(event.index, error=output.error)
        timings = Timings(self.timings.submitted, self.timings.first_token, self.timings.ended)
        finish = Finish(
            answer.completion(),
            timings,
            answer.stream.stop_text,
            self._limit,
            output.drafted,
            output.accepted,
        )
        return Delta(event.index, delta.text, delta.tokens, delta.logprobs, finish)


def _falls_back(pieces: list[str], indent: int) -> bool:
    """Whether a line after the first has text and is indented by fewer than `indent` spaces; the
    pieces are then cut down to what is before it.
    """
    lines = "".join(pieces).split("\n")
    for place, line in enumerate(lines[1:], 1):
        stripped = line.lstrip(" \t")
        if stripped and len(line) - len(stripped) < indent:
            pieces[:] = ["\n".join(lines[:place])]
            return True
    return False
