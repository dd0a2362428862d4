"""Checkpoints of a run: written whole or not at all, the last few kept, refused by another recipe.

    RUN/checkpoints/step-00000120/{tensors.safetensors, state.json}

A folder appears under its name only when all of it is on the disk, so a run killed at any moment
finds the checkpoint before. A full disk loses the new checkpoint, never an old one.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from codellama.errors import ModelFileError, RequestError
from codellama.weights.files import atomic_folder, read_json, synced_write

__all__ = ["latest", "load_checkpoint", "save_checkpoint"]


def save_checkpoint(
    folder: Path, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any], keep: int
) -> Path:
    """Write one; then remove all but the last `keep`.

    Raises ModelFileError when it cannot be written; nothing is left behind then.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save

    target = folder / f"step-{step:08d}"
    if not target.exists():
        with atomic_folder(target) as draft:
            try:
                data = save({name: t.contiguous() for name, t in tensors.items()})
            except SafetensorError as error:
                raise ModelFileError(f"{target}: {error}") from None
            synced_write(draft / "tensors.safetensors", data)
            synced_write(draft / "state.json", json.dumps({**state, "step": step}).encode())
    for old in _all(folder)[: -max(1, keep)]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def latest(folder: Path) -> Path | None:
    """The newest checkpoint, None where there is none."""
    found = _all(folder)
    return found[-1] if found else None


def load_checkpoint(path: Path, key: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(tensors, state). Raises RequestError for another recipe's, ModelFileError for damage."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    state = read_json(path / "state.json", 1 << 30)
    if state.get("key") != key:
        raise RequestError(
            f"{path} belongs to another recipe, corpus or model ({state.get('key')}, not {key}): "
            "choose another folder for this run, or give back what was changed"
        )
    try:
        return load_file(path / "tensors.safetensors"), state
    except (SafetensorError, OSError) as error:
        raise ModelFileError(f"{path}: damaged: {error}; remove it to use the one before") from None


def _all(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-[0-9]*")) if folder.is_dir() else []
