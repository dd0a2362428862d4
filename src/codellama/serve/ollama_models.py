"""Ollama's API, the routes about models: tags, show, ps, version, pull, push, copy, delete.

What a model is comes from the hub (files, Modelfile) and from the model file's own header, which is
read once per file. Creating models is in ollama_create.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from codellama import hub
from codellama.errors import CodeLlamaError, NotFoundError
from codellama.hub.names import looks_like_path, parse_name
from codellama.model.config import ModelConfig
from codellama.serve.clock import rfc3339
from codellama.serve.context import State, header_notes
from codellama.serve.defaults import Defaults
from codellama.serve.errors import StatusError, problem_of
from codellama.serve.names import Resolved
from codellama.serve.ollama import NDJSON, OLLAMA
from codellama.serve.ollama_types import CopyRequest, NameRequest, ShowRequest, TransferRequest
from codellama.serve.replies import Streaming, json_reply, read_json, unless_gone

__all__ = ["VERSION", "capabilities", "described", "progress_lines", "routes", "summaries"]

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


def summaries(state: State) -> list[dict[str, Any]]:
    """Every local model, newest first, and `codellama` where a fallback answers to it."""
    models = []
    for entry in hub.list_models():
        try:
            resolved = state.models.names.resolve(entry.name)
        except CodeLlamaError:
            continue  # gone or damaged meanwhile
        models.append(_summary(resolved, entry.name))
    if state.models.names.default is not None or models:
        fallback = state.models.names.fallback()
        if fallback is not None and fallback.notice:
            alias = _summary(fallback, fallback.name)
            alias["details"]["parent_model"] = fallback.info.name
            models.append(alias)
    return models


def _summary(resolved: Resolved, name: str) -> dict[str, Any]:
    info = resolved.info
    config, quantization = described(info.path)
    return {
        "name": name,
        "model": name,
        "modified_at": rfc3339(int(info.modified * 1e9)),
        "size": info.size,
        "digest": _digest(info.digest),
        "details": _details(resolved, config, quantization),
        "capabilities": capabilities(resolved),
    }


def _details(resolved: Resolved, config: ModelConfig | None, quantization: str) -> dict[str, Any]:
    info = resolved.info
    family = str(info.config.get("model_family") or "llama")
    details: dict[str, Any] = {
        "parent_model": "",
        "format": info.format,
        "family": family,
        "families": [family],
        "parameter_size": _billions(config.n_parameters) if config else "",
        "quantization_level": str(info.config.get("file_type") or quantization),
    }
    if config is not None:
        details |= {"context_length": config.context, "embedding_length": config.dim}
    return details


async def _ps(state: State, request: Request) -> Response:
    models = []
    for loaded in state.models.loaded:
        summary = await asyncio.to_thread(_summary, loaded.resolved, loaded.resolved.info.name)
        models.append(
            {
                "name": summary["name"],
                "model": summary["model"],
                "size": loaded.memory_bytes or summary["size"],
                "digest": summary["digest"],
                "details": summary["details"],
                "expires_at": rfc3339(int(loaded.until.timestamp() * 1e9)),
                "size_vram": 0,
                "context_length": loaded.context,
            }
        )
    return json_reply({"models": models})


async def _show(state: State, request: Request) -> Response:
    body = await read_json(request, ShowRequest, state.settings.max_body)
    resolved = await asyncio.to_thread(state.models.names.resolve, _named(body))
    reply = await asyncio.to_thread(_shown, resolved, body)
    return json_reply(reply, headers=header_notes([resolved.notice] if resolved.notice else []))


def _shown(resolved: Resolved, body: ShowRequest) -> dict[str, Any]:
    from codellama.weights.load import open_model

    info, defaults = resolved.info, Defaults.of(resolved.info)
    model_file = open_model(info.path)
    config = model_file.config
    able = capabilities(resolved)
    template = defaults.template or model_file.chat_template or "{{ .Prompt }}"
    if "insert" in able and ".Suffix" not in template:
        # Continue looks for these words to decide whether to send a suffix.
        gap = "<PRE> {{ .Prompt }} <SUF>{{ .Suffix }} <MID>"
        template = "{{- if .Suffix }}" + gap + "{{- else }}" + template + "{{- end }}"
    reply: dict[str, Any] = {
        "license": "\n".join(defaults.licenses) or model_file.license or "",
        "modelfile": _modelfile(resolved, defaults),
        "parameters": _parameters(defaults),
        "template": body.template or template,
        "system": body.system or defaults.system,
        "details": _details(resolved, config, model_file.quantization),
        "messages": list(defaults.messages),
        "model_info": _model_info(config, info.name, model_file.metadata),
        "capabilities": able,
        "modified_at": rfc3339(int(info.modified * 1e9)),
    }
    if body.verbose:
        reply["tensors"] = [
            {"name": name, "type": layout.type.name, "shape": list(layout.shape)}
            for name in model_file.names
            for layout in [model_file.layout(name)]
        ]
    return reply


def _model_info(config: ModelConfig, name: str, metadata: dict[str, Any]) -> dict[str, Any]:
    """GGUF's keys; those of the vocabulary are too long for a reply."""
    known = {
        "general.architecture": "llama",
        "general.basename": name.partition(":")[0],
        "general.parameter_count": config.n_parameters,
        "llama.context_length": config.context,
        "llama.embedding_length": config.dim,
        "llama.block_count": config.n_layers,
        "llama.feed_forward_length": config.ffn_dim,
        "llama.attention.head_count": config.n_heads,
        "llama.attention.head_count_kv": config.n_kv_heads,
        "llama.attention.layer_norm_rms_epsilon": config.norm_eps,
        "llama.rope.freq_base": config.rope_theta,
        "llama.vocab_size": config.vocab_size,
        "codellama.kv_bytes_per_token": config.kv_bytes(1),
    }
    short = {
        key: value
        for key, value in metadata.items()
        if isinstance(value, str | int | float | bool) and len(str(value)) < 4096
    }
    return short | known


