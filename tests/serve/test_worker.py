"""The worker and what autocomplete needs of it, on a fake runner: order, cancellation, limits."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from codellama.api.answers import Prompt
from codellama.engine.engine import Engine
from codellama.engine.params import SamplingParams
from codellama.engine.runner import Batch, Logits
from codellama.engine.scheduler import SchedulerConfig
from codellama.serve.jobs import CHAT, INFILL, WARM, Budget, Delta, Job
from codellama.serve.stream import JobStream, collect
from codellama.serve.worker import BusyError, Worker
from fakes import ByteTokenizer, FakeRunner

STEP = 32


class Gated(FakeRunner):
    """A runner that waits for leave before each step."""

    def __init__(self) -> None:
        super().__init__(vocab_size=264, context=2048, n_blocks=512, logits=None)
        self.leave = threading.Semaphore(0)
        self.free = False

    def run(self, batch: Batch) -> Logits:
        if not self.free:
            self.leave.acquire()
        return super().run(batch)


class Bench:
    """A worker over a gated runner, and the deltas of its jobs."""

    def __init__(self, most: int = 64) -> None:
        self.runner = Gated()
        engine = Engine(self.runner, config=SchedulerConfig(step_tokens=STEP, max_running=8))
        self.worker = Worker(engine, ByteTokenizer(), most=most)
        self.got: dict[int, list[Delta]] = {}
        self.jobs: list[Job] = []

    def submit(self, length: int, **fields: object) -> Job:
        params = SamplingParams(max_tokens=int(fields.pop("max_tokens", 4)), ignore_eos=True)  # type: ignore[call-overload]
        number = len(self.jobs)
        ids = [(number * 7 + i) % 250 for i in range(length)]
        job = Job(prompt=Prompt(ids), params=params, **fields)  # type: ignore[arg-type]
        self.got[number] = []
        job.deliver = self.got[number].extend
        self.jobs.append(job)
        self.worker.submit(job)
        return job

    def steps(self, count: int) -> None:
        """Let the worker take so many steps."""
        for _ in range(count):
            before = self.worker.steps
            self.runner.leave.release()
            until = time.monotonic() + 5
            while self.worker.steps == before and self.worker.jobs and time.monotonic() < until:
                time.sleep(0.001)
            time.sleep(0.005)

    def ended(self, job: Job) -> bool:
        return any(delta.finish for delta in self.got[self.jobs.index(job)])

    def reason(self, job: Job) -> str:
        (finish,) = [d.finish for d in self.got[self.jobs.index(job)] if d.finish]
        return finish.completion.finish_reason

    def finish(self, *jobs: Job) -> None:
        self.runner.free = True
        for _ in range(100):
            self.runner.leave.release()
        until = time.monotonic() + 10
        while not all(self.ended(job) for job in jobs) and time.monotonic() < until:
            time.sleep(0.005)
        assert all(self.ended(job) for job in jobs)


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.runner.free = True
    for _ in range(100):
        bench.runner.leave.release()
    bench.worker.close()


def test_infilling_overtakes_chat(bench: Bench) -> None:
    chat = bench.submit(20 * STEP, priority=CHAT)
    bench.steps(2)
    infill = bench.submit(STEP // 2, priority=INFILL)
    bench.steps(3)
    assert bench.got[1], "the infilling has its first token while the chat's prompt is computed"
    assert not bench.got[0]
    bench.finish(chat, infill)


def test_warming_waits_for_chat(bench: Bench) -> None:
    blocker = bench.submit(1, max_tokens=1)
    warm = bench.submit(8 * STEP, priority=WARM, max_tokens=0)
    chat = bench.submit(STEP // 2, priority=CHAT)
    bench.steps(4)
    assert bench.got[2] and not bench.ended(warm)
    bench.finish(blocker, warm, chat)


def test_a_newer_request_of_an_editor_ends_the_older_one(bench: Bench) -> None:
    old = bench.submit(6 * STEP, priority=INFILL, editor="vim")
    other = bench.submit(6 * STEP, priority=INFILL, editor="code")
    bench.steps(1)
    new = bench.submit(STEP, priority=INFILL, editor="vim")
    bench.steps(2)
    assert bench.ended(old) and bench.reason(old) == "cancelled"
    assert not bench.ended(other)
    bench.finish(other, new)
    assert bench.reason(new) == "length"


def test_a_cancelled_job_computes_at_most_one_more_chunk(bench: Bench) -> None:
    job = bench.submit(50 * STEP)
    bench.steps(2)
    bench.worker.cancel(job)
    computed = bench.runner.tokens
    bench.steps(2)
    assert bench.ended(job)
    assert bench.runner.tokens - computed <= STEP
    status = bench.worker.call(Engine.status)
    bench.runner.leave.release()
    assert status.result(5).running == 0


def test_a_full_queue_refuses(bench: Bench) -> None:
    small = Bench(most=2)
    jobs = [small.submit(4), small.submit(4)]
    with pytest.raises(BusyError, match="server busy"):
        small.submit(4)
    small.finish(*jobs)
    jobs.append(small.submit(4))  # there is room again
    small.finish(*jobs)
    small.worker.close()


def test_budgets(bench: Bench) -> None:
    job = bench.submit(40 * STEP, budget=Budget(prompt=0.02))
    bench.steps(1)
    time.sleep(0.03)
    bench.steps(2)
    (delta,) = [d for d in bench.got[0] if d.finish]
    assert delta.finish is not None and delta.finish.limit == "prompt"
    assert delta.finish.completion.text == ""
    total = bench.submit(4, max_tokens=500, budget=Budget(total=0.05))
    bench.steps(2)
    time.sleep(0.06)
    bench.steps(2)
    assert bench.ended(total) and bench.ended(job)


def test_an_error_in_a_step_reaches_every_job(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    jobs = [bench.submit(4), bench.submit(4)]
    bench.runner.alone = None  # type: ignore[assignment]
    bench.steps(1)
    for number in range(2):
        assert [d.error for d in bench.got[number] if d.error]
    assert bench.worker.jobs == 0
    assert jobs


def test_a_broken_client_does_not_end_the_thread(bench: Bench) -> None:
    job = bench.submit(4)

    def broken(deltas: list[Delta]) -> None:
        raise ValueError("a mistake of ours")

    job.deliver = broken
    bench.steps(2)
    again = bench.submit(4)
    bench.finish(again)


def test_a_step_is_one_call_to_an_event_loop(bench: Bench) -> None:
    """However many jobs it made something for, and on the loop's own thread."""
    calls: list[int] = []

    async def several() -> list[str]:
        loop = asyncio.get_running_loop()
        inner = loop.call_soon_threadsafe

        def counted(function: Any, *args: Any) -> Any:
            if threading.current_thread() is bench.worker._thread:
                calls.append(len(args[0]))
            return inner(function, *args)

        monkey = pytest.MonkeyPatch()
        monkey.setattr(loop, "call_soon_threadsafe", counted)
        params = SamplingParams(max_tokens=6, ignore_eos=True)
        jobs = [Job(prompt=Prompt([1, 2, number]), params=params) for number in range(4)]
        streams = [JobStream(bench.worker, job, lambda: None) for job in jobs]
        bench.runner.free = True
        bench.runner.leave.release()
        samples = await asyncio.gather(*(collect(stream) for stream in streams))
        monkey.undo()
        return [sample.text for (sample,) in samples]

    assert len(asyncio.run(several())) == 4
    assert max(calls) == 4 and len(calls) < sum(calls)


