"""Does a model fit into this machine's memory? Answered before anything is loaded.

Counts what the native engine holds: the weights once in their own bits, the KV cache, and the
largest tensor once more while it is packed. What is free is the least of what the system and every
enclosing control group grant (containers, systemd, Slurm). Does not promise that memory free now is
free later, and knows nothing of a GPU's.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from codellama.errors import ModelTooLargeError
from codellama.model.config import KvType, ModelConfig

__all__ = ["Sized", "available_memory", "check_memory"]


class Sized(Protocol):
    """The part of weights.load.ModelFile that a size check needs."""

    @property
    def config(self) -> ModelConfig: ...
    @property
    def weight_bytes(self) -> int: ...
    @property
    def largest_bytes(self) -> int: ...


def check_memory(
    model_file: Sized, context: int, available: int | None = None, *, kv_type: KvType = "f16"
) -> None:
    """Refuse a model that will not fit; loads nothing.

    Args:
        model_file: an open model file.
        context: tokens that the KV cache shall hold.
        available: bytes to fit into; default what this process can still take. Where the system
            does not say, nothing is refused.
        kv_type: how the cache keeps keys and values.

    Raises:
        ModelTooLargeError: with what is needed, what is free and the difference.
    """
    if available is None:
        available = available_memory()
    if available is None:
        return
    cache = model_file.config.kv_bytes(context, kv_type)
    needed = model_file.weight_bytes + model_file.largest_bytes + cache
    if needed > available:
        raise ModelTooLargeError(
            f"{model_file.config.name} needs {_size(needed)} of memory (weights "
            f"{_size(model_file.weight_bytes)}, a context of {context:,} tokens {_size(cache)}), "
            f"{_size(available)} is free: {_size(needed - available)} too much; take a smaller "
            f"quantization{', kv_type q8_0' if kv_type == 'f16' else ''} or a shorter context"
        )


def _size(n: int) -> str:
    return f"{n / 1e9:.2f} GB" if n >= 10_000_000 else f"{n / 1e6:.2f} MB"


def available_memory(root: Path = Path("/")) -> int | None:
    """Bytes that this process can still take, None where the system does not say.

    Linux: MemAvailable of /proc/meminfo and the limits of control groups, version 1 and 2, under
    `root`. Elsewhere: the physical memory, an upper bound.
    """
    bounds = [*_meminfo(root / "proc/meminfo"), *_control_groups(root)]
    return min(bounds) if bounds else _physical()


def _meminfo(path: Path) -> Iterator[int]:
    for line in _lines(path):
        if line.startswith("MemAvailable:"):
            yield int(line.split()[1]) * 1024


def _control_groups(root: Path) -> Iterator[int]:
    """What each group from the process's own up to the mount has left."""
    mount = root / "sys/fs/cgroup"
    for line in _lines(root / "proc/self/cgroup"):
        number, controllers, path = line.split(":", 2)
        if number == "0" and not controllers:
            yield from _climb(mount, path, "memory.max", "memory.current", "")
        elif "memory" in controllers.split(","):
            limit, usage = "memory.limit_in_bytes", "memory.usage_in_bytes"
            yield from _climb(mount / "memory", path, limit, usage, "total_")


def _climb(mount: Path, path: str, limit: str, usage: str, prefix: str) -> Iterator[int]:
    # In a container the path may be the host's and not exist below the mount; the mount itself is
    # then the container's own group.
    parts = [part for part in path.split("/") if part not in ("", "..")]
    for depth in range(len(parts), -1, -1):
        group = mount.joinpath(*parts[:depth])
        granted, used = _number(group / limit), _number(group / usage)
        if granted is not None and used is not None:
            yield max(0, granted - max(0, used - _file_cache(group / "memory.stat", prefix)))


def _file_cache(path: Path, prefix: str) -> int:
    """Cached file pages, which the kernel takes back under pressure; model files lie there."""
    names = {f"{prefix}inactive_file", f"{prefix}active_file"}
    fields = (line.split() for line in _lines(path))
    return sum(int(field[1]) for field in fields if len(field) == 2 and field[0] in names)


def _number(path: Path) -> int | None:
    """The file's number; None for "max" and where there is none."""
    lines = _lines(path)
    return int(lines[0]) if lines and lines[0].isdecimal() else None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return []


def _physical() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None
