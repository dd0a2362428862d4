"""A folder of models as Ollama lays it out, read in place: `manifests/HOST/NAMESPACE/MODEL/TAG` and
`blobs/sha256-HEX`.

Ollama's own store and ours share this layout, so one reader serves both and nothing is copied.
Writes nothing; store.py adds what writes. Does not promise that a blob's bytes match its digest
(whoever put it there checked), only its size.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from codellama.errors import ModelFileError, RequestError
from codellama.hub.files import TEMPORARY, read_bounded
from codellama.hub.manifest import MANIFEST_LIMIT, Layer, Manifest, parse_digest, parse_manifest
from codellama.hub.names import Name, parse_name

__all__ = ["Layout", "ModelEntry"]

_COLON = "%3A"  # a host's port in a folder name: ':' is not allowed on Windows, '%' not in a host


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """One model on this machine.

    Attributes:
        name: what `resolve` takes.
        size: bytes of all its files. modified: POSIX seconds.
        format: "gguf", "safetensors" or "meta".
        where: "store", "ollama" or "huggingface".
        digest: "sha256:…" of the manifest (as Ollama's API reports it); of the file for one that
            has no manifest; "" unknown.
    """

    name: str
    size: int
    modified: float
    format: str
    where: str
    digest: str = ""


class Layout:
    """Reads one such folder. `where` labels its entries."""

    def __init__(self, root: Path, where: str) -> None:
        self.root = root
        self.where = where

    def blob(self, digest: str) -> Path:
        """Where the blob is, or would be."""
        hexadecimal = parse_digest(digest).removeprefix("sha256:")
        path = self.root / "blobs" / f"sha256-{hexadecimal}"
        if os.name != "nt" and not path.exists():
            old = path.with_name(digest)  # Ollama before 0.1.32
            if old.exists():
                return old
        return path

    def has(self, layer: Layer) -> bool:
        """Whether the layer's blob is here, whole."""
        try:
            return self.blob(layer.digest).stat().st_size == layer.size
        except OSError:
            return False

    def manifest_path(self, name: Name) -> Path:
        host = name.host.replace(":", _COLON)
        return self.root / "manifests" / host / name.namespace / name.model / name.tag

    def locate(self, name: Name) -> tuple[Name, Path] | None:
        """The stored spelling of a name and its manifest's path; case is ignored where it is not
        met exactly.
        """
        path = self.manifest_path(name)
        try:
            if path.is_file():
                return name, path
        except OSError:
            return None  # a folder that we may not enter
        return next((found for found in self.names() if found[0].key == name.key), None)

    def find(self, name: Name) -> Manifest | None:
        """The manifest of a name, or None. Raises ModelFileError when it is damaged."""
        found = self.locate(name)
        return self.read(found[1]) if found else None

    def read(self, path: Path) -> Manifest:
        """Parse a manifest file. Raises ModelFileError."""
        try:
            return parse_manifest(read_bounded(path, MANIFEST_LIMIT))
        except (OSError, ValueError) as error:
            name = "/".join(path.parts[-2:])
            raise ModelFileError(
                f"the manifest {name} is damaged ({error}): pull the model again"
            ) from error

    def names(self) -> Iterator[tuple[Name, Path]]:
        """Every name with its manifest's path, in order; what is not a valid name is left out."""
        top = self.root / "manifests"
        for host in _children(top):
            for namespace in _children(top / host):
                for model in _children(top / host / namespace):
                    for tag in _children(top / host / namespace / model):
                        if tag.endswith(TEMPORARY):
                            continue
                        try:
                            plain = f"{host.replace(_COLON, ':')}/{namespace}/{model}:{tag}"
                            yield parse_name(plain), top / host / namespace / model / tag
                        except RequestError:
                            continue

    def entries(self) -> Iterator[ModelEntry]:
        """Every model that is whole. Damaged ones and those of other formats are passed over."""
        for name, path in self.names():
            try:
                manifest, modified = self.read(path), path.stat().st_mtime
            except (ModelFileError, OSError):
                continue
            needed = (*manifest.weights, *manifest.adapters)
            if manifest.format and all(self.has(layer) for layer in needed):
                yield ModelEntry(
                    str(name), manifest.size, modified, manifest.format, self.where, manifest.digest
                )


def _children(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []
