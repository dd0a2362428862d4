"""The engine over a fake runner: texts depend on nothing but their own request."""

from __future__ import annotations

import gc
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codellama.engine.engine import Engine
from codellama.engine.params import SamplingParams
from codellama.engine.request import Output, Request, TokenEvent
from codellama.engine.runner import Batch, Logits
from codellama.engine.sampling import Sampler
from codellama.engine.scheduler import SchedulerConfig
from codellama.errors import ContextOverflowError, ModelFileError, RequestError
from fakes import FakeRunner, LogitsOf, random_logits, scripted

SMALL = SchedulerConfig(step_tokens=24, max_running=4, head_start=16)


def request(prompt: list[int], *, n: int = 1, priority: int = 0, **params: object) -> Request:
    return Request(
        prompt_ids=tuple(prompt),
        params=SamplingParams.from_keywords({"max_tokens": 12, **params}),
        n=n,
        priority=priority,
    )


def alone(
    logits: LogitsOf, request: Request, index: int = 0, stop_ids: frozenset[int] = frozenset()
) -> list[int]:
    """The obvious generation loop: no cache, no batch, no draft."""
    sampler = Sampler(request.params, seed=request.params.seed or 0, index=index)
    tokens, n_prompt = list(request.prompt_ids), len(request.prompt_ids)
    while len(tokens) - n_prompt < (request.params.max_tokens or 0):
        token = sampler.draw(logits(tokens), tokens, n_prompt)
        if token in stop_ids:
            break
        tokens.append(token)
    return tokens[n_prompt:]


def settled(engine: Engine) -> bool:
    """Nothing in progress, every block back, the tree whole."""
    assert engine.idle
    engine._scheduler.check_integrity()
    return engine._scheduler.pool.available == engine._scheduler.pool.n_blocks


def test_greedy_and_seeded_texts_are_those_of_the_obvious_loop() -> None:
    runner = FakeRunner()
    engine = Engine(runner, config=SMALL)
    requests = [
        request([1, 2, 3]),
        request([4] * 30, temperature=1.0, seed=3),
        request(list(range(50)), temperature=0.7, top_k=10, top_p=0.9, seed=-4),
        request([5, 6], repetition_penalty=1.5, presence_penalty=0.3),
    ]
    outputs = engine.generate(requests)
    assert [list(output.ids) for output in outputs] == [alone(runner.alone, r) for r in requests]
    assert all(output.finish_reason == "length" for output in outputs)
    assert settled(engine)


draws = st.fixed_dictionaries(
    {},
    optional={
        "temperature": st.sampled_from([0.0, 0.8]),
        "top_k": st.sampled_from([0, 5]),
        "presence_penalty": st.sampled_from([0.0, 1.0]),
        "speculate": st.booleans(),
        "max_tokens": st.integers(0, 30),
        "logprobs": st.sampled_from([None, 0, 2]),
    },
)
jobs = st.lists(
    st.tuples(
        st.lists(st.integers(0, 3), min_size=1, max_size=60),
        draws,
        st.sampled_from([1, 1, 2, 4]),
        st.integers(-1, 1),
        st.integers(0, 6),  # steps before the next one is submitted
    ),
    min_size=1,
    max_size=7,
)


