"""Adapters: a small file that turns a base model into another one. Needs no PyTorch.

    base + adapter → ModelFile          open_adapted(base, path)

The file is safetensors: per matrix `NAME.a` [rank, in] and `NAME.b` [out, rank] in float16, `rows`
[R, dim] for new rows of the embeddings, and one JSON text in the header's metadata that says what
they are. Weights become W + scale · b·a when they are read, so a model is merged tensor by tensor.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from codellama.errors import ModelFileError
from codellama.weights.blocks import dequantize, quantize
from codellama.weights.checkpoint import Layout
from codellama.weights.load import ModelFile
from codellama.weights.tensor import GGMLType, Tensor

__all__ = ["ADAPTER_TYPE", "base_of", "open_adapted", "write_adapter"]

ADAPTER_TYPE = np.float16
_KEY = "codellama"
_EMBEDDINGS = "tok_embeddings.weight"

Array = npt.NDArray[Any]


def write_adapter(path: Path, arrays: Mapping[str, Array], about: Mapping[str, Any]) -> None:
    """Write an adapter whole or not at all."""
    from safetensors.numpy import save

    from codellama.weights.files import atomic_file

    data = save(dict(arrays), metadata={_KEY: json.dumps(dict(about))})
    atomic_file(path, data)


def read_adapter(path: Path) -> tuple[dict[str, Array], dict[str, Any]]:
    """(arrays, what they are). Raises ModelFileError for a file that is no adapter of ours."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            about = json.loads((file.metadata() or {}).get(_KEY, "null"))
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError) as error:
        raise ModelFileError(f"{path}: is no adapter: {error}") from None
    if not isinstance(about, dict) or not _says_what_it_is(about):
        raise ModelFileError(f"{path}: is no adapter: its header does not say what it holds")
    return arrays, about


def _says_what_it_is(about: Mapping[str, Any]) -> bool:
    wanted = {"name": str, "scale": float, "rows": list, "pieces": list, "infill": list}
    if any(not isinstance(about.get(key), type) for key, type in wanted.items()):
        return False
    theta = about.get("rope_theta", 1.0)
    return (
        len(about["pieces"]) == len(about["rows"])
        and all(isinstance(piece, str) for piece in about["pieces"])
        and len(about["infill"]) in (0, 4)
        and isfinite(about["scale"])
        and isinstance(theta, int | float)
        and 0 < theta < 1e12
    )


def base_of(path: Path) -> str | None:
    """The name of the model that an adapter changes; None for a file that is no adapter, or does
    not tell.
    """
    from safetensors import SafetensorError, safe_open

    if path.suffix != ".safetensors" or not path.is_file():
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            about = json.loads((file.metadata() or {}).get(_KEY, "null"))
    except (OSError, SafetensorError, ValueError):
        return None
    base = about.get("base") if isinstance(about, dict) else None
    return base if isinstance(base, str) else None


def open_adapted(base: ModelFile, path: Path, type: GGMLType = GGMLType.F32) -> ModelFile:
    """The base as the adapter changes it; its matrices are merged when they are read.

    Args:
        type: of merged matrices; F32 for export, Q8_0 to run them.

    Raises:
        ModelFileError: the adapter belongs to another base.
    """
    arrays, about = read_adapter(path)
    return ModelFile(base.path, "gguf", _Adapted(base, arrays, about, path, type))


class _Adapted:
    """checkpoint.Checkpoint of base and adapter."""

    def __init__(
        self,
        base: ModelFile,
        arrays: Mapping[str, Array],
        about: Mapping[str, Any],
        path: Path,
        type: GGMLType,
    ) -> None:
        self._base, self._arrays, self._about, self._type = base, arrays, about, type
        self.config = replace(
            base.config, name=about["name"], infills=bool(about["infill"]),
            rope_theta=float(about.get("rope_theta", base.config.rope_theta)),
        )  # fmt: skip
        self._check(path)
        self.metadata = self._metadata()
        self.layouts = {
            name: Layout(base.layout(name).shape, type) if self._changes(name)
            else base.layout(name)
            for name in base.names
        }  # fmt: skip

    def _changes(self, name: str) -> bool:
        return f"{name}.a" in self._arrays or (name == _EMBEDDINGS and "rows" in self._arrays)

    def tensor(self, name: str) -> Tensor:
        stored = self._base.tensor(name)
        if not self._changes(name):
            return stored
        values = np.array(dequantize(stored)).reshape(stored.shape)
        if name == _EMBEDDINGS:
            values[self._about["rows"]] = self._arrays["rows"].astype(np.float32)
        else:
            a, b = (self._arrays[f"{name}.{part}"].astype(np.float32) for part in "ab")
            values += np.float32(self._about["scale"]) * (b @ a)
        return Tensor(name, stored.shape, self._type, quantize(values, self._type))

    def _check(self, path: Path) -> None:
        """Every array fits a tensor of the base, and the ids its vocabulary."""
        for key, array in self._arrays.items():
            name, _, part = key.rpartition(".")
            if key == "rows":
                fits = array.shape == (len(self._about["rows"]), self._base.config.dim)
            elif name in self._base.names and part in ("a", "b") and array.ndim == 2:
                out, width = self._base.layout(name).shape
                other = self._arrays.get(f"{name}.{'b' if part == 'a' else 'a'}")
                side = array.shape[1] == width if part == "a" else array.shape[0] == out
                rank = array.shape[0] if part == "a" else array.shape[1]
                partner = 0 if other is None else other.shape[1 if part == "a" else 0]
                fits = side and rank == partner
            else:
                fits = False
            if not fits:
                raise ModelFileError(f"{path}: {key} does not fit {self._base.config.name}")
        ids = [*self._about["rows"], *self._about["infill"]]
        vocabulary = self._base.config.vocab_size
        if any(type(id) is not int or not 0 <= id < vocabulary for id in ids):
            raise ModelFileError(f"{path}: names tokens that {self._base.config.name} lacks")

    def _metadata(self) -> dict[str, Any]:
        from codellama.weights.export import gguf_metadata

        metadata = gguf_metadata(self._base)
        pieces, types = (
            list(metadata[f"tokenizer.ggml.{key}"]) for key in ("tokens", "token_type")
        )
        for id, piece in zip(self._about["rows"], self._about["pieces"], strict=True):
            pieces[id], types[id] = piece, 3
        metadata |= {"tokenizer.ggml.tokens": pieces, "tokenizer.ggml.token_type": types}
        metadata["general.name"] = self._about["name"]
        metadata["llama.rope.freq_base"] = self.config.rope_theta
        keys = ("fim_pre", "fim_suf", "fim_mid", "eot")
        for key, id in zip(keys, self._about["infill"], strict=False):
            metadata[f"tokenizer.ggml.{key}_token_id"] = id
        return metadata
