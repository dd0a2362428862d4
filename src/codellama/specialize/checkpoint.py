"""Checkpoints of a run: written whole or not at all, the last few kept, refused by another recipe.

    RUN/checkpoints/step-00000120/{tensors.safetensors, state.json}

Where weights are sharded over processes, each writes its shards (tensors-00003.safetensors, …),
with their places in the header; any number of processes reads any number's. A folder appears under
its name only when all of it is on the disk, so a run killed at any moment finds the checkpoint
before. A full disk loses the new checkpoint, never an old one. Training goes on while one is
written: what it writes is a copy.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from threading import Thread
from typing import Any

import torch
from torch import Tensor

from codellama.errors import ModelFileError, RequestError
from codellama.specialize.parallel import Parallel, agreed
from codellama.specialize.shards import is_spare, local_part
from codellama.weights.files import read_json, sync_folder, synced_write

__all__ = ["Saver", "latest", "load_checkpoint"]

_OFFSETS = "offsets"  # in a file's header: name → where the piece begins in the whole tensor


class Saver:
    """Writes the checkpoints of one run, each in a thread while training goes on.

    What is written is a copy of the moment in which it was begun: the bytes of the file, in memory
    until they are on the disk. One is under way at most.

    Args:
        parallel: this process among others, on one file system; every call is then all of theirs.

    Attributes:
        step: of the checkpoint under way, None where there is none.
    """

    def __init__(self, folder: Path, keep: int, parallel: Parallel | None = None) -> None:
        self._folder, self._keep, self._parallel = folder, keep, parallel
        self._leads = parallel is None or not parallel.rank
        self._thread: Thread | None = None
        self._wrong = ""
        self._state: dict[str, Any] = {}
        self.step: int | None = None

    def begin(self, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Copy everything and begin to write; nothing where this step's is there already.

        Raises RuntimeError while another is under way.
        """
        if self.step is not None:
            raise RuntimeError(f"the checkpoint of step {self.step} is not finished")
        if agreed(self._parallel, (self._folder / f"step-{step:08d}").exists()):
            return
        self.step, self._state, self._wrong = step, {**state, "step": step}, ""
        draft = self._draft(step)
        try:
            if self._leads:
                for stale in self._folder.glob(".step-*.partial"):  # of runs that were killed
                    shutil.rmtree(stale, ignore_errors=True)
                draft.mkdir(parents=True)
        except OSError as error:
            self._wrong = f"cannot be written: {error.strerror or error}"
        rank = 0 if self._parallel is None else self._parallel.rank
        data = _own_bytes(tensors, rank)
        if self._parallel is not None:
            self._parallel.wait()  # for the folder
        if data and not self._wrong:
            name = "tensors" if self._parallel is None else f"tensors-{rank:05d}"
            path = draft / f"{name}.safetensors"
            self._thread = Thread(target=self._write, args=(path, data), name="checkpoint")
            self._thread.start()

    def written(self) -> bool:
        """Whether `finish` has something to finish and would not wait."""
        if self.step is None:
            return False
        writes = float(self._thread is not None and self._thread.is_alive())
        return writes == 0 if self._parallel is None else self._parallel.total(writes) == 0

    def finish(self) -> None:
        """Wait for what is under way, and give it its name; nothing where there is none.

        Raises ModelFileError, in all processes, when it cannot be written; nothing is left behind.
        """
        if self.step is None:
            return
        if self._thread is not None:
            self._thread.join()
        step, self.step, self._thread = self.step, None, None
        target, draft = self._folder / f"step-{step:08d}", self._draft(step)
        wrong, parallel = self._wrong, self._parallel
        failed = bool(wrong) if parallel is None else parallel.total(float(bool(wrong))) > 0
        try:
            if self._leads and not failed:
                synced_write(draft / "state.json", json.dumps(self._state).encode())
                os.replace(draft, target)
                sync_folder(self._folder)
        except OSError as error:
            wrong = f"cannot be written: {error.strerror or error}"
        if self._leads:
            shutil.rmtree(draft, ignore_errors=True)
            for old in [] if failed or wrong else _all(self._folder)[: -max(1, self._keep)]:
                shutil.rmtree(old, ignore_errors=True)
        if parallel is not None:
            parallel.wait()
        if failed or wrong:
            raise ModelFileError(f"{target}: {wrong or 'another process could not write its part'}")

    def _draft(self, step: int) -> Path:
        return self._folder / f".step-{step:08d}.partial"

    def _write(self, path: Path, data: bytes) -> None:
        try:
            synced_write(path, data)
        except OSError as error:
            self._wrong = f"cannot be written: {error.strerror or error}"


def _own_bytes(tensors: Mapping[str, Tensor], rank: int) -> bytes:
    """A safetensors file of what only this process holds, or holds first; b"" for nothing."""
    from safetensors.torch import save

    own = {name: local_part(t) for name, t in tensors.items() if not is_spare(t, rank)}
    parts = {name: part.contiguous().cpu() for name, (part, _) in own.items() if part.numel()}
    offsets = {name: own[name][1] for name in parts}
    return save(parts, {_OFFSETS: json.dumps(offsets)}) if parts else b""


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
