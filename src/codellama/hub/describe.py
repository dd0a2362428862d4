"""What the hub knows of one model: its files, its template, system prompt, parameters, license, and
where it came from.

Reads manifests and their small layers, never the weights: weights/ says what is inside a model
file.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from codellama.hub.catalogue import EMBEDDED
from codellama.hub.files import read_bounded
from codellama.hub.layout import Layout
from codellama.hub.lookup import find
from codellama.hub.manifest import Layer, Manifest
from codellama.hub.places import store_dir
from codellama.hub.store import Store

__all__ = ["ModelInfo", "info"]

_TEXT_LIMIT = 1 << 20  # of one template, license, … layer
_TEXTS = ("template", "system", "params", "messages", "license")


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What the hub knows of a model on this machine.

    Attributes:
        name, size, modified, format, where, digest: as in ModelEntry; `where` is "path" for a plain
            file or folder.
        path: what `open_model` takes.
        layers: the manifest's files; empty where there is no manifest.
        texts: by kind ("template", "system", "params", "messages", "license"): the layers'
            contents, in order.
        config: the registry's description (model_family, file_type, license, …), as far as there is
            one.
        source: where it came from ("source", "revision"), for models that this project pulled.
    """

    name: str
    path: Path
    size: int
    modified: float
    format: str
    where: str
    digest: str = ""
    layers: tuple[Layer, ...] = ()
    texts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    source: Mapping[str, str] = field(default_factory=dict)


def info(name_or_path: str | os.PathLike[str]) -> ModelInfo:
    """Everything the hub knows of a model that is here. Raises as `resolve` does."""
    store = Store(store_dir())
    found = find(os.fspath(name_or_path), store)
    path = found.path(store)
    manifest, layout = found.manifest, found.layout
    if manifest is None or layout is None or found.manifest_path is None:
        files = [file for file in path.iterdir() if file.is_file()] if path.is_dir() else [path]
        is_embedded = found.name == EMBEDDED.name and found.where == store.where
        return ModelInfo(
            name=found.name,
            path=path,
            size=sum(file.stat().st_size for file in files),
            modified=path.stat().st_mtime,
            format=_format(path),
            where=found.where,
            digest=EMBEDDED.digest if is_embedded else "",
        )
    return ModelInfo(
        name=found.name,
        path=path,
        size=manifest.size,
        modified=found.manifest_path.stat().st_mtime,
        format=manifest.format,
        where=found.where,
        digest=manifest.digest,
        layers=manifest.layers,
        texts={kind: texts for kind in _TEXTS if (texts := _texts(manifest, layout, kind))},
        config=_config(manifest, layout),
        source=manifest.annotations,
    )


def _format(path: Path) -> str:
    if path.is_file():
        return "gguf"
    return "meta" if (path / "params.json").is_file() else "safetensors"


def _texts(manifest: Manifest, layout: Layout, kind: str) -> tuple[str, ...]:
    """The readable layers of one kind; what is too large or gone is left out."""
    texts: list[str] = []
    for layer in manifest.layers:
        if layer.kind == kind:
            with contextlib.suppress(OSError, ValueError):
                texts.append(
                    read_bounded(layout.blob(layer.digest), _TEXT_LIMIT).decode("utf-8", "replace")
                )
    return tuple(texts)


def _config(manifest: Manifest, layout: Layout) -> dict[str, Any]:
    if manifest.config is None:
        return {}
    try:
        document = json.loads(read_bounded(layout.blob(manifest.config.digest), _TEXT_LIMIT))
    except (OSError, ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}
