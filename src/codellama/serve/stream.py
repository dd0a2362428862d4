"""A submitted job as its handler sees it: an async iterator of deltas that is always closed.

Closing (also by a cancelled task: a client that went away) cancels the job and gives the model
back. Knows no dialect.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from types import TracebackType

from codellama.serve.jobs import Delta, Finish, Job
from codellama.serve.worker import Worker

__all__ = ["JobStream", "Sample", "collect"]


class JobStream:
    """`async with JobStream(worker, job, release) as deltas: async for delta in deltas: …`

    The job is submitted at once; what Worker.submit raises is raised here, and `release` has then
    been called. Errors of a sample are raised by the iteration.
    """

    def __init__(
        self,
        worker: Worker,
        job: Job,
        release: Callable[[], None],
        *,
        observe: Callable[[Job, Delta], None] | None = None,
    ) -> None:
        self.job = job
        self._worker = worker
        self._release: Callable[[], None] | None = release
        self._observe = observe
        self._queue: asyncio.Queue[Delta] = asyncio.Queue()
        self._left = job.n
        job.deliver, job.loop = self._put, asyncio.get_running_loop()
        try:
            worker.submit(job)
        except BaseException:
            self.close()
            raise

    async def __aenter__(self) -> AsyncIterator[Delta]:
        return self._deltas()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _put(self, deltas: list[Delta]) -> None:
        for delta in deltas:
            self._queue.put_nowait(delta)

    async def _deltas(self) -> AsyncIterator[Delta]:
        while self._left:
            delta = await self._queue.get()
            if self._observe is not None:
                self._observe(self.job, delta)
            if delta.error is not None:
                self._left = 0
                raise delta.error
            self._left -= delta.finish is not None
            yield delta

    def close(self) -> None:
        """Cancel what is unfinished and give the model back. Twice is no error."""
        if self._release is not None:
            release, self._release = self._release, None
            if self._left:
                self._worker.cancel(self.job)
            release()


@dataclass(slots=True)
class Sample:
    """A whole answer: its deltas joined."""

    text: str
    finish: Finish


async def collect(
    stream: JobStream, each: Callable[[Delta], Awaitable[None]] | None = None
) -> list[Sample]:
    """Every sample of a job, in order, when all have ended."""
    finished: dict[int, Finish] = {}
    async with stream as deltas:
        async for delta in deltas:
            if each is not None:
                await each(delta)
            if delta.finish is not None:
                finished[delta.index] = delta.finish
    return [Sample(finish.completion.text, finish) for _, finish in sorted(finished.items())]
