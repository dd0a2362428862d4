"""Ollama's API, making models: /api/create and /api/blobs.

A new model is a manifest: layers of another model (or of uploaded blobs), some replaced, adapters
added. No bytes of weights are copied unless they are to be quantized. The Modelfile itself is read
by the client (and by modelfile.py for clients that send it whole).
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from codellama import hub
from codellama.errors import CodeLlamaError, RequestError
from codellama.hub.files import TEMPORARY, replace
from codellama.hub.layout import Layout
from codellama.hub.manifest import Layer, build_manifest, parse_digest
from codellama.hub.names import looks_like_path, parse_name
from codellama.hub.store import Store
from codellama.serve.context import State
from codellama.serve.errors import StatusError
from codellama.serve.modelfile import parse_modelfile
from codellama.serve.ollama import NDJSON, OLLAMA
from codellama.serve.ollama_adapters import adapter_layers
from codellama.serve.ollama_types import CreateRequest
from codellama.serve.progress import last_line, progress_lines, steps
from codellama.serve.replies import Streaming, read_json, unless_gone

__all__ = ["routes"]


def routes(state: State) -> list[Route]:
    return [
        OLLAMA.route("/api/create", _create, state=state),
        OLLAMA.route("/api/blobs/{digest}", _blob, "POST", "HEAD", state=state),
    ]


async def _blob(state: State, request: Request) -> Response:
    digest = request.path_params["digest"]
    try:
        parse_digest(digest)
    except ValueError:
        raise StatusError(400, "invalid digest format") from None
    store = Store(hub.store_dir())
    target = Layout.blob(store, digest)
    if request.method == "HEAD":
        return Response(status_code=200 if target.is_file() else 404)
    if target.is_file():
        return Response(status_code=200)
    await _receive(request, target, digest, state.settings.max_blob)
    return Response(status_code=201)


async def _receive(request: Request, target: Path, digest: str, limit: int) -> None:
    """The body to a temporary file, hashed on the way; it gets its name when it is whole."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f"{target.name}.{os.getpid()}-{os.urandom(4).hex()}{TEMPORARY}")
    sha256, size = hashlib.sha256(), 0
    try:
        with temporary.open("xb") as file:
            async for part in request.stream():
                size += len(part)
                if size > limit:
                    raise StatusError(413, f"the blob has more than {limit} bytes")
                sha256.update(part)
                await asyncio.to_thread(file.write, part)
            file.flush()
            await asyncio.to_thread(os.fsync, file.fileno())
        if f"sha256:{sha256.hexdigest()}" != digest:
            raise StatusError(400, "digest mismatch, expected the digest of the bytes sent")
        replace(temporary, target)
    except OSError as error:
        raise StatusError(507, f"the blob cannot be stored: {error.strerror}") from None
    finally:
        temporary.unlink(missing_ok=True)


async def _create(state: State, request: Request) -> Response:
    body = await read_json(request, CreateRequest, state.settings.max_body)
    name = body.model or body.name
    if not name:
        raise StatusError(400, "model is required")
    if looks_like_path(name):
        raise StatusError(400, "invalid model name")
    target = parse_name(name)
    if body.modelfile:
        body = parse_modelfile(body.modelfile, body)
    if not body.from_ and not body.files:
        raise StatusError(400, "neither 'from' or 'files' was specified")
    if body.from_ and looks_like_path(body.from_):
        raise StatusError(400, "'from' is the name of a model: send files as blobs")
    names = state.models.names
    base = await asyncio.to_thread(names.resolve, body.from_) if body.from_ else None

    def work(progress: Callable[[int, int, str], None]) -> None:
        store = Store(hub.store_dir())
        layers = _base_layers(store, base.info) if base else _blob_layers(store, body.files or {})
        if body.quantize:
            progress(0, 0, f"quantizing model to {body.quantize}")
            layers = _quantized(store, layers, body.quantize)
        if body.adapters:
            progress(0, 0, "converting adapter")
            layers = [*layers, *adapter_layers(store, layers, body.adapters)]
        progress(0, 0, "creating new layers")
        layers = _with_texts(store, layers, body)
        source = base.info.source if base else {}
        config = store.add_bytes("config", msgspec.json.encode(_config(base)))
        progress(0, 0, "writing manifest")
        raw = build_manifest(layers, config, dict(source))
        if store.commit(target, raw):
            raise RequestError("files of the model were removed meanwhile: try again")
        names.forget()

    told = steps(work, first="reading model metadata", last=("success",))
    if body.stream is not False:
        return Streaming(progress_lines(told), NDJSON)
    return await unless_gone(request, last_line(told))


