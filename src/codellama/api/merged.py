"""A model that is a base and adapters, as one file: merged once, kept in the cache, and opened from
there.

Merging SmolLM2-135M takes seconds, opening the merged file nothing. A kept file's name is a hash of
what it was made of, so that another adapter, base or version of this code never meets it. Models
beyond 1 GB are merged at every start, and so is any model where the file cannot be kept (a full
disk, a read-only home). Does not know how adapters are trained.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from codellama.errors import ModelFileError

if TYPE_CHECKING:
    from codellama.weights.load import ModelFile

__all__ = ["open_merged"]

_VERSION = 2
"""Of what merging computes: a change of it makes kept files new."""

_LARGEST = 1 << 30  # bytes of a file that is worth its place; reading it takes as long as merging
_UNUSED_S = 30 * 86400.0  # a kept file that nobody opened for so long is removed
_MOST = 8  # files that are kept


def open_merged(path: Path) -> ModelFile:
    """The model of a path: a model file or folder, one with adapters beside it (the store's), or an
    adapter file that names its base. Merged matrices have 8 bits, or the base's floats.

    Raises as `open_model` does, and NotFoundError where an adapter's base is not here.
    """
    from codellama.weights.load import adapters_of, open_model

    if adapters := adapters_of(path):
        return _kept_or_merged(path, [*_weights(path), *adapters])
    base = _base_of(path)
    return open_model(path) if base is None else _kept_or_merged(path, [base, path])


def _kept_or_merged(path: Path, sources: Sequence[Path]) -> ModelFile:
    from codellama.weights.export import export_gguf
    from codellama.weights.load import open_model

    kept = _place(sources)
    if kept.is_file():
        with contextlib.suppress(OSError):
            os.utime(kept)
        return open_model(kept)
    merged = _merged(path, sources)
    if merged.weight_bytes > _LARGEST:
        return merged
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        export_gguf(merged, kept)
    except (OSError, ModelFileError):
        return merged
    _forget_unused(kept.parent)
    return open_model(kept)


def _merged(path: Path, sources: Sequence[Path]) -> ModelFile:
    from codellama.weights.load import open_model

    if path.is_dir():
        return open_model(path)
    from codellama.weights.adapter import open_adapted

    base, adapter = sources
    return open_adapted(open_model(base), adapter, None)


def _base_of(path: Path) -> Path | None:
    """Where the base of an adapter file lies; None for a path that is no such file."""
    if path.suffix != ".safetensors" or not path.is_file():
        return None
    from codellama.hub import resolve
    from codellama.weights.adapter import base_of

    base = base_of(path)
    return None if base is None else resolve(base)


def _weights(folder: Path) -> list[Path]:
    return sorted(each for each in folder.iterdir() if not each.name.startswith("."))


def _place(sources: Sequence[Path]) -> Path:
    """Where the merged file is kept. Blobs count by their names, which are hashes of their bytes;
    other files by path, size and time of change: hashing them would take as long as merging.
    """
    import hashlib

    from codellama.hub.places import cache_home

    digest = hashlib.sha256(str(_VERSION).encode())
    for source in sources:
        about, place = source.stat(), source.resolve()
        known = f"{place}\0{about.st_size}\0{about.st_mtime_ns}"
        digest.update(f"\0{place.name if place.name.startswith('sha256-') else known}".encode())
    return cache_home() / "codellama" / "merged" / f"{digest.hexdigest()[:32]}.gguf"


def _forget_unused(folder: Path) -> None:
    """Remove what nobody opened for long, and all but the last few; a file in use stays
    readable.
    """
    used: list[tuple[float, Path]] = []
    for path in folder.glob("*.gguf"):
        with contextlib.suppress(OSError):
            used.append((path.stat().st_mtime, path))
    for place, (at, path) in enumerate(sorted(used, reverse=True)):
        if place >= _MOST or time.time() - at > _UNUSED_S:
            with contextlib.suppress(OSError):
                path.unlink()
