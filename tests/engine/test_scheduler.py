"""The scheduler: budget, order, pre-emption, forks; and a model checker that tries all."""

from __future__ import annotations

import random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from codellama.engine.kv_pool import KVPool
from codellama.engine.runner import BLOCK_SIZE
from codellama.engine.scheduler import Scheduler, SchedulerConfig
from codellama.engine.sequence import Sequence, Slot

SMALL = SchedulerConfig(step_tokens=32, max_running=4, head_start=16, draft_rows=8)


def scheduler_of(n_blocks: int = 16, config: SchedulerConfig = SMALL) -> Scheduler:
    return Scheduler(KVPool(n_blocks, lambda source, target: None), config)


def run(scheduler: Scheduler, plan: list[Slot], token: int = 9) -> list[Sequence]:
    """Pretend to compute and draw `token` everywhere; returns the sequences that finished."""
    finished = []
    for slot in plan:
        for sequence in scheduler.advance(slot):
            scheduler.extend(sequence, [*slot.draft, token])
            if len(sequence.tokens) == sequence.limit:
                scheduler.finish(sequence)
                finished.append(sequence)
    return finished


def shape(plan: list[Slot]) -> list[tuple[int, int]]:
    return [(slot.sequence.request_id, slot.count) for slot in plan]


def test_a_long_prompt_is_computed_in_chunks() -> None:
    scheduler = scheduler_of()
    scheduler.submit(1, list(range(70)), limit=80)
    counts, samples = [], []
    for _ in range(3):
        plan = scheduler.schedule()
        counts += [slot.count for slot in plan]
        samples += [slot.samples for slot in plan]
        run(scheduler, plan)
    assert counts == [32, 32, 6]
    assert samples == [False, False, True]


def test_answering_comes_before_prompts_and_they_share_a_step() -> None:
    scheduler = scheduler_of()
    scheduler.submit(1, [1] * 10, limit=40)
    run(scheduler, scheduler.schedule())
    scheduler.submit(2, [2] * 60, limit=70)
    assert shape(scheduler.schedule()) == [(1, 1), (2, 31)]


def test_short_prompts_share_a_step() -> None:
    scheduler = scheduler_of()
    for request_id in (1, 2, 3):
        scheduler.submit(request_id, [request_id] * 12, limit=20)
    assert shape(scheduler.schedule()) == [(1, 12), (2, 12), (3, 8)]


def test_equal_priority_is_first_come_first_served() -> None:
    scheduler = scheduler_of(n_blocks=4)
    scheduler.submit(1, [1] * 30, limit=60)
    scheduler.submit(2, [2] * 40, limit=60)  # does not fit beside 1
    scheduler.submit(3, [3] * 4, limit=8)  # would, but is behind 2
    started: list[int] = []
    for _ in range(60):
        plan = scheduler.schedule()
        started += [id for id, _count in shape(plan) if id not in started]
        run(scheduler, plan)
    assert started == [1, 2, 3]
    assert not scheduler.running and not scheduler.waiting


def test_priority_overtakes_and_pre_empts_when_blocks_are_short() -> None:
    scheduler = scheduler_of(n_blocks=4)
    scheduler.submit(1, [1] * 40, limit=60)
    for _ in range(3):
        run(scheduler, scheduler.schedule())
    scheduler.submit(2, [2] * 30, limit=40, priority=1)
    plan = scheduler.schedule()
    assert shape(plan) == [(2, 30)]
    assert [sequence.request_id for sequence in scheduler.waiting] == [1]
    assert scheduler.preemptions == 1
    assert len(scheduler.waiting[0].tokens) == 42, "its answer so far is kept"


def test_a_pre_empted_sequence_finds_its_prompt_in_the_prefix_tree() -> None:
    scheduler = scheduler_of(n_blocks=5)
    scheduler.submit(1, [1] * 40, limit=60)
    for _ in range(3):
        run(scheduler, scheduler.schedule())
    scheduler.submit(2, [2] * 30, limit=32, priority=1)
    for _ in range(10):
        plan = scheduler.schedule()
        if plan[0].sequence.request_id == 1:
            break
        run(scheduler, plan)
    assert plan[0].count < 42


def test_prompt_and_answer_are_recomputed_in_slots_of_their_own() -> None:
    scheduler = scheduler_of(config=SchedulerConfig(step_tokens=32, max_running=4))
    scheduler.submit(1, [1] * 10, limit=60)
    for _ in range(6):
        run(scheduler, scheduler.schedule())
    assert len(scheduler.running[0].tokens) == 16
    scheduler._preempt(scheduler.running[0])
    slots = []
    for _ in range(2):
        plan = scheduler.schedule()
        slots += [(slot.prompt, slot.count, slot.samples) for slot in plan]
        run(scheduler, plan)
    assert slots == [(True, 10, False), (False, 6, True)]


