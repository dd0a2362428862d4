"""A model that is a base and an adapter, as one file: merged once, kept in the cache, and opened
from there.

Merging SmolLM2-135M takes seconds, opening the merged file nothing. The kept file carries the
hashes of what it was made of in its name, so that another adapter, base or version of this code
never meets it. Where it cannot be kept (a full disk, a read-only home) the model is merged in
memory, at every start. Does not know how adapters are trained.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from codellama.errors import ModelFileError

if TYPE_CHECKING:
    from codellama.weights.load import ModelFile

__all__ = ["open_merged"]

_VERSION = 1
"""Of what merging computes: a change of it makes kept files new."""


def open_merged(path: Path) -> ModelFile:
    """The model of a path; for an adapter, its base as the adapter changes it, in 8 bits.

    Raises as `open_model` and `open_adapted` do, and NotFoundError where the base is not here.
    """
    from codellama.weights.load import open_model

    if path.suffix != ".safetensors" or not path.is_file():
        return open_model(path)
    from codellama.hub import resolve
    from codellama.weights.adapter import base_of, open_adapted
    from codellama.weights.export import export_gguf
    from codellama.weights.tensor import GGMLType

    base = base_of(path)
    if base is None:
        return open_model(path)
    base_path = resolve(base)
    kept = _place(path, base_path)
    if kept.is_file():
        return open_model(kept)
    merged = open_adapted(open_model(base_path), path, GGMLType.Q8_0)
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        export_gguf(merged, kept)
    except (OSError, ModelFileError):
        return merged
    _forget_others(path, kept)
    return open_model(kept)


def _place(adapter: Path, base: Path) -> Path:
    """Where the merged file is kept. The base counts by its path, size and time of change: hashing
    it would take as long as merging.
    """
    from codellama.hub.places import cache_home

    about = base.stat()
    digest = hashlib.sha256(adapter.read_bytes())
    digest.update(f"\0{base.resolve()}\0{about.st_size}\0{about.st_mtime_ns}\0{_VERSION}".encode())
    name = f"{adapter.stem}-{digest.hexdigest()[:16]}.gguf"
    return cache_home() / "codellama" / "merged" / name


def _forget_others(adapter: Path, kept: Path) -> None:
    """Remove what earlier versions of this adapter left; a file in use stays readable."""
    for other in kept.parent.glob(f"{adapter.stem}-" + "[0-9a-f]" * 16 + ".gguf"):
        if other != kept:
            try:
                os.unlink(other)
            except OSError:
                continue