@given(jobs, st.integers(8, 14), st.sampled_from([1, 2, None]), st.booleans())
@settings(deadline=None, max_examples=150)
def test_no_text_depends_on_its_neighbours(
    jobs: list[tuple[list[int], dict[str, object], int, int, int]],
    n_blocks: int,
    memory: int | None,
    prefix_cache: bool,
) -> None:
    """Random arrivals, priorities and samples in a cache too small for them; token 0 stops."""
    runner = FakeRunner(
        vocab_size=6, context=100, n_blocks=n_blocks, logits=random_logits(6, memory)
    )
    stop_ids = frozenset({0})
    engine = Engine(runner, stop_ids=stop_ids, config=SMALL, prefix_cache=prefix_cache)
    requests = [
        request(prompt, n=n, priority=priority, **{"seed": i, **params})
        for i, (prompt, params, n, priority, _wait) in enumerate(jobs)
    ]
    outputs: dict[tuple[int, int], Output] = {}
    tokens: dict[tuple[int, int], list[int]] = {}

    def step() -> None:
        for event in engine.step():
            key = event.request_id, event.index
            if event.token is not None:
                tokens.setdefault(key, []).append(event.token)
            if event.output is not None:
                assert key not in outputs
                outputs[key] = event.output

    ids = []
    for each, job in zip(requests, jobs, strict=True):
        ids.append(engine.submit(each))
        for _ in range(job[-1]):
            step()
    for _ in range(2000):
        if engine.idle:
            break
        step()
    assert settled(engine)
    assert len(outputs) == sum(r.n for r in requests)
    for id, each in zip(ids, requests, strict=True):
        for index in range(each.n):
            output = outputs[id, index]
            want = alone(runner.alone, each, index, stop_ids)
            assert list(output.ids) == tokens.get((id, index), []) == want
            ended = len(want) == each.params.max_tokens
            assert output.finish_reason == ("length" if ended else "stop")
            assert output.stop_id == (None if ended else 0)
            if each.params.logprobs is not None:
                assert output.logprobs is not None
                assert [entry.token for entry in output.logprobs] == want


def no_time() -> float:
    """A clock that tells nothing: drafts are as deep as they usually pay."""
    return 0.0


def test_speculation_saves_steps_and_changes_nothing() -> None:
    logits = random_logits(64, memory=1)  # greedy text falls into a loop
    plain_runner, fast_runner = (FakeRunner(logits=logits) for _ in range(2))
    plain = Engine(plain_runner).generate([request([1, 2], max_tokens=150)])[0]
    fast = Engine(fast_runner, clock=no_time).generate(
        [request([1, 2], max_tokens=150, speculate=True)]
    )[0]
    assert fast.ids == plain.ids
    assert fast_runner.steps < plain_runner.steps / 3
    assert fast.accepted > 100 and plain.drafted == 0


@pytest.mark.parametrize("seed", range(5))
def test_speculation_sees_the_tokens_it_has_just_accepted(seed: int) -> None:
    """Penalties change with every accepted token: here they end loops that a draft goes on with."""
    logits = random_logits(8, memory=1)
    each = request(
        [seed, 1, 2], max_tokens=120, frequency_penalty=0.5, repeat_last_n=20, speculate=True
    )
    runner = FakeRunner(vocab_size=8, logits=logits)
    output = Engine(runner, clock=no_time).generate([each])[0]
    assert list(output.ids) == alone(logits, each)
    assert 0 < output.accepted < output.drafted


def test_speculation_gives_up_where_it_does_not_pay() -> None:
    runner = FakeRunner(vocab_size=64, context=256)
    prompt = [int(t) for t in np.random.default_rng(0).integers(0, 4, 60)]  # many false matches
    each = request(prompt, max_tokens=190, speculate=True)
    output = Engine(runner, clock=no_time).generate([each])[0]
    assert list(output.ids) == alone(runner.alone, request(prompt, max_tokens=190))
    assert output.drafted < 150


def test_samples_of_one_prompt_share_its_prefill() -> None:
    runner = FakeRunner()
    engine = Engine(runner)
    each = request(list(range(40)), n=5, temperature=1.0, seed=1)
    outputs = engine.generate([each])
    assert [output.index for output in outputs] == list(range(5))
    assert [list(o.ids) for o in outputs] == [alone(runner.alone, each, i) for i in range(5)]
    assert len({output.ids for output in outputs}) == 5
    assert runner.tokens == 40 + 5 * 11
    assert runner.copies == 4, "the last owner of the partial block writes in place"
    assert settled(engine)


