"""Bodies in and out: JSON read tolerantly and within bounds, JSON, NDJSON and SSE written, and work
that ends when the client goes away.

Knows ASGI, no dialect.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Coroutine, Mapping
from typing import Any, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from codellama.serve.errors import StatusError

__all__ = ["ClientGone", "Streaming", "json_reply", "read_body", "read_json", "unless_gone"]

T = TypeVar("T")
S = TypeVar("S", bound=msgspec.Struct)

JSON = "application/json; charset=utf-8"


class ClientGone(Exception):
    """The client closed the connection before its answer was ready."""


async def read_body(request: Request, limit: int, seconds: float = 60.0) -> bytes:
    """The whole body. StatusError 413 beyond `limit` bytes, 408 when it takes too long."""
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > limit:
        raise StatusError(413, f"the body has {length} bytes: at most {limit} are taken")
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(seconds):
            async for part in request.stream():
                size += len(part)
                if size > limit:
                    raise StatusError(413, f"the body has more than {limit} bytes")
                parts.append(part)
    except TimeoutError:
        raise StatusError(408, "the body did not arrive in time") from None
    return b"".join(parts)


async def read_json(request: Request, kind: type[S], limit: int) -> S:
    """The body as a struct. Nulls and unknown fields are as good as absent ones.

    Raises StatusError 400 that names the field.
    """
    raw = await read_body(request, limit)
    if not raw.strip():
        raise StatusError(400, "missing request body")
    try:
        return msgspec.json.decode(raw, type=kind, strict=False)
    except msgspec.ValidationError as error:
        raise StatusError(400, f"invalid request: {error}") from None
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise StatusError(400, f"the body is not JSON: {error}") from None


def json_reply(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(value), status, dict(headers or {}), media_type=JSON)


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The work's result; it is cancelled, and ClientGone raised, when the client disconnects."""
    task = asyncio.ensure_future(work)
    watch = asyncio.ensure_future(_disconnected(request.receive))
    try:
        await asyncio.wait((task, watch), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone
        return task.result()
    finally:
        await _end(task)
        await _end(watch)


class Streaming(Response):
    """Chunks as they are made. The generator is closed when the client disconnects, at once also
    while it makes nothing.
    """

    def __init__(
        self,
        chunks: AsyncGenerator[bytes],
        media_type: str,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(None, 200, dict(headers or {}), media_type)
        del self.headers["content-length"]
        self.headers["cache-control"] = "no-cache"
        self._chunks = chunks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        pump = asyncio.ensure_future(self._pump(send))
        watch = asyncio.ensure_future(_disconnected(receive))
        try:
            await asyncio.wait((pump, watch), return_when=asyncio.FIRST_COMPLETED)
            if pump.done():
                pump.result()
        finally:
            await _end(pump)
            await _end(watch)
            await self._chunks.aclose()

    async def _pump(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async for chunk in self._chunks:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _end(task: asyncio.Future[Any]) -> None:
    if not task.done():
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await task
