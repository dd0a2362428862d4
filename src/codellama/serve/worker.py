"""The thread that owns an engine: jobs go in from any thread, deltas come out, step by step.

A loop of: take orders (submit, cancel, call), run one engine step, hand on what it made, end what
is overdue. An order waits for one step at most, so a closed socket stops work within one chunk.
Nothing here blocks an event loop, and no event loop ever waits for the engine.
"""

from __future__ import annotations

import logging
import threading
import time
from asyncio import AbstractEventLoop
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import TypeVar

from codellama.engine.engine import Engine
from codellama.engine.request import Output, TokenEvent
from codellama.errors import CodeLlamaError, RequestError
from codellama.model.tokenizer import Tokenizer
from codellama.serve.jobs import Delta, Job

__all__ = ["BusyError", "Worker"]

log = logging.getLogger("codellama.serve")
T = TypeVar("T")


class BusyError(CodeLlamaError):
    """More requests wait than the queue may hold."""


class Worker:
    """One engine and its thread.

    Args:
        most: jobs in progress or waiting, beyond which `submit` refuses.
        max_seconds: longest a job may take, for those that set no limit themselves.
    """

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer,
        *,
        most: int = 576,
        max_seconds: float | None = None,
    ) -> None:
        self.engine = engine
        self._tokenizer = tokenizer
        self._most = most
        self.max_seconds = max_seconds
        self._orders: deque[Callable[[], None]] = deque()
        self._wake = threading.Condition()
        self._jobs: dict[int, Job] = {}
        self._count = 0
        self._closing = False
        self.steps = 0
        self._thread = threading.Thread(target=self._run, name="codellama-engine", daemon=True)
        self._thread.start()

    @property
    def jobs(self) -> int:
        """Jobs in progress or waiting."""
        return self._count

    def snapshot(self) -> list[Job]:
        """Jobs in progress, as of now."""
        return list(self._jobs.values())

    def submit(self, job: Job) -> None:
        """Queue a job.

        Raises:
            BusyError: the queue is full. What Engine.check raises.
        """
        request = job.request()
        self.engine.check(request)
        with self._wake:
            if self._closing:
                raise BusyError("the server is stopping: no new requests")
            if self._count >= self._most:
                raise BusyError("server busy, please try again. maximum pending requests exceeded")
            self._count += 1
            self._orders.append(lambda: self._submit(job))
            self._wake.notify()

    def cancel(self, job: Job) -> None:
        """End a job; it delivers its last deltas. Of one that has ended this is nothing."""
        self._order(lambda: self._cancel(job))

    def call(self, function: Callable[[Engine], T]) -> Future[T]:
        """Run `function` between two steps."""
        future: Future[T] = Future()

        def order() -> None:
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(function(self.engine))
                except Exception as error:
                    future.set_exception(error)

        self._order(order)
        return future

    def drain(self, seconds: float) -> None:
        """Refuse new jobs; return when those in progress have ended, at most `seconds` later."""
        with self._wake:
            self._closing = True
        until = time.monotonic() + seconds
        while self._count and time.monotonic() < until:
            time.sleep(0.02)

    def close(self) -> None:
        """End every job and the thread."""
        self._closing = True
        self._order(self._stop)
        self._thread.join()

    def _order(self, order: Callable[[], None]) -> None:
        with self._wake:
            self._orders.append(order)
            self._wake.notify()

    # On the thread.

    def _run(self) -> None:
        self._running = True
        while self._running:
            with self._wake:
                while not self._orders and not self._jobs:
                    self._wake.wait()
                orders, self._orders = self._orders, deque()
            for order in orders:
                self._guarded(order)
            if self._jobs:
                self._guarded(self._step)

    def _guarded(self, work: Callable[[], None]) -> None:
        """A mistake of ours ends the jobs in progress, never the thread."""
        try:
            work()
        except Exception as error:
            log.exception("the engine's thread met an error")
            self._fail(error)

    def _stop(self) -> None:
        for job in list(self._jobs.values()):
            self._cancel(job)
        self._running = False

    def _submit(self, job: Job) -> None:
        if job.editor is not None:
            for older in [j for j in self._jobs.values() if j.editor == job.editor]:
                self._cancel(older)
        try:
            id = self.engine.submit(job.request())
        except CodeLlamaError as error:
            self._count -= 1
            self._deliver({job: [Delta(0, error=error)]})
            return
        job.start(id, self._tokenizer)
        self._jobs[id] = job

    def _cancel(self, job: Job) -> None:
        if job.id not in self._jobs:
            job.left = 0  # not submitted yet, perhaps: its order comes first, so it has ended
            return
        self._deliver({job: self._ended(job, self.engine.cancel(job.id))})

    def _step(self) -> None:
        self.steps += 1
        events = self.engine.step()
        deltas: dict[Job, list[Delta]] = {}
        for event in events:
            job = self._jobs.get(event.request_id)
            if job is not None:
                deltas.setdefault(job, []).extend(self._take(job, event))
        now = time.perf_counter()
        for job in self._jobs.values():
            if job.left and job.overdue(now):
                ended = self._ended(job, self.engine.cancel(job.id))
                deltas.setdefault(job, []).extend(ended)
        self._deliver(deltas)

    def _take(self, job: Job, event: TokenEvent) -> list[Delta]:
        delta, ends = job.take(event)
        deltas = [delta] if delta is not None else []
        if ends:
            deltas += self._ended(job, self.engine.cancel(job.id, event.index))
        return deltas

    @staticmethod
    def _ended(job: Job, outputs: list[Output]) -> list[Delta]:
        made = [
            job.take(TokenEvent(request_id=o.request_id, index=o.index, output=o))[0]
            for o in outputs
        ]
        return [delta for delta in made if delta is not None]

    def _deliver(self, deltas: dict[Job, list[Delta]]) -> None:
        """Hand on what was made: to each event loop in one call, since every call wakes its thread,
        which then takes Python's lock from this one in the middle of a step.
        """
        batches: dict[AbstractEventLoop | None, list[tuple[Job, list[Delta]]]] = {}
        for job, made in deltas.items():
            if not job.left and self._jobs.pop(job.id, None) is not None:
                self._count -= 1
            if made:
                batches.setdefault(job.loop, []).append((job, made))
        for loop, batch in batches.items():
            if loop is None:
                _hand_on(batch)
                continue
            with suppress(RuntimeError):  # a closed loop: nobody is there any more
                loop.call_soon_threadsafe(_hand_on, batch)

    def _fail(self, error: Exception) -> None:
        """An exception in a step: every job ends with an error; the engine has mended itself."""
        told = error if isinstance(error, CodeLlamaError) else RequestError("the engine failed")
        for job in list(self._jobs.values()):
            self.engine.cancel(job.id)
            job.left = 0
            self._deliver({job: [Delta(0, error=told)]})


def _hand_on(batch: list[tuple[Job, list[Delta]]]) -> None:
    for job, deltas in batch:
        if job.deliver is None:
            continue
        try:
            job.deliver(deltas)
        except Exception:
            log.exception("deltas could not be delivered")