def test_a_second_prompt_reuses_the_first_ones_blocks() -> None:
    runner = FakeRunner()
    engine = Engine(runner)
    first = engine.generate([request(list(range(40)))])[0]
    before = runner.tokens
    second = engine.generate([request([*range(40), 7, 8, 9])])[0]
    assert first.cached_tokens == 0
    assert second.cached_tokens == 32
    assert runner.tokens - before == 11 + 11
    follow_up = [*range(40), *first.ids, 3]
    assert engine.generate([request(follow_up)])[0].cached_tokens == 48, "answers are kept, too"


def test_without_a_seed_two_answers_differ_and_the_seed_is_reported() -> None:
    engine = Engine(FakeRunner())
    a, b = engine.generate([request([1], temperature=1.0), request([1], temperature=1.0)])
    assert a.seed != b.seed and a.ids != b.ids
    again = engine.generate([request([1], temperature=1.0, seed=a.seed)])[0]
    assert again.ids == a.ids


def test_stop_ids_end_the_answer_and_stay_out_of_it() -> None:
    runner = FakeRunner(logits=scripted(64, [5, 6, 7, 8], start=2))
    engine = Engine(runner, stop_ids=frozenset({7}))
    output = engine.generate([request([1, 2])])[0]
    assert (output.ids, output.finish_reason, output.stop_id) == ((5, 6), "stop", 7)
    output = engine.generate([request([1, 2], stop_ids=[6])])[0]
    assert (output.ids, output.stop_id) == ((5,), 6)
    output = engine.generate([request([1, 2], ignore_eos=True, max_tokens=4)])[0]
    assert (output.ids, output.finish_reason) == ((5, 6, 7, 8), "length")
    output = engine.generate([request([1, 2], ignore_eos=True, stop_ids=[7])])[0]
    assert output.stop_id == 7, "stop ids that were asked for are kept"


def test_a_stop_token_inside_an_accepted_draft_ends_the_answer() -> None:
    runner = FakeRunner(logits=scripted(64, [1, 2, 3, 4, 5, 6, 7, 8], start=20))
    prompt = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10] * 2
    engine = Engine(runner, stop_ids=frozenset({6}), clock=no_time)
    output = engine.generate([request(prompt, speculate=True)])[0]
    assert output.ids == (1, 2, 3, 4, 5)
    assert output.stop_id == 6
    assert settled(engine)


def test_max_tokens_0_only_fills_the_prefix_cache() -> None:
    runner = FakeRunner()
    engine = Engine(runner)
    output = engine.generate([request(list(range(40)), max_tokens=0)])[0]
    assert (output.ids, output.finish_reason) == ((), "length")
    assert all(len(batch.rows_R) == 0 for batch in runner.batches)
    assert engine.generate([request(list(range(40)))])[0].cached_tokens == 32
    assert len(engine.generate([request([1, 2], max_tokens=0, n=3)])) == 3
    assert settled(engine)


def test_the_end_of_the_context_ends_the_answer() -> None:
    engine = Engine(FakeRunner(context=40))
    output = engine.generate([request([1] * 30, max_tokens=None)])[0]
    assert (len(output.ids), output.finish_reason) == (10, "length")
    output = engine.generate([request([1] * 30, max_tokens=50)])[0]
    assert len(output.ids) == 10


def test_a_prompt_that_does_not_fit_is_refused_with_both_counts_before_any_work() -> None:
    runner = FakeRunner(context=40)
    engine = Engine(runner)
    for start in (engine.submit, engine.stream, lambda r: engine.generate([request([1]), r])):
        with pytest.raises(ContextOverflowError, match=r"40 tokens.*40") as caught:
            start(request([1] * 40))
        assert (caught.value.prompt_tokens, caught.value.context) == (40, 40)
    assert engine.generate([request([1] * 40, max_tokens=0)])[0].finish_reason == "length"
    assert runner.steps == 1
    with pytest.raises(ContextOverflowError):
        engine.logits([1] * 41)


def test_the_context_is_no_longer_than_the_cache() -> None:
    assert Engine(FakeRunner(context=1000, n_blocks=3)).context == 48