def test_nothing_is_pre_empted_in_vain() -> None:
    """A big urgent prompt that would not fit even then leaves the small running ones alone."""
    scheduler = scheduler_of(n_blocks=8)
    scheduler.submit(1, [1] * 60, limit=120, priority=2)
    for _ in range(3):
        run(scheduler, scheduler.schedule())
    scheduler.submit(2, [2] * 10, limit=14)
    run(scheduler, scheduler.schedule())
    scheduler.submit(3, [3] * 100, limit=110, priority=1)
    run(scheduler, scheduler.schedule())
    assert scheduler.preemptions == 0


def test_running_sequences_keep_a_block_in_reserve() -> None:
    scheduler = scheduler_of(n_blocks=4)
    scheduler.submit(1, [1] * 30, limit=64)
    run(scheduler, scheduler.schedule())
    scheduler.submit(2, [2] * 30, limit=40)  # its two blocks are free, but 1 will soon need one
    assert shape(scheduler.schedule()) == [(1, 1)]


def test_a_low_priority_waits_for_a_bounded_time() -> None:
    scheduler = scheduler_of(n_blocks=4)
    scheduler.submit(0, [5] * 40, limit=44, priority=-1)
    finished: list[int] = []
    for step in range(1, 100):
        scheduler.submit(step, [step % 7] * 40, limit=42)  # an endless stream of others
        finished += [sequence.request_id for sequence in run(scheduler, scheduler.schedule())]
        if 0 in finished:
            break
    assert 0 in finished


@pytest.mark.parametrize(("turn", "done"), [(8, True), (10**9, False)])
def test_a_stream_of_urgent_prompts_slows_others_and_does_not_stop_them(
    turn: int, done: bool
) -> None:
    """Urgent prompts that fill every step, for a tenth of their head start."""
    config = SchedulerConfig(step_tokens=32, max_running=8, turn=turn)
    scheduler = scheduler_of(n_blocks=64, config=config)
    scheduler.submit(0, [5] * 100, limit=102)
    finished: list[int] = []
    for step in range(1, 100):
        scheduler.submit(step, [step + 9] * 32, limit=33, priority=1)
        finished += [sequence.request_id for sequence in run(scheduler, scheduler.schedule())]
    assert (0 in finished) == done
    assert len(finished) > 70, "the urgent ones keep most of the steps"


def test_forks_share_the_prompt_and_copy_only_its_last_block() -> None:
    copies: list[tuple[int, int]] = []
    pool = KVPool(16, lambda source, target: copies.append((source, target)))
    scheduler = Scheduler(pool, SMALL)
    scheduler.submit(1, [1] * 20, limit=24, n=3)
    plan = scheduler.schedule()
    run(scheduler, plan)
    assert [s.index for s in scheduler.running] == [0, 1, 2]
    assert pool.n_blocks - pool.available == 2, "three samples, one prompt of two blocks"
    plan = scheduler.schedule()
    assert shape(plan) == [(1, 1)] * 3
    assert len(copies) == 2, "the third writes in place"
    assert pool.n_blocks - pool.available == 4


def test_drafts_stay_within_rows_budget_and_limit() -> None:
    asked: list[int] = []

    def draft(sequence: Sequence, limit: int) -> list[int]:
        asked.append(limit)
        return [9] * limit

    scheduler = Scheduler(KVPool(16, lambda source, target: None), SMALL, draft)
    for request_id in (1, 2):
        scheduler.submit(request_id, [request_id] * 4, limit=12 if request_id == 1 else 100)
    run(scheduler, scheduler.schedule())
    plan = scheduler.schedule()
    # 8 rows, of which decoding takes 2; request 1 has room for 7 tokens more, its draw included.
    assert [len(slot.draft) for slot in plan] == [6, 0]
    assert asked == [6]
    assert plan[0].n_rows == 7


def test_borrowing_pre_empts_and_gives_back() -> None:
    scheduler = scheduler_of(n_blocks=4)
    scheduler.submit(1, [1] * 40, limit=60)
    run(scheduler, scheduler.schedule())
    blocks = scheduler.borrow(3)
    assert scheduler.preemptions == 1
    scheduler.pool.release(blocks)
    scheduler.check_integrity()