def test_a_closed_loop_costs_nobody_anything(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    job, other = bench.submit(4), bench.submit(4)
    job.loop = asyncio.new_event_loop()
    job.loop.close()
    bench.steps(8)
    assert bench.ended(other) and bench.worker.jobs == 0 and not caplog.records


def test_a_stream_closed_early_cancels_and_releases(bench: Bench) -> None:
    released: list[bool] = []

    async def read_one() -> None:
        job = Job(prompt=Prompt([1, 2, 3]), params=SamplingParams(max_tokens=900, ignore_eos=True))
        stream = JobStream(bench.worker, job, lambda: released.append(True))
        async with stream as deltas:
            async for _delta in deltas:
                break

    bench.runner.free = True
    bench.runner.leave.release()
    asyncio.run(read_one())
    assert released == [True]
    until = time.monotonic() + 5
    while bench.worker.jobs and time.monotonic() < until:
        time.sleep(0.005)
    assert bench.worker.jobs == 0


def test_streamed_text_is_the_whole_text(bench: Bench) -> None:
    bench.runner.free = True
    bench.runner.leave.release()

    async def both() -> tuple[str, str]:
        pieces: list[str] = []

        async def note(delta: Delta) -> None:
            pieces.append(delta.text)

        params = SamplingParams(max_tokens=40, ignore_eos=True)
        (sample,) = await collect(
            JobStream(bench.worker, Job(prompt=Prompt([5, 6]), params=params), lambda: None), note
        )
        return "".join(pieces), sample.text

    streamed, whole = asyncio.run(both())
    assert streamed == whole and whole