@pytest.mark.parametrize("prompt", [[64], [-1], [3, 2**80]])
def test_ids_outside_the_vocabulary_are_refused(prompt: list[int]) -> None:
    engine = Engine(FakeRunner())
    with pytest.raises(RequestError, match="0 to 63"):
        engine.submit(request(prompt))
    with pytest.raises(RequestError, match="0 to 63"):
        engine.logits(prompt)


def test_cancelling_ends_a_request_at_once_wherever_it_is() -> None:
    engine = Engine(FakeRunner(), config=SMALL)
    running = engine.submit(request([1, 2]))
    inside_prompt = engine.submit(request([3] * 60, n=2))
    engine.step()
    waiting = engine.submit(request([4] * 10))
    for id, n in ((running, 1), (inside_prompt, 2), (waiting, 1)):
        outputs = engine.cancel(id)
        assert [output.finish_reason for output in outputs] == ["cancelled"] * n
        assert engine.cancel(id) == [], "twice is no error"
    assert len(outputs[0].ids) == 0
    assert settled(engine)


def test_one_sample_can_be_cancelled_before_and_after_it_splits_off() -> None:
    engine = Engine(FakeRunner(), config=SMALL)
    id = engine.submit(request([3] * 60, n=4))
    engine.step()
    assert engine.cancel(id, 0)[0].index == 0
    assert engine.cancel(id, 2)[0].index == 2
    while not any(event.token is not None for event in engine.step()):
        pass
    assert len(engine.cancel(id, 1)[0].ids) == 1
    ended = []
    for _ in range(20):
        ended += [event.index for event in engine.step() if event.output]
    assert ended == [3]
    assert settled(engine)


def test_a_stream_yields_tokens_as_they_come_and_its_output_last() -> None:
    runner = FakeRunner()
    engine = Engine(runner)
    steps, tokens = [], []
    for event in engine.stream(request([1, 2, 3], logprobs=1)):
        steps.append(runner.steps)
        if event.token is not None:
            assert event.logprob is not None and event.logprob.top[0][0] == event.token
            tokens.append(event.token)
    assert steps == [*range(1, 13), 12]
    assert event.output is not None and list(event.output.ids) == tokens


def test_a_stream_closed_early_is_cancelled() -> None:
    engine = Engine(FakeRunner())
    stream = engine.stream(request([1, 2, 3]))
    next(stream)
    stream.close()
    assert settled(engine)
    forgotten = engine.stream(request([1, 2, 3]))
    next(forgotten)
    del forgotten
    gc.collect()
    assert settled(engine)
    never_started = engine.stream(request([1, 2, 3]))
    del never_started
    assert settled(engine)


def test_streams_of_one_thread_share_steps() -> None:
    runner = FakeRunner()
    engine = Engine(runner)
    first, second = engine.stream(request([1])), engine.stream(request([2]))
    got = [[event.token for event in pair] for pair in zip(first, second, strict=True)]
    assert [a for a, _ in got[:-1]] == alone(runner.alone, request([1]))
    assert [b for _, b in got[:-1]] == alone(runner.alone, request([2]))
    assert runner.steps == 13


def test_threads_share_one_engine() -> None:
    runner = FakeRunner(n_blocks=24)
    engine = Engine(runner, config=SMALL)
    requests = [
        request([i, i + 1] * (i + 1), temperature=1.0, seed=i, max_tokens=20) for i in range(12)
    ]
    got: dict[int, list[int]] = {}

    def work(i: int) -> None:
        got[i] = [e.token for e in engine.stream(requests[i]) if e.token is not None]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert [got[i] for i in range(12)] == [alone(runner.alone, each) for each in requests]
    assert settled(engine)


def test_another_thread_can_cancel_between_two_steps() -> None:
    engine = Engine(FakeRunner(context=10_000, n_blocks=640))
    events: list[TokenEvent] = []
    started = threading.Event()

    def work() -> None:
        for event in engine.stream(request([1], max_tokens=None)):
            events.append(event)
            started.set()

    thread = threading.Thread(target=work)
    thread.start()
    assert started.wait(10)
    engine.cancel(events[0].request_id)
    thread.join(10)
    assert not thread.is_alive()
    assert events[-1].output is not None and events[-1].output.finish_reason == "cancelled"
    assert len(events) < 9000