def _config(base: Any) -> dict[str, Any]:
    known = {
        "model_format": "gguf",
        "model_family": "llama",
        "architecture": "amd64",
        "os": "linux",
    }
    return known | (dict(base.info.config) if base else {})


def _base_layers(store: Store, info: hub.ModelInfo) -> list[Layer]:
    """The layers of a local model, its blobs borrowed into our store."""
    if not info.layers:
        return [_borrowed(store, info.path)]
    return list(hub.borrow(info.name).layers)


def _borrowed(store: Store, path: Path) -> Layer:
    """A model without a manifest: the embedded default, or a file of the operator's."""
    from codellama.hub.catalogue import EMBEDDED
    from codellama.hub.files import sha256_of

    if path.name == EMBEDDED.file and path.stat().st_size == EMBEDDED.size:
        return Layer("model", EMBEDDED.digest, EMBEDDED.size, EMBEDDED.file)
    if not path.is_file():
        raise RequestError("models can be made from GGUF models: export this one first")
    layer = Layer("model", f"sha256:{sha256_of(path)}", path.stat().st_size)
    if not store.has(layer) and not store.link_blob(layer, path, verify=False):
        os.symlink(path.resolve(), Layout.blob(store, layer.digest))
    return layer


def _blob_layers(store: Store, files: dict[str, str]) -> list[Layer]:
    """Uploaded GGUF blobs, checked to be models."""
    from codellama.weights.load import open_model

    if len(files) != 1:
        raise RequestError("a model is made of one GGUF file")
    ((_name, digest),) = files.items()
    try:
        path = Layout.blob(store, parse_digest(digest))
    except ValueError as error:
        raise RequestError(str(error)) from None
    if not path.is_file():
        raise RequestError(f"the blob {digest[:19]} is not here: send it first")
    try:
        open_model(path)
    except CodeLlamaError as error:
        raise RequestError(f"the file is no model: {error}") from None
    return [Layer("model", digest, path.stat().st_size)]


def _quantized(store: Store, layers: list[Layer], type: str) -> list[Layer]:
    from codellama.weights.export import quantize_model
    from codellama.weights.load import open_model

    model = next((layer for layer in layers if layer.kind == "model"), None)
    if model is None:
        raise RequestError("only GGUF models are quantized here: use `codellama quantize`")
    target = store.root / "blobs" / f"quantize-{os.urandom(8).hex()}{TEMPORARY}"
    try:
        quantize_model(open_model(store.blob(model.digest)), target, type.upper())
        made = _borrowed(store, target)
    finally:
        target.unlink(missing_ok=True)
    return [made, *(layer for layer in layers if layer.kind != "model")]


def _with_texts(store: Store, layers: list[Layer], body: CreateRequest) -> list[Layer]:
    """Template, system prompt and so on in place of the base's."""
    texts: dict[str, list[bytes]] = {}
    if body.template is not None:
        texts["template"] = [body.template.encode()]
    if body.system is not None:
        texts["system"] = [body.system.encode()]
    if body.license is not None:
        given = [body.license] if isinstance(body.license, str) else body.license
        texts["license"] = [text.encode() for text in given]
    if body.messages is not None:
        messages = [{"role": m.role, "content": m.content or ""} for m in body.messages]
        texts["messages"] = [msgspec.json.encode(messages)]
    if body.parameters is not None:
        texts["params"] = [msgspec.json.encode(_merged(store, layers, body.parameters))]
    kept = [layer for layer in layers if layer.kind not in texts]
    made = [store.add_bytes(kind, text) for kind, many in texts.items() for text in many if text]
    return kept + made


def _merged(store: Store, layers: list[Layer], parameters: dict[str, Any]) -> dict[str, Any]:
    """The base's parameters under the new ones."""
    merged: dict[str, Any] = {}
    for layer in layers:
        if layer.kind == "params" and layer.size < 1 << 20:
            try:
                old = msgspec.json.decode(store.blob(layer.digest).read_bytes())
            except (OSError, msgspec.DecodeError):
                continue
            merged |= old if isinstance(old, dict) else {}
    return merged | parameters
