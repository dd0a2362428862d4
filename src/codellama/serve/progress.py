"""Long work in a thread, told as Ollama's status lines."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Any

import msgspec
from starlette.responses import Response

from codellama.errors import CodeLlamaError
from codellama.serve.errors import Problem, problem_of
from codellama.serve.replies import json_reply

__all__ = ["last_line", "progress_lines", "steps"]

Steps = AsyncGenerator[dict[str, Any] | Problem]


async def progress_lines(told: Steps) -> AsyncGenerator[bytes]:
    """Steps as Ollama's status lines, an error as the last one."""
    async for step in told:
        yield _line({"error": step.message} if isinstance(step, Problem) else step)


async def last_line(told: Steps) -> Response:
    """For `stream: false`: the last status alone, an error with a status of its own."""
    last: dict[str, Any] | Problem = {}
    async for step in told:
        last = step
    if isinstance(last, Problem):
        return json_reply({"error": last.message}, last.status)
    return json_reply(last)


async def steps(
    work: Callable[[Callable[[int, int, str], None]], None],
    *,
    first: str,
    last: tuple[str, ...],
) -> Steps:
    """A long work's progress; what went wrong comes last.

    The work runs in a thread. When the client goes away, the progress callback raises, which stops
    a download and leaves what can be resumed.
    """
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
    gone = False

    def progress(done: int, total: int, label: str) -> None:
        if gone:
            raise InterruptedError("the client went away")
        digest = getattr(label, "digest", "")
        line: dict[str, Any] = {"status": str(label)}
        if total > 0:
            short = digest.removeprefix("sha256:")[:12] or str(label)
            line = {"status": f"pulling {short}", "digest": digest, "total": total}
            line |= {"completed": done} if done else {}
        loop.call_soon_threadsafe(queue.put_nowait, line)

    def run() -> None:
        try:
            work(progress)
        finally:
            loop.call_soon_threadsafe(queue.put_nowait, None)

    task = asyncio.ensure_future(asyncio.to_thread(run))
    try:
        yield {"status": first}
        while (line := await queue.get()) is not None:
            yield line
        try:
            await task
        except CodeLlamaError as error:
            yield problem_of(error)
            return
        for status in last:
            yield {"status": status}
    finally:
        gone = True
        if not task.done():
            task.add_done_callback(lambda done: done.cancelled() or done.exception())


def _line(value: dict[str, Any]) -> bytes:
    return msgspec.json.encode(value) + b"\n"
