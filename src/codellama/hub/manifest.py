"""Manifests: which files make up a model. The JSON of Ollama's registry and store (OCI image
manifest v2), read strictly.

A GGUF model has one layer of kind `model` (several when the file is split) and, from a registry,
its template, system prompt, parameters, messages and license. A folder model (safetensors, Meta) is
the same JSON with one `file` layer for each file, named by the OCI title annotation. So one format
covers our store, Ollama's store and the registry protocol.

Knows no paths and no network. Does not promise that the blobs exist.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = [
    "MANIFEST_LIMIT",
    "MANIFEST_TYPE",
    "Layer",
    "Manifest",
    "build_manifest",
    "parse_digest",
    "parse_manifest",
]

MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
CONFIG_TYPE = "application/vnd.docker.container.image.v1+json"
_OLLAMA = "application/vnd.ollama.image."
_FILE_TYPE = "application/vnd.codellama.file"
_TITLE = "org.opencontainers.image.title"

MANIFEST_LIMIT = 4 << 20  # a 70B model in 191 shards takes 60 kB
_MAX_LAYERS = 4096
_MAX_SIZE = 1 << 50  # a petabyte: beyond any file, and far from integer trouble
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_FILE_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_+@=, -]|\.(?!\.)){0,254}")


@dataclass(frozen=True, slots=True)
class Layer:
    """One file of a model.

    Attributes:
        kind: "model", "template", "system", "params", "messages", "license", "adapter",
            "projector", "config", "file" or, for what we do not know, the full media type.
        digest: "sha256:" and 64 hex digits.
        size: bytes.
        title: the file's own name, for models of several files; "" otherwise.
    """

    kind: str
    digest: str
    size: int
    title: str = ""


@dataclass(frozen=True, slots=True)
class Manifest:
    """A parsed manifest. `digest` is the sha256 of its raw bytes, what Ollama's API calls the
    model's digest.
    """

    layers: tuple[Layer, ...]
    config: Layer | None
    digest: str
    annotations: Mapping[str, str] = field(default_factory=dict)

    @property
    def files(self) -> tuple[Layer, ...]:
        """Every layer, the configuration included."""
        return (*self.layers, self.config) if self.config else self.layers

    @property
    def weights(self) -> tuple[Layer, ...]:
        """The layers that hold the model itself, before any adapter."""
        return tuple(layer for layer in self.layers if layer.kind in ("model", "file"))

    @property
    def adapters(self) -> tuple[Layer, ...]:
        """The layers that change it, in order."""
        return tuple(layer for layer in self.layers if layer.kind == "adapter")

    @property
    def size(self) -> int:
        return sum({layer.digest: layer.size for layer in self.files}.values())

    @property
    def format(self) -> str:
        """ "gguf", "safetensors", "meta", or "" when no layer holds weights that this project
        reads.
        """
        if any(layer.kind == "model" for layer in self.layers):
            return "gguf"
        titles = [layer.title for layer in self.layers if layer.kind == "file"]
        if any(title.endswith(".safetensors") for title in titles):
            return "safetensors"
        return "meta" if any(title.endswith(".pth") for title in titles) else ""

    @property
    def is_folder(self) -> bool:
        """Whether the files must stand side by side under their own names to be opened."""
        return len(self.weights) > 1 or self.format in ("safetensors", "meta")


def parse_digest(text: object) -> str:
    """Validate `sha256:<64 hex>`; nothing else ever becomes part of a path. Raises ValueError."""
    if not isinstance(text, str) or not _DIGEST.fullmatch(text):
        raise ValueError(f"{str(text)[:80]!r} is not a sha256 digest")
    return text


def parse_manifest(raw: bytes) -> Manifest:
    """Parse and check hostile JSON. Raises ValueError saying what is wrong; never allocates beyond
    the input's size.
    """
    if len(raw) > MANIFEST_LIMIT:
        raise ValueError(f"the manifest has {len(raw)} bytes, more than {MANIFEST_LIMIT}")
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise ValueError("the manifest is not JSON") from error
    if not isinstance(document, dict):
        raise ValueError("the manifest is not a JSON object")
    entries = document.get("layers")
    if not isinstance(entries, list) or not 0 < len(entries) <= _MAX_LAYERS:
        raise ValueError(f"the manifest lists no layers, or more than {_MAX_LAYERS}")
    config = document.get("config")
    manifest = Manifest(
        layers=tuple(_parse_layer(entry) for entry in entries),
        config=_parse_layer(config) if _has_digest(config) else None,
        digest=f"sha256:{hashlib.sha256(raw).hexdigest()}",
        annotations=_strings(document.get("annotations")),
    )
    if manifest.is_folder:
        titles = [layer.title.lower() for layer in manifest.weights]
        if "" in titles or len(set(titles)) != len(titles):
            raise ValueError("the manifest has several weight files without names of their own")
    return manifest


def build_manifest(layers: Sequence[Layer], config: Layer, annotations: Mapping[str, str]) -> bytes:
    """The JSON of a manifest made here; `parse_manifest` reads it back to the same layers."""
    document = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": _layer_json(config),
        "layers": [_layer_json(layer) for layer in layers],
        "annotations": dict(annotations),
    }
    return json.dumps(document, separators=(",", ":")).encode()


def is_file_name(text: str) -> bool:
    """Whether `text` may be the name of a file in a folder that we make: one plain component."""
    return _FILE_NAME.fullmatch(text) is not None


def _has_digest(entry: Any) -> bool:
    return isinstance(entry, dict) and entry.get("digest") not in (None, "")


def _parse_layer(entry: Any) -> Layer:
    if not isinstance(entry, dict):
        raise ValueError("the manifest has a layer that is not an object")
    media_type, size = entry.get("mediaType"), entry.get("size")
    if not isinstance(media_type, str) or not 0 < len(media_type) <= 255:
        raise ValueError("the manifest has a layer without a media type")
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= _MAX_SIZE:
        raise ValueError(f"the manifest has a layer of impossible size {str(size)[:40]}")
    title = _strings(entry.get("annotations")).get(_TITLE, "")
    if title and not is_file_name(title):
        raise ValueError(f"the manifest names a file {title[:80]!r}")
    return Layer(_kind(media_type), parse_digest(entry.get("digest")), size, title)


def _kind(media_type: str) -> str:
    if media_type == CONFIG_TYPE:
        return "config"
    if media_type == _FILE_TYPE:
        return "file"
    return media_type.removeprefix(_OLLAMA)


def _media_type(kind: str) -> str:
    return {"config": CONFIG_TYPE, "file": _FILE_TYPE}.get(
        kind, kind if "/" in kind else _OLLAMA + kind
    )


def _layer_json(layer: Layer) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "mediaType": _media_type(layer.kind),
        "digest": layer.digest,
        "size": layer.size,
    }
    if layer.title:
        entry["annotations"] = {_TITLE: layer.title}
    return entry


def _strings(value: Any) -> dict[str, str]:
    if not isinstance(value, dict):
        return {}
    return {
        key: item for key, item in value.items() if isinstance(key, str) and isinstance(item, str)
    }