def test_damaged_logits_fail_their_own_request_only() -> None:
    def logits(history: list[int]) -> Logits:
        row_V = random_logits(64)(history)
        if history[0] == 13 and len(history) > 4:
            row_V[3] = np.nan
        return row_V

    engine = Engine(FakeRunner(logits=logits))
    good = engine.submit(request([1, 2]))
    bad = engine.submit(request([13, 2]))
    outputs = {e.request_id: e.output for _ in range(20) for e in engine.step() if e.output}
    assert outputs[good].finish_reason == "length"
    assert outputs[bad].finish_reason == "error" and len(outputs[bad].ids) == 3
    with pytest.raises(ModelFileError, match="nan"):
        engine.generate([request([13, 2])])
    assert settled(engine)


class Flaky(FakeRunner):
    """Raises once, at the given step."""

    def __init__(self, at: int, error: type[BaseException]) -> None:
        super().__init__()
        self.at, self.error = at, error

    def run(self, batch: Batch) -> Logits:
        self.at -= 1
        if self.at == 0:
            raise self.error("no memory")
        return super().run(batch)


@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt])
def test_an_exception_while_computing_spares_the_others(error: type[BaseException]) -> None:
    runner = Flaky(4, error)
    engine = Engine(runner)
    other = engine.submit(request([1, 2, 3]))
    with pytest.raises(error):
        list(engine.stream(request([4, 5], n=2)))
    outputs = {e.request_id: e.output for _ in range(20) for e in engine.step() if e.output}
    assert list(outputs) == [other]
    assert list(outputs[other].ids) == alone(runner.alone, request([1, 2, 3]))
    assert settled(engine)


def test_a_broken_state_is_dropped_and_everyone_told(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(FakeRunner())
    bystander = engine.stream(request([1, 2, 3]))
    next(bystander)
    scheduler = engine._scheduler
    extend = scheduler.extend

    def interrupted(*args: object) -> None:
        extend(*args)  # type: ignore[arg-type]
        scheduler.running[0].blocks.pop()
        raise KeyboardInterrupt

    monkeypatch.setattr(scheduler, "extend", interrupted)
    with pytest.raises(KeyboardInterrupt):
        engine.generate([request([7])])
    with pytest.raises(RequestError, match="interrupted"):
        list(bystander)
    assert settled(engine)
    assert engine.generate([request([1, 2, 3])])[0].finish_reason == "length"


def test_logits_and_hidden_states_of_a_text() -> None:
    runner = FakeRunner()
    engine = Engine(runner, config=SMALL)
    ids = [i % 50 for i in range(60)]
    want = np.array([runner.alone(ids[: i + 1]) for i in range(60)])
    assert np.array_equal(engine.logits(ids), want)
    assert engine.hidden(ids).shape == (60, 8)
    assert settled(engine)
    with pytest.raises(RequestError, match="empty"):
        engine.logits([])


def test_scoring_pre_empts_and_the_pre_empted_go_on() -> None:
    runner = FakeRunner(n_blocks=4)
    engine = Engine(runner)
    stream = engine.stream(request([1] * 40))
    tokens = [next(stream).token]
    engine.logits([2] * 60)
    tokens += [event.token for event in stream if event.token is not None]
    assert tokens == alone(runner.alone, request([1] * 40))


def test_a_constraint_steers_every_draw() -> None:
    def in_turn(output: list[int]) -> np.ndarray | None:
        return np.arange(64) % 3 == len(output) if len(output) < 3 else None

    engine = Engine(FakeRunner())
    params = SamplingParams(max_tokens=4, temperature=5.0, seed=1, speculate=True)
    each = Request(prompt_ids=(1, 2), params=params, n=3, constraint=in_turn)
    for output in engine.generate([each]):
        assert [token % 3 for token in output.ids[:3]] == [0, 1, 2]