def _modelfile(resolved: Resolved, defaults: Defaults) -> str:
    lines = [f"# Modelfile of {resolved.name}", f"FROM {resolved.info.name}"]
    if defaults.template:
        lines.append(f'TEMPLATE """{defaults.template}"""')
    if defaults.system:
        lines.append(f'SYSTEM """{defaults.system}"""')
    for name, value in defaults.parameters.items():
        values = value if isinstance(value, list) else [value]
        lines += [f"PARAMETER {name} {_quoted(each)}" for each in values]
    lines += [f"MESSAGE {m['role']} {m['content']}" for m in defaults.messages]
    return "\n".join(lines) + "\n"


def _parameters(defaults: Defaults) -> str:
    """One line per value; Continue reads num_ctx and stop out of them."""
    lines = []
    for name, value in defaults.parameters.items():
        for each in value if isinstance(value, list) else [value]:
            lines.append(f"{name:<30} {_quoted(each)}")
    return "\n".join(lines)


def _quoted(value: Any) -> str:
    return msgspec.json.encode(value).decode() if isinstance(value, str) else str(value)


async def _pull(state: State, request: Request) -> Response:
    body = await read_json(request, TransferRequest, state.settings.max_body)
    name = _named(body)

    def work(progress: Callable[[int, int, str], None]) -> None:
        hub.pull(name, progress, insecure=bool(body.insecure))
        state.models.names.forget()

    lines = progress_lines(work, first="pulling manifest", last=_PULLED)
    if body.stream is not False:
        return Streaming(lines, NDJSON)
    return await unless_gone(request, last_line(lines))


_PULLED = ("verifying sha256 digest", "writing manifest", "success")


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


def capabilities(resolved: Resolved) -> list[str]:
    config, _quantization = described(resolved.info.path)
    able = ["completion", "tools"]
    if config is not None and config.infills:
        able.append("insert")
    return able


def described(path: Path) -> tuple[ModelConfig | None, str]:
    """Shape and storage of a model file, read once; (None, "") where it cannot be read."""
    try:
        return _described(path, path.stat().st_mtime_ns)
    except OSError:
        return None, ""


@lru_cache(maxsize=256)
def _described(path: Path, _changed: int) -> tuple[ModelConfig | None, str]:
    from codellama.weights.load import open_model

    try:
        model_file = open_model(path)
        return model_file.config, model_file.quantization
    except CodeLlamaError:
        return None, ""


def _digest(digest: str) -> str:
    return digest.removeprefix("sha256:")


def _billions(n: int) -> str:
    return f"{n / 1e9:.1f}B" if n >= 1e9 else f"{n / 1e6:.2f}M"


def _line(value: dict[str, Any]) -> bytes:
    return msgspec.json.encode(value) + b"\n"
