"""The engine: Requests in, token events and Outputs out, over any Runner.

step = schedule → run → sample → commit.

Knows token ids only; text, stop strings and templates belong to the callers, who end a sample by
`cancel`. One engine serves many threads: each public call takes the engine's turn, a step is one
turn, so a cancellation waits for at most one step (scoring a text is one turn, too). Streams share
the steps: whoever waits for an event runs the next step for all.

Does not promise that an exception inside a step (an interrupt, a runner out of memory) spares the
other requests: the state it leaves is checked, and where it is broken every live request ends with
an error and the cache is dropped.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from pathlib import Path
from time import perf_counter

import numpy as np

from codellama.engine import saved_prefixes
from codellama.engine.batch import Run, assemble, run_alone
from codellama.engine.draft_model import Speculation
from codellama.engine.kv_pool import KVPool, blocks_for
from codellama.engine.live import Draw, LiveRequest
from codellama.engine.request import FinishReason, Output, Request, TokenEvent
from codellama.engine.runner import BLOCK_SIZE, Batch, Logits, Runner
from codellama.engine.scheduler import Scheduler, SchedulerConfig
from codellama.engine.sequence import Sequence, Slot
from codellama.engine.status import EngineStatus
from codellama.engine.turn import Turn
from codellama.errors import CodeLlamaError, ContextOverflowError, RequestError

__all__ = ["Engine"]


class Engine:
    """Continuous batching over a runner.

    Args:
        runner: the model and the memory of its KV cache, which belongs to this engine alone.
        stop_ids: tokens that end every answer (unless ignore_eos).
        config: bounds of a step.
        prefix_cache: keep computed prompts for later ones with the same beginning.
        draft: a small model of the same vocabulary, which then drafts for every request that does
            not say `speculate=False`; it belongs to this engine alone, too.
        clock: seconds; what it says of the steps decides how deep to draft, and nothing else.

    >>> engine = Engine(runner, stop_ids=frozenset({2}))         # doctest: +SKIP
    >>> engine.generate([Request(prompt_ids=(1, 822))])[0].ids   # doctest: +SKIP
    """

    def __init__(
        self,
        runner: Runner,
        *,
        stop_ids: frozenset[int] = frozenset(),
        config: SchedulerConfig | None = None,
        prefix_cache: bool = True,
        draft: Runner | None = None,
        clock: Callable[[], float] = perf_counter,
    ) -> None:
        self.context = min(runner.context, runner.n_blocks * BLOCK_SIZE)
        self._runner = runner
        self._stop_ids = frozenset(stop_ids)
        self._config = config or SchedulerConfig()
        self._prefix_cache = prefix_cache
        self._draft_runner = draft
        self._clock = clock
        self._abandoned: deque[int] = deque()  # closed streams; a finalizer must not take a turn
        self._turn = Turn(self._end_abandoned)
        self._last_id = 0
        self._reset()

    def _reset(self) -> None:
        pool = KVPool(self._runner.n_blocks, self._runner.copy_block, caching=self._prefix_cache)
        self._scheduler = Scheduler(pool, self._config, self._draft)
        self._live: dict[int, LiveRequest] = {}
        self._speculation = Speculation(self._draft_runner, self._clock)

    @property
    def idle(self) -> bool:
        """Whether no request is in progress."""
        with self._turn:
            return not self._live

    def status(self) -> EngineStatus:
        """How busy it is, for metrics."""
        with self._turn:
            scheduler = self._scheduler
            return EngineStatus(
                running=len(scheduler.running),
                waiting=len(scheduler.waiting),
                blocks=scheduler.pool.n_blocks,
                free_blocks=scheduler.pool.available,
                cached_tokens=scheduler.pool.published * BLOCK_SIZE,
                preemptions=scheduler.preemptions,
            )

    def check(self, request: Request) -> None:
        """Whether this engine can serve the request, before any work.

        Raises:
            ContextOverflowError: the prompt and one token of answer exceed the context.
            RequestError: a token id outside the vocabulary, in the prompt or the params.
        """
        self._check(request.prompt_ids, answer=request.params.max_tokens != 0)
        request.params.check_ids(self._runner.vocab_size)

    def submit(self, request: Request) -> int:
        """Queue a request; its events come from `step`. Raises as `check` does."""
        self.check(request)
        with self._turn:
            return self._submit(request, None)

    def step(self) -> list[TokenEvent]:
        """Compute one batch for all requests. No events are no end: prompts take several steps."""
        with self._turn:
            return self._step()

    def cancel(self, request_id: int, index: int | None = None) -> list[Output]:
        """End a request, or one of its samples, now. Nothing to end is no error."""
        with self._turn:
            return self._cancel(request_id, index)

    def generate(self, requests: list[Request]) -> list[Output]:
        """All samples of all requests, in order. Raises as `check` does, and a sample's error."""
        outputs: dict[tuple[int, int], Output] = {}
        for position, event in self.events(requests):
            if event.output is not None:
                outputs[position, event.index] = event.output
        return [outputs[key] for key in sorted(outputs)]

    def stream(self, request: Request) -> Generator[TokenEvent]:
        """One request's events. Closing the iterator early cancels it."""
        return _events_only(self.events([request]))

    def events(self, requests: list[Request]) -> Generator[tuple[int, TokenEvent]]:
        """Events of several requests as they come, each with its request's position in the list.

        Requests are checked now and submitted at the first `next`; closing the iterator cancels
        what is unfinished.
        """
        for request in requests:
            self.check(request)
        return self._events(requests)

    def save_prefixes(self, path: Path, model: str, *, most_bytes: int) -> int:
        """Write the prefix cache to a file; tokens saved. See engine/saved_prefixes.py."""
        with self._turn:
            return saved_prefixes.save(self._scheduler.pool, self._runner, path, model, most_bytes)

    def restore_prefixes(self, path: Path, model: str) -> int:
        """Take back what `save_prefixes` wrote; tokens restored, 0 where the file is of no use."""
        with self._turn:
            return saved_prefixes.restore(self._scheduler.pool, self._runner, path, model)

    def erase_prefixes(self) -> int:
        """Forget every computed prompt that no request uses; how many tokens."""
        with self._turn:
            return self._scheduler.pool.forget() * BLOCK_SIZE

    def logits(self, ids: list[int]) -> Logits:
        """Logits after each of the ids, float32 [T, V]. Raises as `check` does."""
        return self._score(ids, self._runner.run)

    def logprobs(self, ids: list[int]) -> Logits:
        """Log-probability of each id but the first, after those before it, float32 [T - 1]: the
        logits of one chunk at a time. Raises as `check` does.
        """

        def run(batch: Batch) -> Logits:
            start = int(batch.past_S[0])
            logits_TV = self._runner.run(batch)
            targets = ids[start + 1 : start + 1 + len(logits_TV)]
            # Row by row: what a row needs stays in the cache (49,152 logits are 200 kB).
            return np.array(
                [_logprob(row_V, t) for row_V, t in zip(logits_TV, targets, strict=False)],
                np.float32,
            )

        return self._score(ids, run)

    def hidden(self, ids: list[int]) -> Logits:
        """Last normalized hidden states, float32 [T, D]. RequestError where the runner has none."""
        run = getattr(self._runner, "hidden", None)
        if run is None:
            raise RequestError("this runner gives no hidden states, so there are no embeddings")
        return self._score(ids, run)

    # Turns: every entry from outside is one.

    def _end_abandoned(self) -> None:
        while self._abandoned:
            self._cancel(self._abandoned.popleft(), None)

    def _events(self, requests: list[Request]) -> Generator[tuple[int, TokenEvent]]:
        inbox: deque[TokenEvent] = deque()
        with self._turn:
            positions = {self._submit(request, inbox): i for i, request in enumerate(requests)}
        unfinished = sum(request.n for request in requests)
        try:
            while unfinished:
                with self._turn:
                    if not inbox:
                        self._step()
                while inbox:
                    event = inbox.popleft()
                    if event.output is not None:
                        unfinished -= 1
                        if event.output.error is not None:
                            raise event.output.error
                    yield positions[event.request_id], event
        finally:
            if unfinished:
                self._abandoned.extend(positions)

    def _check(self, ids: tuple[int, ...] | list[int], *, answer: bool = False) -> None:
        if not ids:
            raise RequestError("the text is empty: give at least one token")
        low, high = min(ids), max(ids)
        if low < 0 or high >= self._runner.vocab_size:
            known = f"token ids go from 0 to {self._runner.vocab_size - 1}"
            raise RequestError(f"{known}: the prompt has {low} to {high}")
        if len(ids) + answer > self.context:
            raise ContextOverflowError(len(ids), self.context)

    def _score(self, ids: list[int], run: Run) -> Logits:
        self._check(ids)
        with self._turn:
            blocks = self._scheduler.borrow(blocks_for(len(ids)))
            try:
                return run_alone(run, ids, blocks, self._config.step_tokens)
            finally:
                self._scheduler.pool.release(blocks)

    # Inside a turn.

    def _submit(self, request: Request, inbox: deque[TokenEvent] | None) -> int:
        self._last_id += 1
        params, n_prompt = request.params, len(request.prompt_ids)
        most = self.context if params.max_tokens is None else n_prompt + params.max_tokens
        sequence = self._scheduler.submit(
            self._last_id,
            list(request.prompt_ids),
            limit=min(self.context, most),
            n=request.n,
            priority=request.priority,
        )
        self._live[self._last_id] = LiveRequest.start(
            request,
            sequence,
            seed=params.drawn_seed(),
            stop_ids=params.stop_ids if params.ignore_eos else params.stop_ids | self._stop_ids,
            inbox=inbox,
            drafter=lambda: self._speculation.drafter(params),
        )
        return self._last_id

    def _step(self) -> list[TokenEvent]:
        try:
            plan = self._scheduler.schedule()
            logits_RV = self._run(plan)
            draws = self._sample(plan, logits_RV)
            return self._commit(plan, draws)
        except BaseException:
            self._recover()
            raise

    def _run(self, plan: list[Slot]) -> Logits:
        if not plan:
            return np.empty((0, self._runner.vocab_size), np.float32)
        batch = assemble(plan)
        begin = self._clock()
        logits_RV = self._runner.run(batch)
        if all(slot.count == 1 for slot in plan):  # decoding and drafts only
            self._speculation.cost.observe(len(batch.tokens_T), self._clock() - begin)
        return logits_RV

    def _sample(self, plan: list[Slot], logits_RV: Logits) -> list[list[Draw]]:
        """Per slot, what its samples draw: none inside a prompt, n where n samples part."""
        draws: list[list[Draw]] = []
        row = 0
        for slot in plan:
            rows_RV = logits_RV[row : row + slot.n_rows]
            row += slot.n_rows
            first, forks = slot.sequence.index, slot.sequence.forks
            samples = self._live[slot.sequence.request_id].samples[first : first + 1 + forks]
            draws.append([sample.draw(slot, rows_RV) for sample in samples if slot.samples])
        return draws

    def _commit(self, plan: list[Slot], draws: list[list[Draw]]) -> list[TokenEvent]:
        events: list[TokenEvent] = []
        for slot, drawn in zip(plan, draws, strict=True):
            live = self._live[slot.sequence.request_id]
            sequences = self._scheduler.advance(slot)
            if not sequences and not slot.sequence.pending:  # max_tokens 0: the prompt was all
                events += [e for i in range(live.request.n) for e in self._end(live, i, "length")]
            for sequence, draw in zip(sequences, drawn, strict=True):
                events += self._take(live, sequence, len(slot.draft), draw)
        return events

    def _take(
        self, live: LiveRequest, sequence: Sequence, drafted: int, draw: Draw
    ) -> list[TokenEvent]:
        """Append what was drawn up to a stop token, and end the sample where it ends."""
        index, sample = sequence.index, live.samples[sequence.index]
        if sample.done:  # cancelled before it was split off
            self._scheduler.finish(sequence)
            return []
        sample.sequence = sequence
        stop = next((i for i, token in enumerate(draw.tokens) if token in live.stop_ids), None)
        kept = draw.tokens[:stop]
        if kept:
            self._scheduler.extend(sequence, kept)
        if sample.drafter is not None:
            sample.drafter.observe(drafted, max(0, len(draw.tokens) - 1))
        events = live.token_events(index, kept, draw)
        if stop is not None:
            events += self._end(live, index, "stop", stop_id=draw.tokens[stop])
        elif draw.error is not None:
            events += self._end(live, index, "error", error=draw.error)
        elif len(sequence.tokens) == sequence.limit:
            events += self._end(live, index, "length")
        return events

    def _end(
        self,
        live: LiveRequest,
        index: int,
        reason: FinishReason,
        *,
        stop_id: int | None = None,
        error: CodeLlamaError | None = None,
    ) -> list[TokenEvent]:
        events = live.end_event(index, reason, stop_id=stop_id, error=error)
        sequence = live.samples[index].sequence
        others_need_it = sequence.forks and live.open  # the prompt, not yet computed
        if events and not others_need_it:
            self._scheduler.finish(sequence)
        if not live.open:
            self._live.pop(live.id, None)
        return events

    def _cancel(self, request_id: int, index: int | None) -> list[Output]:
        live = self._live.get(request_id)
        if live is None:
            return []
        indices = range(live.request.n) if index is None else (index,)
        ended = [event for i in indices for event in self._end(live, i, "cancelled")]
        return [event.output for event in ended if event.output is not None]

    def _draft(self, sequence: Sequence, limit: int) -> list[int]:
        drafter = self._live[sequence.request_id].samples[sequence.index].drafter
        sequences = len(self._scheduler.running)
        return drafter.propose(sequence.tokens, limit, sequences) if drafter else []

    def _recover(self) -> None:
        """After an exception in a step: keep what is whole, else start afresh and tell everyone."""
        try:
            self._scheduler.check_integrity()
            assert {sequence.request_id for sequence in self._scheduler} == set(self._live)
        except AssertionError:
            lost = self._live
            self._reset()
            error = RequestError("the engine was interrupted in the middle of a step: ask again")
            for live in lost.values():
                for index in range(live.request.n):
                    live.end_event(index, "error", error=error)


def _logprob(row_V: Logits, token: int) -> float:
    most = row_V.max()
    return float(row_V[token] - most - np.log(np.exp(row_V - most).sum(dtype=np.float64)))


def _events_only(events: Generator[tuple[int, TokenEvent]]) -> Generator[TokenEvent]:
    try:
        for _position, event in events:
            yield event
    finally:
        events.close()
