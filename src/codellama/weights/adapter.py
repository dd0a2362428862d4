"""Adapters: a small file that turns a base model into another one. Needs no PyTorch.

    base + adapter → ModelFile          open_adapted(base, path)

Our files are adapter_file.py's, others' adapter_formats.py's. Weights become W + scale · b·a when
they are read, so a model is merged tensor by tensor.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from codellama.errors import ModelFileError
from codellama.weights.adapter_file import (
    ADAPTER_TYPE,
    Adapter,
    Array,
    base_of,
    read_own_adapter,
    write_adapter,
)
from codellama.weights.adapter_formats import is_gguf, read_gguf_adapter
from codellama.weights.blocks import dequantize, quantize
from codellama.weights.checkpoint import Layout
from codellama.weights.model_file import ModelFile
from codellama.weights.tensor import GGMLType, Tensor

__all__ = ["ADAPTER_TYPE", "base_of", "open_adapted", "read_adapter", "write_adapter"]

_EMBEDDINGS = "tok_embeddings.weight"
_FLOATS = (GGMLType.F32, GGMLType.F16, GGMLType.BF16)


def read_adapter(path: Path) -> Adapter:
    """Raises ModelFileError for a file that is no adapter: neither ours nor a LoRA as GGUF."""
    return read_gguf_adapter(path) if is_gguf(path) else read_own_adapter(path)


def open_adapted(base: ModelFile, path: Path, type: GGMLType | None = GGMLType.F32) -> ModelFile:
    """The base as the adapter changes it; its matrices are merged when they are read.

    Args:
        type: of merged matrices; F32 for export, Q8_0 to run them. None is as the base stores them
            where these are floats, else Q8_0: 4 bits would round what was learned away.

    Raises:
        ModelFileError: the adapter belongs to another base.
    """
    return ModelFile(base.path, "gguf", _Adapted(base, read_adapter(path), path, type))


class _Adapted:
    """checkpoint.Checkpoint of base and adapter."""

    def __init__(
        self, base: ModelFile, adapter: Adapter, path: Path, type: GGMLType | None
    ) -> None:
        self._base, self._adapter, self._type = base, adapter, type
        own, theta = base.config, adapter.rope_theta
        self.config = replace(
            own,
            name=own.name if adapter.name is None else adapter.name,
            infills=own.infills if adapter.infill is None else bool(adapter.infill),
            rope_theta=own.rope_theta if theta is None else theta,
        )
        self._check(path)
        self.metadata = self._metadata()
        self.layouts = {name: self._layout(name) for name in base.names}

    def _layout(self, name: str) -> Layout:
        stored = self._base.layout(name)
        if not self._changes(name):
            return stored
        as_stored = stored.type if stored.type in _FLOATS else GGMLType.Q8_0
        return Layout(stored.shape, as_stored if self._type is None else self._type)

    def _changes(self, name: str) -> bool:
        arrays = self._adapter.arrays
        return f"{name}.a" in arrays or (name == _EMBEDDINGS and "rows" in arrays)

    def tensor(self, name: str) -> Tensor:
        stored = self._base.tensor(name)
        if not self._changes(name):
            return stored
        arrays, type = self._adapter.arrays, self.layouts[name].type
        values = np.array(dequantize(stored)).reshape(stored.shape)
        if name == _EMBEDDINGS:
            values[list(self._adapter.rows)] = arrays["rows"].astype(np.float32)
        else:
            a, b = (arrays[f"{name}.{part}"].astype(np.float32) for part in "ab")
            values += np.float32(self._adapter.scale) * (b @ a)
        return Tensor(name, stored.shape, type, quantize(values, type))

    def _check(self, path: Path) -> None:
        """Every array fits a tensor of the base, and the ids its vocabulary."""
        adapter, base = self._adapter, self._base
        for key, array in adapter.arrays.items():
            name, _, part = key.rpartition(".")
            if key == "rows":
                fits = array.shape == (len(adapter.rows), base.config.dim)
            elif name in base.names and part in ("a", "b") and array.ndim == 2:
                fits = self._fits(name, part, array)
            else:
                fits = False
            if not np.isfinite(array).all():
                raise ModelFileError(f"{path}: {key} contains NaN or infinite values")
            if not fits:
                raise ModelFileError(f"{path}: {key} does not fit {base.config.name}")
        ids = [*adapter.rows, *(adapter.infill or ())]
        if any(type(id) is not int or not 0 <= id < base.config.vocab_size for id in ids):
            raise ModelFileError(f"{path}: names tokens that {base.config.name} lacks")

    def _fits(self, name: str, part: str, array: Array) -> bool:
        shape = self._base.layout(name).shape
        if len(shape) != 2 or name == _EMBEDDINGS:
            return False
        other = self._adapter.arrays.get(f"{name}.{'b' if part == 'a' else 'a'}")
        side = array.shape[1] == shape[1] if part == "a" else array.shape[0] == shape[0]
        rank = array.shape[0] if part == "a" else array.shape[1]
        partner = 0 if other is None or other.ndim != 2 else other.shape[1 if part == "a" else 0]
        return bool(side and rank == partner)

    def _metadata(self) -> dict[str, Any]:
        from codellama.weights.export import gguf_metadata

        adapter, metadata = self._adapter, gguf_metadata(self._base)
        pieces, types = (
            list(metadata[f"tokenizer.ggml.{key}"]) for key in ("tokens", "token_type")
        )
        for id, piece in zip(adapter.rows, adapter.pieces, strict=True):
            pieces[id], types[id] = piece, 3
        metadata |= {"tokenizer.ggml.tokens": pieces, "tokenizer.ggml.token_type": types}
        metadata["general.name"] = self.config.name
        metadata["llama.rope.freq_base"] = self.config.rope_theta
        keys = ("fim_pre", "fim_suf", "fim_mid", "eot")
        for key, id in zip(keys, adapter.infill or (), strict=False):
            metadata[f"tokenizer.ggml.{key}_token_id"] = id
        return metadata
