"""Checkpoints of a run: written whole or not at all, the last few kept, refused by another recipe.

    RUN/checkpoints/step-00000120/{tensors.safetensors, state.json}

Where weights are sharded over processes, each writes its shards (tensors-00003.safetensors, …),
with their places in the header; any number of processes reads any number's. A folder appears under
its name only when all of it is on the disk, so a run killed at any moment finds the checkpoint
before. A full disk loses the new checkpoint, never an old one.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from codellama.errors import ModelFileError, RequestError
from codellama.specialize.parallel import Parallel, agreed
from codellama.specialize.shards import is_spare, local_part
from codellama.weights.files import read_json, sync_folder, synced_write

__all__ = ["latest", "load_checkpoint", "save_checkpoint"]

_OFFSETS = "offsets"  # in a file's header: name → where the piece begins in the whole tensor


def save_checkpoint(
    folder: Path,
    step: int,
    tensors: Mapping[str, Tensor],
    state: Mapping[str, Any],
    keep: int,
    parallel: Parallel | None = None,
) -> Path:
    """Write one; then remove all but the last `keep`.

    Args:
        parallel: this process among others, who must all ask, on one file system.

    Raises ModelFileError, in all of them, when it cannot be written; nothing is left behind then.
    """
    target = folder / f"step-{step:08d}"
    if not agreed(parallel, target.exists()):
        _write(target, {**state, "step": step}, tensors, parallel)
    if parallel is None or not parallel.rank:
        for old in _all(folder)[: -max(1, keep)]:
            shutil.rmtree(old, ignore_errors=True)
    return target


def _write(
    target: Path, state: Mapping[str, Any], tensors: Mapping[str, Tensor], parallel: Parallel | None
) -> None:
    draft, wrong = target.with_name(f".{target.name}.partial"), ""
    leads = parallel is None or not parallel.rank
    try:
        if leads:
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir(parents=True)
    except OSError as error:
        wrong = f"cannot be written: {error.strerror or error}"
    if parallel is not None:
        parallel.wait()
    wrong = wrong or _write_own(draft, tensors, parallel)
    failed = bool(wrong) if parallel is None else parallel.total(float(bool(wrong))) > 0
    try:
        if leads and not failed:
            synced_write(draft / "state.json", json.dumps(state).encode())
            os.replace(draft, target)
            sync_folder(target.parent)
    except OSError as error:
        wrong = f"cannot be written: {error.strerror or error}"
    if leads:
        shutil.rmtree(draft, ignore_errors=True)
    if parallel is not None:
        parallel.wait()
    if failed or wrong:
        raise ModelFileError(f"{target}: {wrong or 'another process could not write its part'}")


def _write_own(draft: Path, tensors: Mapping[str, Tensor], parallel: Parallel | None) -> str:
    """Write what only this process holds, or holds first; says what went wrong."""
    from safetensors import SafetensorError
    from safetensors.torch import save

    rank = 0 if parallel is None else parallel.rank
    own = {name: local_part(t) for name, t in tensors.items() if not is_spare(t, rank)}
    parts = {name: part.contiguous().cpu() for name, (part, _) in own.items() if part.numel()}
    if not parts:
        return ""
    offsets = {name: own[name][1] for name in parts}
    name = "tensors.safetensors" if parallel is None else f"tensors-{rank:05d}.safetensors"
    try:
        synced_write(draft / name, save(parts, {_OFFSETS: json.dumps(offsets)}))
    except (SafetensorError, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        return f"cannot be written: {reason or error}"
    return ""


def latest(folder: Path) -> Path | None:
    """The newest checkpoint, None where there is none."""
    found = _all(folder)
    return found[-1] if found else None


@torch.no_grad()
def load_checkpoint(
    path: Path, key: str, into: Mapping[str, Tensor]
) -> tuple[set[str], dict[str, Any]]:
    """Fill tensors, or this process's shards of them, from a checkpoint of any number of processes.

    Returns:
        The names that were there, and the state.

    Raises:
        RequestError: it is another recipe's; nothing was filled.
        ModelFileError: it is damaged.
    """
    from safetensors import SafetensorError, safe_open

    state = read_json(path / "state.json", 1 << 30)
    if state.get("key") != key:
        raise RequestError(
            f"{path} belongs to another recipe, corpus or model ({state.get('key')}, not {key}): "
            "choose another folder for this run, or give back what was changed"
        )
    missing: dict[str, int] = {}
    try:
        for name in sorted(path.glob("tensors*.safetensors")):
            with safe_open(name, "pt") as file:
                offsets = json.loads((file.metadata() or {}).get(_OFFSETS, "{}"))
                for each in set(file.keys()) & set(into):
                    left = missing.setdefault(each, local_part(into[each])[0].numel())
                    missing[each] = left - _fill(
                        into[each], file.get_slice(each), offsets.get(each)
                    )
    except (SafetensorError, OSError, ValueError, TypeError, AttributeError) as error:
        raise ModelFileError(f"{path}: damaged: {error}; remove it to use the one before") from None
    if torn := [name for name, left in missing.items() if left]:
        raise ModelFileError(
            f"{path}: parts of {torn[0]} are missing; remove it to use the one before"
        )
    return set(missing), state


def _fill(tensor: Tensor, stored: Any, offset: list[int] | None) -> int:
    """Copy what a stored piece and this process's part have in common; returns its elements."""
    part, begin = local_part(tensor)
    sizes, starts = stored.get_shape(), offset or [0] * tensor.dim()
    whole = [*tensor.shape]
    if len(sizes) != len(whole) or len(starts) != len(whole):
        raise ValueError(f"a tensor of {len(sizes)} dimensions where {len(whole)} are expected")
    if any(s < 0 or s + n > w for s, n, w in zip(starts, sizes, whole, strict=True)):
        raise ValueError(f"a piece of shape {sizes} at {starts} of a tensor of shape {whole}")
    if not whole:
        part.copy_(stored[...])
        return 1
    edges = zip(begin, part.shape, starts, sizes, strict=True)
    common = [range(max(b, s), min(b + n, s + m)) for b, n, s, m in edges]
    if not all(common):
        return 0
    there = tuple(slice(r.start - s, r.stop - s) for r, s in zip(common, starts, strict=True))
    here = tuple(slice(r.start - b, r.stop - b) for r, b in zip(common, begin, strict=True))
    part[here].copy_(stored[there])
    return math.prod(len(r) for r in common)


def _all(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-[0-9]*")) if folder.is_dir() else []
