"""A long chat and many keystrokes on one model: nobody waits without bound. In steps, not seconds.

The runner is slow enough that requests pile up; its counter of steps is the clock.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

import httpx
import numpy as np

from codellama.engine.runner import Logits
from serve.inprocess import drive

INFILLS = 60
WIDTH = 8  # keystrokes of as many editors at once
ANSWER = 150


def slow(history: list[int]) -> Logits:
    import time

    time.sleep(0.0002)
    row = np.zeros(264, np.float32)
    row[97] = 5.0
    return row


Steps = Callable[[], int]


async def clock(http: httpx.AsyncClient) -> Steps:
    """How many steps the model has taken."""
    models = http._transport.app.state_parts.models  # type: ignore[attr-defined]
    lease = await models.lease(None)
    lease.release()
    worker = lease.loaded.worker
    return lambda: int(worker.steps)


async def chat(http: httpx.AsyncClient, steps: Steps, text: str) -> list[int]:
    """The step at which it was asked, and those at which its pieces came."""
    came = [steps()]
    body = {
        "model": "fake", "messages": [{"role": "user", "content": text}],
        "options": {"temperature": 0, "num_predict": ANSWER},
    }  # fmt: skip
    app = http._transport.app  # type: ignore[attr-defined]
    ended = asyncio.Event()

    async def send(message: dict[str, object]) -> None:
        for line in bytes(message.get("body", b"")).splitlines():  # type: ignore[call-overload]
            if not json.loads(line)["done"]:
                came.append(steps())

    async def receive() -> dict[str, object]:
        if not ended.is_set():
            ended.set()
            return {"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}
        await asyncio.Event().wait()
        raise AssertionError

    scope = {
        "type": "http", "method": "POST", "path": "/api/chat", "raw_path": b"/api/chat",
        "query_string": b"", "headers": [(b"host", b"localhost")], "http_version": "1.1",
        "scheme": "http", "client": ("127.0.0.1", 1), "server": ("localhost", 80),
        "root_path": "", "asgi": {"version": "3.0"},
    }  # fmt: skip
    await app(scope, receive, send)
    return came


async def keystrokes(http: httpx.AsyncClient, steps: Steps, waits: list[int]) -> None:
    """Infillings of prompts of their own, `WIDTH` at any time; how many steps each took."""
    left = iter(range(INFILLS))

    async def editor() -> None:
        for n in left:
            begin = steps()
            body = {"input_prefix": f"{n:03} " * 60, "input_suffix": "\n", "n_predict": 6}
            reply = await http.post("/infill", json=body | {"temperature": 0})
            assert reply.json()["tokens_predicted"] == 6
            waits.append(steps() - begin)

    await asyncio.gather(*(editor() for _ in range(WIDTH)))


def test_a_long_chat_and_many_infillings_do_not_starve_one_another() -> None:
    async def work(http: httpx.AsyncClient) -> None:
        steps = await clock(http)
        waits: list[int] = []
        typing = asyncio.ensure_future(keystrokes(http, steps, waits))
        while steps() < 5:
            await asyncio.sleep(0.001)
        came = await chat(http, steps, "x" * 200)  # asked while eight others are at work
        await typing
        # A prompt of 240 tokens is two steps; so eight of them are sixteen, and six tokens follow.
        assert max(waits) <= 2 * (2 * WIDTH + 6), sorted(waits)[-5:]
        assert len(waits) == INFILLS
        first, gaps = came[1] - came[0], np.diff(came[1:])
        assert first <= 4 * 8, first  # every eighth step is its prompt's, if it must be
        # Answers in progress are in every step; pieces may reach the event loop a few steps late.
        assert gaps.max() <= 12 and gaps.mean() <= 2, gaps

    drive(work, logits=slow, n_blocks=512)
