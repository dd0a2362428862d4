"""Ollama's API, the routes about models: tags, show, ps, version, pull, push, copy, delete.

What a model is, is told by ollama_describe.py; creating models is in ollama_create.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from codellama import hub
from codellama.errors import NotFoundError
from codellama.hub.names import looks_like_path, parse_name
from codellama.serve.clock import rfc3339
from codellama.serve.context import State, header_notes
from codellama.serve.errors import StatusError
from codellama.serve.ollama import NDJSON, OLLAMA
from codellama.serve.ollama_describe import shown, summaries, summary
from codellama.serve.ollama_types import CopyRequest, NameRequest, ShowRequest, TransferRequest
from codellama.serve.progress import last_line, progress_lines, steps
from codellama.serve.replies import Streaming, json_reply, read_json, unless_gone

__all__ = ["VERSION", "routes"]

VERSION = "0.13.0"
"""The Ollama whose API this is: clients compare it (VS Code wants 0.6.4 or newer)."""


def routes(state: State) -> list[Route]:
    return [
        OLLAMA.route("/", _root, "GET", "HEAD", state=state),
        OLLAMA.route("/api/version", _version, "GET", "HEAD", state=state),
        OLLAMA.route("/api/tags", _tags, "GET", "HEAD", state=state),
        OLLAMA.route("/api/ps", _ps, "GET", "HEAD", state=state),
        OLLAMA.route("/api/show", _show, state=state),
        OLLAMA.route("/api/pull", _pull, state=state),
        OLLAMA.route("/api/push", _push, state=state),
        OLLAMA.route("/api/copy", _copy, state=state),
        OLLAMA.route("/api/delete", _delete, "DELETE", "POST", state=state),
    ]


async def _root(state: State, request: Request) -> Response:
    return PlainTextResponse("Ollama is running")


async def _version(state: State, request: Request) -> Response:
    from codellama import __version__

    return json_reply({"version": VERSION, "codellama": __version__})


async def _tags(state: State, request: Request) -> Response:
    return json_reply({"models": await asyncio.to_thread(summaries, state)})


async def _ps(state: State, request: Request) -> Response:
    models = []
    for loaded in state.models.loaded:
        told = await asyncio.to_thread(summary, loaded.resolved, loaded.resolved.info.name)
        models.append(
            {
                "name": told["name"],
                "model": told["model"],
                "size": loaded.memory_bytes or told["size"],
                "digest": told["digest"],
                "details": told["details"],
                "expires_at": rfc3339(int(loaded.until.timestamp() * 1e9)),
                "size_vram": 0,
                "context_length": loaded.context,
            }
        )
    return json_reply({"models": models})


async def _show(state: State, request: Request) -> Response:
    body = await read_json(request, ShowRequest, state.settings.max_body)
    resolved = await asyncio.to_thread(state.models.names.resolve, _named(body))
    reply = await asyncio.to_thread(shown, resolved, body, state.settings.kv_type)
    return json_reply(reply, headers=header_notes([resolved.notice] if resolved.notice else []))


async def _pull(state: State, request: Request) -> Response:
    body = await read_json(request, TransferRequest, state.settings.max_body)
    name = _named(body)
    parse_name(name)

    def work(progress: Callable[[int, int, str], None]) -> None:
        hub.pull(name, progress, insecure=bool(body.insecure))
        state.models.names.forget()

    told = steps(work, first="pulling manifest", last=_PULLED)
    if body.stream is not False:
        return Streaming(progress_lines(told), NDJSON)
    return await unless_gone(request, last_line(told))


_PULLED = ("verifying sha256 digest", "writing manifest", "success")


async def _push(state: State, request: Request) -> Response:
    body = await read_json(request, TransferRequest, state.settings.max_body)
    _named(body)
    raise StatusError(
        501, "models are not pushed from here: `codellama export gguf` writes a file to upload"
    )


async def _copy(state: State, request: Request) -> Response:
    body = await read_json(request, CopyRequest, state.settings.max_body)
    source, target = body.source or "", body.destination or ""
    if not source or not target:
        raise StatusError(400, "source and destination are required")
    if looks_like_path(source) or looks_like_path(target):
        raise StatusError(400, "source and destination are names")
    try:
        await asyncio.to_thread(hub.copy, source, target)
    except NotFoundError:
        raise StatusError(404, f'model "{source[:100]}" not found', "not_found_error") from None
    state.models.names.forget()
    return Response(status_code=200)


async def _delete(state: State, request: Request) -> Response:
    body = await read_json(request, NameRequest, state.settings.max_body)
    name = _named(body)
    try:
        await asyncio.to_thread(hub.remove, name)
    except NotFoundError:
        raise StatusError(404, f"model '{name[:100]}' not found", "not_found_error") from None
    state.models.names.forget()
    for loaded in state.models.loaded:
        if loaded.resolved.info.name.lower() == str(parse_name(name)).lower():
            await state.models.unload(loaded)
    return Response(status_code=200)


# Parts.


def _named(body: NameRequest) -> str:
    name = body.model or body.name
    if not name:
        raise StatusError(400, "model is required")
    if looks_like_path(name):
        raise StatusError(400, "invalid model name")
    return name