class SchedulerMachine(RuleBasedStateMachine):
    """Submissions, steps with random answers, cancellations; few tokens, little memory."""

    N_BLOCKS = 10

    def __init__(self) -> None:
        super().__init__()
        self.random = random.Random(0)
        self.scheduler = Scheduler(KVPool(self.N_BLOCKS, self.copied), SMALL, self.draft)
        self.content: dict[int, list[int]] = {}
        self.last_id = 0
        self.open: dict[int, int] = {}  # request → samples not finished
        self.first: dict[int, tuple[int, ...]] = {}  # request → its prompt

    def copied(self, source: int, target: int) -> None:
        self.content[target] = list(self.content[source])

    def draft(self, sequence: Sequence, limit: int) -> list[int]:
        return [self.random.choice([1, 2]) for _ in range(self.random.randint(0, limit))]

    @rule(
        length=st.integers(1, 100),
        answer=st.integers(0, 40),
        fill=st.sampled_from([1, 2]),
        n=st.sampled_from([1, 1, 1, 2, 5]),
        priority=st.integers(-1, 2),
    )
    def submit(self, length: int, answer: int, fill: int, n: int, priority: int) -> None:
        self.last_id += 1
        prompt = [1] * (length // 2) + [fill] * (length - length // 2)
        limit = min(length + answer, self.N_BLOCKS * BLOCK_SIZE)
        self.scheduler.submit(self.last_id, prompt, limit=limit, n=n, priority=priority)
        self.open[self.last_id] = n
        self.first[self.last_id] = tuple(prompt)

    @rule(seed=st.integers(0, 2**32))
    def step(self, seed: int) -> None:
        self.random.seed(seed)
        plan = self.scheduler.schedule()
        assert bool(plan) == bool(self.open)
        assert sum(len(slot.tokens) for slot in plan) <= SMALL.step_tokens
        assert len({id(slot.sequence) for slot in plan}) == len(plan)
        for slot in plan:
            self.compute(slot)
        for slot in plan:
            sequences = self.scheduler.advance(slot)
            if not sequences and not slot.sequence.pending:
                self.open.pop(slot.sequence.request_id)
                self.scheduler.finish(slot.sequence)
            for sequence in sequences:
                right = self.random.randint(0, len(slot.draft))
                self.answer(sequence, [*slot.draft[:right], self.random.choice([1, 2])])

    def answer(self, sequence: Sequence, tokens: list[int]) -> None:
        self.scheduler.extend(sequence, tokens)
        assert len(sequence.tokens) <= sequence.limit
        if len(sequence.tokens) == sequence.limit or self.random.random() < 0.1:
            self.scheduler.finish(sequence)
            self.open[sequence.request_id] -= 1
            if not self.open[sequence.request_id]:
                del self.open[sequence.request_id]

    def compute(self, slot: Slot) -> None:
        """Write the slot's tokens; what the cache holds before them must be the sequence itself."""
        sequence = slot.sequence
        held = [token for block in sequence.blocks for token in self.content.get(block, [])]
        assert held[: sequence.computed] == sequence.tokens[: sequence.computed]
        for position, token in enumerate(slot.tokens, sequence.computed):
            block = sequence.blocks[position // BLOCK_SIZE]
            assert not self.scheduler.pool.is_shared(block), "a shared block is written"
            page = self.content.setdefault(block, [0] * BLOCK_SIZE)
            page[position % BLOCK_SIZE] = token

    @precondition(lambda self: self.open)
    @rule(which=st.integers(0, 1000))
    def cancel(self, which: int) -> None:
        request_id = list(self.open)[which % len(self.open)]
        for sequence in [s for s in self.scheduler if s.request_id == request_id]:
            self.scheduler.finish(sequence)
        del self.open[request_id]

    @rule(count=st.integers(1, N_BLOCKS))
    def borrow(self, count: int) -> None:
        for block in (blocks := self.scheduler.borrow(count)):
            self.content[block] = [0] * BLOCK_SIZE
        self.scheduler.pool.release(blocks)

    @invariant()
    def whole(self) -> None:
        self.scheduler.check_integrity()
        alive: dict[int, int] = {}
        for sequence in self.scheduler:
            assert tuple(sequence.tokens[: sequence.n_prompt]) == self.first[sequence.request_id]
            alive[sequence.request_id] = alive.get(sequence.request_id, 0) + 1 + sequence.forks
        assert alive == self.open, "a sequence was lost, or came twice"

    def teardown(self) -> None:
        budget = 4 + 200 * sum(self.open.values())
        while self.open:
            self.step(self.random.randrange(2**32))
            self.whole()
            budget -= 1
            assert budget, "somebody starves"
        assert self.scheduler.pool.available == self.N_BLOCKS


TestSchedulerMachine = SchedulerMachine.TestCase
TestSchedulerMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
