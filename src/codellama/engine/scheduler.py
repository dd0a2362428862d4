"""What runs in the next step: continuous batching, chunked prefill, priorities, pre-emption.

A state machine over token lists and block tables: no tensors, no text, no clock but its own count
of steps. It decides which tokens of which sequence are computed next and promises: the step's token
budget holds; tokens of sequences that are already answering come before prompts; no slot
spans prompt and answer; nothing waits for ever; every block comes back.

Order. Each request gets a rank at submit, `arrival step − priority · head_start`, ties by
submission. A priority level is thus a head start of so many steps, not a licence to starve others.
Every eighth step prompts are computed in the order of their submission instead, so that a steady
stream of urgent ones slows others down and does not stop them for the length of their head start
(of 1,024 steps: minutes on a CPU). Smaller ranks take budget, slots and blocks first; whoever must
give blocks back has the largest rank, loses its place (not its tokens) and recomputes later, mostly
from the prefix cache. The smallest rank always runs, so there is always progress.
"""

from __future__ import annotations

from array import array
from bisect import insort
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from codellama.engine.kv_pool import KVPool, blocks_for
from codellama.engine.runner import BLOCK_SIZE
from codellama.engine.sequence import Sequence, Slot

__all__ = ["Drafter", "Scheduler", "SchedulerConfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerConfig:
    """Bounds of a step.

    Attributes:
        step_tokens: tokens computed in one step at most. A cancelled request stops within one step.
        max_running: sequences that hold blocks at the same time (forks of a running request may
            exceed it).
        head_start: steps by which one level of priority lets a request overtake.
        turn: every so many steps prompts go by submission, not by rank.
        draft_rows: decode rows of a step up to which drafts fill it: a small batch reads the
            weights anyway.
    """

    step_tokens: int = 512
    max_running: int = 64
    head_start: int = 1024
    turn: int = 8
    draft_rows: int = 32

    def __post_init__(self) -> None:
        assert 0 < self.max_running < self.step_tokens, "decoding alone would fill every step"


Drafter = Callable[[Sequence, int], list[int]]
"""A guess at the next tokens of a sequence, at most so many; empty where there is none."""


class Scheduler:
    """Sequences waiting and running, both in order of rank.

    Use: `submit`; then per step `schedule`, and for each slot `advance`, and `extend` or `finish`
    for what was drawn.
    """

    def __init__(self, pool: KVPool, config: SchedulerConfig, draft: Drafter | None = None) -> None:
        self.pool = pool
        self.config = config
        self.waiting: list[Sequence] = []
        self.running: list[Sequence] = []
        self.preemptions = 0
        self._draft = draft or (lambda sequence, limit: [])
        self._clock = 0
        self._submitted = 0

    def submit(
        self, request_id: int, prompt: list[int], *, limit: int, n: int = 1, priority: int = 0
    ) -> Sequence:
        """Queue a prompt. Needs n_prompt ≤ limit and a pool that holds `limit` tokens."""
        assert blocks_for(limit) <= self.pool.n_blocks, "it would never fit"
        head_start = priority * self.config.head_start
        rank = (self._clock - head_start, self._submitted, 0)
        self._submitted += 1
        sequence = Sequence(request_id, 0, rank, prompt, len(prompt), limit, forks=n - 1)
        sequence.check()
        self._insert(self.waiting, sequence)
        return sequence

    def schedule(self) -> list[Slot]:
        """The next step; empty only when nothing waits or runs."""
        self._clock += 1
        self._grow()
        self._admit()
        return self._fill()

    def advance(self, slot: Slot) -> list[Sequence]:
        """The slot's known tokens are computed. Returns whom to draw for, forks included."""
        sequence = slot.sequence
        sequence.computed += slot.count
        self._publish(sequence)
        if not slot.samples:
            return []
        forks = [self._fork(sequence, index) for index in range(1, sequence.forks + 1)]
        sequence.forks = 0
        return [sequence, *forks]

    def extend(self, sequence: Sequence, tokens: list[int]) -> None:
        """These tokens were drawn; the cache has all but the last, which were drafted rightly."""
        sequence.tokens += tokens
        sequence.computed += len(tokens) - 1
        self._publish(sequence)

    def finish(self, sequence: Sequence) -> None:
        """Take a sequence out, between steps; its published blocks stay in the prefix tree."""
        self._remove(self.running if sequence.blocks else self.waiting, sequence)
        self._release(sequence)

    def borrow(self, count: int) -> array[int]:
        """Blocks for another use, pre-empting as needed; give them back with `pool.release`."""
        while self.pool.available < count:
            self._preempt(self.running[-1])
        return self.pool.allocate(count)

    def check_integrity(self) -> None:
        """Assert every invariant. For tests and after interrupts."""
        for queue in (self.waiting, self.running):
            assert [s.rank for s in queue] == sorted(s.rank for s in queue), (
                "a queue is out of order"
            )
        for sequence in self.waiting:
            held = len(sequence.blocks), sequence.computed, sequence.published
            assert held == (0, 0, 0), "a waiting sequence holds blocks"
        for sequence in self.running:
            assert sequence.blocks, "a running sequence holds no blocks"
            sequence.check()
        self.pool.check_integrity(sequence.blocks for sequence in self.running)

    # A step, in three parts.

    def _grow(self) -> None:
        """Room for all known tokens; who finds none pre-empts the largest rank, or itself."""
        for sequence in tuple(self.running):
            while sequence.blocks and not self._secure(sequence):
                self._preempt(self.running[-1])

    def _secure(self, sequence: Sequence) -> bool:
        """Own blocks for the next known tokens, up to the last one. False if blocks are short."""
        missing = max(0, blocks_for(len(sequence.tokens)) - len(sequence.blocks))
        first = sequence.computed // BLOCK_SIZE
        shared = first < len(sequence.blocks) and self.pool.is_shared(sequence.blocks[first])
        if self.pool.available < missing + shared:
            return False
        if shared:
            self.pool.make_private(sequence.blocks, first)
        sequence.blocks.extend(self.pool.allocate(missing))
        return True

    def _admit(self) -> None:
        """Waiting sequences run, in order, while there are tokens, slots and blocks for them."""
        while self.waiting and self._has_tokens(head := self.waiting[0]):
            overtaken = [sequence for sequence in self.running if sequence.rank > head.rank]
            if not self._fits(head, overtaken):
                break
            del self.waiting[0]
            self._insert(self.running, head)

        if self.waiting and self._in_turn:
            oldest = min(self.waiting, key=_submission)
            if self._fits(oldest, []):
                self._remove(self.waiting, oldest)
                self._insert(self.running, oldest)

    @property
    def _in_turn(self) -> bool:
        """Whether this step goes by submission: for prompts, and for one that waits if there is
        room without pre-empting anybody.
        """
        return self._clock % self.config.turn == 0

    def _has_tokens(self, head: Sequence) -> bool:
        ahead = sum(s.pending if s.rank < head.rank else s.pending == 1 for s in self.running)
        return ahead < self.config.step_tokens

    def _fits(self, head: Sequence, overtaken: list[Sequence]) -> bool:
        """Give `head` a slot and blocks, at the cost of those it overtakes; False changes nothing.

        Every sequence that goes on running keeps a block in reserve, or admitting one would soon
        pre-empt it again.
        """
        blocks = self.pool.match(head.tokens, len(head.tokens) - 1)
        matched = len(blocks)
        missing = blocks_for(len(head.tokens)) - matched
        victims = 0
        while not self._has_room(missing, overtaken[len(overtaken) - victims :]):
            if victims == len(overtaken):
                self.pool.release(blocks)
                return False
            victims += 1
        for _ in range(victims):
            self._preempt(self.running[-1])
        blocks.extend(self.pool.allocate(missing))
        head.blocks = blocks
        head.published = matched
        head.computed = matched * BLOCK_SIZE
        if head.cached is None:
            head.cached = head.computed
        return True

    def _has_room(self, missing: int, victims: list[Sequence]) -> bool:
        remaining = len(self.running) - len(victims)
        freed = self.pool.would_free(sequence.blocks for sequence in victims)
        enough = self.pool.available + freed >= missing + remaining
        return enough and remaining < self.config.max_running

    def _fill(self) -> list[Slot]:
        """Hand out the budget: answering sequences first, then drafts for them, then prompts.

        The slots come back with prompts last. After a pre-emption, prompt and answer are computed
        in separate steps: a runner may round them differently (Batch.n_decode).
        """
        budget = self.config.step_tokens
        answering = [s for s in self.running if s.pending == 1][:budget]
        budget -= len(answering)
        rows = min(budget, self.config.draft_rows - len(answering))
        slots = []
        for sequence in answering:
            draft = self._drafted(sequence, rows)
            rows -= len(draft)
            budget -= len(draft)
            slots.append(self._slot(sequence, 1, draft))
        by_turn = sorted(self.running, key=_submission) if self._in_turn else self.running
        for sequence in by_turn:
            if sequence.pending > 1 and budget:
                prompt = max(0, sequence.n_prompt - sequence.computed)
                count = min(prompt or sequence.pending, budget)
                budget -= count
                slots.append(self._slot(sequence, count))
        return sorted(slots, key=lambda slot: slot.prompt)

    def _slot(self, sequence: Sequence, count: int, draft: tuple[int, ...] = ()) -> Slot:
        ends = count == sequence.pending
        return Slot(sequence, count, draft, samples=ends and len(sequence.tokens) < sequence.limit)

    def _drafted(self, sequence: Sequence, rows: int) -> tuple[int, ...]:
        """A draft that pre-empts nobody and leaves room for the token drawn after it."""
        room = (len(sequence.blocks) + self.pool.available) * BLOCK_SIZE - len(sequence.tokens)
        most = min(rows, room, sequence.limit - len(sequence.tokens) - 1)
        if most <= 0 or sequence.forks or sequence.computed < sequence.n_prompt:
            return ()
        draft = tuple(self._draft(sequence, most))
        assert len(draft) <= most, "a draft longer than asked for"
        missing = blocks_for(len(sequence.tokens) + len(draft)) - len(sequence.blocks)
        sequence.blocks.extend(self.pool.allocate(max(0, missing)))
        return draft

    # Moves.

    def _fork(self, parent: Sequence, index: int) -> Sequence:
        fork = Sequence(
            parent.request_id,
            index,
            (*parent.rank[:2], index),
            parent.tokens.copy(),
            parent.n_prompt,
            parent.limit,
            blocks=self.pool.share(parent.blocks),
            computed=parent.computed,
            published=parent.published,
            cached=parent.cached,
        )
        self._insert(self.running, fork)
        return fork

    def _publish(self, sequence: Sequence) -> None:
        while (end := (sequence.published + 1) * BLOCK_SIZE) <= sequence.computed:
            tokens = sequence.tokens[end - BLOCK_SIZE : end]
            self.pool.publish(sequence.blocks, sequence.published, tokens)
            sequence.published += 1

    def _preempt(self, sequence: Sequence) -> None:
        self._remove(self.running, sequence)
        self._release(sequence)
        self._insert(self.waiting, sequence)
        self.preemptions += 1

    def _release(self, sequence: Sequence) -> None:
        self.pool.release(sequence.blocks)
        sequence.blocks = array("i")
        sequence.computed = sequence.published = 0

    @staticmethod
    def _insert(queue: list[Sequence], sequence: Sequence) -> None:
        insort(queue, sequence, key=lambda s: s.rank)

    @staticmethod
    def _remove(queue: list[Sequence], sequence: Sequence) -> None:
        assert sequence in queue, "the sequence is not in its queue"
        queue.remove(sequence)

    def __iter__(self) -> Iterator[Sequence]:
        yield from self.running
        yield from self.waiting


def _submission(sequence: Sequence) -> tuple[int, int]:
    return sequence.rank[1:]
