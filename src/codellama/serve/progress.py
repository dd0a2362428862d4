"""Long work in a thread, told as Ollama's status lines."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Any

import msgspec
from starlette.responses import Response

from codellama.errors import CodeLlamaError
from codellama.serve.errors import problem_of
from codellama.serve.replies import json_reply

__all__ = ["last_line", "progress_lines"]


async def progress_lines(
    work: Callable[[Callable[[int, int, str], None]], None],
    *,
    first: str,
    last: tuple[str, ...],
) -> AsyncGenerator[bytes]:
    """A long work's progress as Ollama's status lines; its error as the last one.

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
        yield _line({"status": first})
        while (line := await queue.get()) is not None:
            yield _line(line)
        try:
            await task
        except CodeLlamaError as error:
            yield _line({"error": problem_of(error).message})
            return
        for status in last:
            yield _line({"status": status})
    finally:
        gone = True
        if not task.done():
            task.add_done_callback(lambda done: done.cancelled() or done.exception())


async def last_line(lines: AsyncGenerator[bytes]) -> Response:
    """For `stream: false`: the last status alone, an error with a status of its own."""
    last: dict[str, Any] = {}
    async for line in lines:
        last = msgspec.json.decode(line)
    if "error" in last:
        status = 404 if "not found" in last["error"] or "no model" in last["error"] else 500
        return json_reply(last, 502 if status == 500 else status)
    return json_reply(last)


def _line(value: dict[str, Any]) -> bytes:
    return msgspec.json.encode(value) + b"\n"
