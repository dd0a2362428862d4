"""Adapters of /api/create: uploaded blobs become layers that weights.open_model applies.

Ours and llama.cpp's LoRA stay as they are; PEFT's two files become one of ours, since a layer is
one file. Each is tried on its base before anything is written under the new name.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from codellama.errors import CodeLlamaError, RequestError
from codellama.hub.files import read_bounded
from codellama.hub.layout import Layout
from codellama.hub.manifest import Layer, build_manifest, parse_digest, parse_manifest
from codellama.hub.store import Store

if TYPE_CHECKING:
    from codellama.weights.model_file import ModelFile

__all__ = ["adapter_layers"]

SETTINGS = "adapter_config.json"
LONGEST_SETTINGS = 1 << 20
MOST = 16


def adapter_layers(store: Store, layers: list[Layer], adapters: Mapping[str, str]) -> list[Layer]:
    """The layers of `adapters` (file name → digest of its blob) for the model of `layers`.

    Raises RequestError: a blob that is not here, no adapter, or one of another base.
    """
    from codellama.weights.adapter import open_adapted
    from codellama.weights.load import open_model

    if len(adapters) > MOST:
        raise RequestError(f"{len(adapters)} adapters: at most {MOST} are taken")
    blobs = {name: _blob(store, name, digest) for name, digest in adapters.items()}
    settings = {Path(n).name: path for n, path in blobs.items() if n.endswith(".json")}
    weights = {n: path for n, path in blobs.items() if not n.endswith(".json")}
    if not weights:
        raise RequestError("the adapter has no weights: send its safetensors or GGUF file")
    model = open_model(_path(store, layers))
    made = []
    for name, path in weights.items():
        try:
            layer = _layer(store, path, settings.get(SETTINGS), model)
            model = open_adapted(model, store.blob(layer.digest), None)
        except CodeLlamaError as error:
            text = str(error).replace(str(path), name).replace(str(store.root), "")
            raise RequestError(f"the adapter cannot be used: {text}") from None
        made.append(layer)
    return made


def _blob(store: Store, name: str, digest: str) -> Path:
    try:
        path = Layout.blob(store, parse_digest(digest))
    except ValueError as error:
        raise RequestError(f"adapter {name[:100]}: {error}") from None
    if not path.is_file():
        raise RequestError(f"the blob {digest[:19]} is not here: send it first")
    return path


def _path(store: Store, layers: list[Layer]) -> Path:
    """What `open_model` takes for layers that no manifest names yet."""
    config = store.add_bytes("config", b"{}")
    return store.path_of(parse_manifest(build_manifest(layers, config, {})), store)


def _layer(store: Store, path: Path, settings: Path | None, base: ModelFile) -> Layer:
    from codellama.weights.adapter_formats import is_gguf, is_peft, packed_peft

    if is_gguf(path) or not is_peft(path):
        return Layer("adapter", path.name.replace("-", ":", 1), path.stat().st_size)
    if settings is None:
        raise RequestError(f"{SETTINGS} is missing: send it with the adapter")
    try:
        found: Any = msgspec.json.decode(read_bounded(settings, LONGEST_SETTINGS))
    except (OSError, ValueError):
        raise RequestError(f"{SETTINGS} is no JSON") from None
    if not isinstance(found, dict):
        raise RequestError(f"{SETTINGS} is no table")
    return store.add_bytes("adapter", packed_peft(path, found, base.config))
