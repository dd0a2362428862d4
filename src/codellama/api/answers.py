"""An answer as text: pieces while it grows, a Completion when it has ended.

Joins the engine's token events with the model's TextStream, and ends a sample at its stop text by
cancelling it.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass, field

from codellama.engine.engine import Engine
from codellama.engine.params import SamplingParams
from codellama.engine.request import (
    Constraint,
    FinishReason,
    Output,
    Request,
    TokenEvent,
    TokenLogprob,
)
from codellama.model.stream import TextStream
from codellama.model.tokenizer import Tokenizer

__all__ = ["Answer", "Completion", "Prompt", "TextIterator", "Usage", "answer_events"]


@dataclass(frozen=True, slots=True)
class Prompt:
    """What to continue, and how the answer's text begins.

    Attributes:
        ids: the prompt.
        repeated: bytes of the prompt that the answer starts with (healing), and are left out.
        constraint: what enforces them.
        trim: leave out white space at the start, too: SentencePiece puts a space before an answer's
            first word.
        until: what ends the answer besides; see model.stream.arrival.
    """

    ids: list[int]
    repeated: bytes = b""
    constraint: Constraint | None = None
    trim: bool = False
    until: tuple[str, int] | None = None

    def stream(self, tokenizer: Tokenizer, params: SamplingParams) -> TextStream:
        """A new stream of the answer's text."""
        return TextStream(
            tokenizer, params.stop, params.max_lines, skip=self.repeated, until=self.until
        )


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts. Of the prompt, `cached_tokens` were found computed; `accepted_tokens` of the
    `drafted_tokens` that speculation guessed were right.
    """

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    drafted_tokens: int = field(default=0, compare=False)
    accepted_tokens: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Completion:
    """A finished answer.

    Attributes:
        text: without stop text or stop token; of infilling, the middle only.
        tokens: the ids that were generated, those of a stop text included.
        finish_reason: "stop" (stop token, stop text, max_lines), "length" (max_tokens or the end of
            the context), or "cancelled".
        usage: token counts.
        logprobs: one per token, when asked for.
        seed: repeats this answer.
    """

    text: str
    tokens: list[int]
    finish_reason: FinishReason
    usage: Usage
    logprobs: list[TokenLogprob] | None
    seed: int


@dataclass(slots=True)
class Answer:
    """One sample as text, while it grows."""

    stream: TextStream
    vocab_size: int
    trim: bool = False
    pieces: list[str] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    output: Output | None = None

    def take(self, event: TokenEvent) -> str:
        """The text that an event adds."""
        piece = ""
        if event.token is not None and not self.stream.stopped:
            self.tokens.append(event.token)
            if event.logprob is not None:
                self.logprobs.append(event.logprob)
            # Embeddings may be padded with rows that no tokenizer knows.
            if event.token < self.vocab_size:
                piece = self.stream.push(event.token)
        elif event.output is not None:
            self.output = event.output
            piece = self.stream.finish()
        if self.trim:
            piece = piece.lstrip()
            self.trim = not piece
        if piece:
            self.pieces.append(piece)
        return piece

    def completion(self) -> Completion:
        output = self.output
        assert output is not None, "the answer has not ended"
        return Completion(
            text="".join(self.pieces),
            tokens=self.tokens,
            finish_reason="stop" if self.stream.stopped else output.finish_reason,
            usage=Usage(
                output.prompt_tokens,
                len(self.tokens),
                output.cached_tokens,
                output.drafted,
                output.accepted,
            ),
            logprobs=None if output.logprobs is None else self.logprobs,
            seed=output.seed,
        )


class TextIterator(Iterator[str]):
    """Pieces of an answer as they come: whole characters, never part of a stop text.

    Closing it early (`close()`, leaving a `with` block, or dropping it) cancels the request.
    `completion` is the whole answer once the pieces have ended, None before.
    """

    def __init__(self, pieces: Generator[tuple[int, Answer, str]]) -> None:
        self._pieces = pieces
        self.completion: Completion | None = None

    def __next__(self) -> str:
        for _place, answer, piece in self._pieces:
            if answer.output is not None:
                self.completion = answer.completion()
            if piece:
                return piece
        raise StopIteration

    def close(self) -> None:
        self._pieces.close()

    def __enter__(self) -> TextIterator:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def answer_events(
    engine: Engine, tokenizer: Tokenizer, prompts: list[Prompt], params: SamplingParams, n: int = 1
) -> Generator[tuple[int, Answer, str]]:
    """Generate n answers per prompt: (place among all answers, the answer, the text just added).

    Prompts are checked now and submitted at the first `next`; closing the iterator cancels them.
    """
    requests = [
        Request(prompt_ids=tuple(prompt.ids), params=params, n=n, constraint=prompt.constraint)
        for prompt in prompts
    ]
    answers = [
        Answer(prompt.stream(tokenizer, params), tokenizer.vocab_size, prompt.trim)
        for prompt in prompts
        for _ in range(n)
    ]
    return _follow(engine, engine.events(requests), answers, n)


def _follow(
    engine: Engine, events: Generator[tuple[int, TokenEvent]], answers: list[Answer], n: int
) -> Generator[tuple[int, Answer, str]]:
    try:
        for position, event in events:
            place = position * n + event.index
            answer = answers[place]
            running = not answer.stream.stopped
            piece = answer.take(event)
            if running and answer.stream.stopped:
                engine.cancel(event.request_id, event.index)
            yield place, answer, piece
    finally:
        events.close()
