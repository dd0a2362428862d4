"""Meta's checkpoint folder (params.json, consolidated.NN.pth, tokenizer.model) as whole tensors.

A release is split over 1 to 8 model-parallel shards; each tensor is put together when it is asked
for, one at a time, and one shard's tensors are views. What is split where (fairscale layers in
llama/model.py): column-parallel wq, wk, wv, w1, w3 and output along their rows; row-parallel wo and
w2 along their columns; tok_embeddings along the columns (along the rows since Llama 3); norms are
copies in every shard.

Source: github.com/meta-llama/codellama at e81b597, llama/model.py and llama/generation.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from codellama.errors import ModelFileError
from codellama.model.config import ModelConfig, ffn_hidden
from codellama.weights.checkpoint import Layout, Shape, check_layouts
from codellama.weights.files import read_json
from codellama.weights.folder import folder_infills, folder_metadata, folder_name
from codellama.weights.numbers import Numbers
from codellama.weights.tensor import Bytes, Tensor, drop_pages, row_bytes
from codellama.weights.torch_zip import read_torch_file

__all__ = ["MetaFolder"]

_SHARD = re.compile(r"consolidated\.([0-9]{2})\.pth")
_MAX_SHARDS = 8
_IGNORED = ("rope.freqs",)  # computed from rope_theta
_SPLIT_ROWS = ("wq.weight", "wk.weight", "wv.weight", "w1.weight", "w3.weight", "output.weight")
_SPLIT_COLUMNS = ("wo.weight", "w2.weight")


class MetaFolder:
    """A checkpoint.Checkpoint over one folder.

    Raises:
        ModelFileError: a shard is missing or damaged, shards contradict each other or params.json.
    """

    def __init__(self, folder: Path) -> None:
        self._shards = [read_torch_file(path) for path in _shard_paths(folder)]
        self._names = self._common_names()
        path = folder / "params.json"
        self.config: ModelConfig = _config(
            read_json(path), path, self._vocab_rows(), infills=folder_infills(folder)
        )
        self.metadata: dict[str, Any] = folder_metadata(folder)
        self._axes = {name: self._axis(name) for name in self._names}
        self.layouts: Mapping[str, Layout] = {name: self._layout(name) for name in self._names}
        self._check_shard_count(folder)
        check_layouts(self.layouts, self.config, folder)

    def tensor(self, name: str) -> Tensor:
        """One whole tensor by name: a view if one shard has it all, else a merged copy."""
        axis = self._axes[name]
        shape, type = self.layouts[name]
        if axis is None:
            return Tensor(name, shape, type, self._shards[0].data(name))
        parts = [shard.data(name) for shard in self._shards]
        if axis == 0:
            merged: Bytes = np.concatenate(parts)
        else:
            width = row_bytes(type, shape[1])
            merged = np.empty((shape[0], width), np.uint8)
            for part, columns in zip(parts, np.split(merged, len(parts), axis=1), strict=True):
                columns[:] = part.reshape(shape[0], -1)
            merged = merged.reshape(-1)
        for part in parts:
            drop_pages(part)
        return Tensor(name, shape, type, merged)

    def _common_names(self) -> list[str]:
        names = self._shards[0].records.keys()
        for shard in self._shards[1:]:
            if shard.records.keys() != names:
                odd = min(shard.records.keys() ^ names)
                raise ModelFileError(f"{shard.path}: {odd[:100]!r} is not in every shard")
        return [name for name in names if name not in _IGNORED]

    def _vocab_rows(self) -> int | None:
        """Rows of the whole output matrix, the vocabulary's size; params.json may not tell it."""
        record = self._shards[0].records.get("output.weight")
        return record.shape[0] * len(self._shards) if record and record.shape else None

    def _axis(self, name: str) -> int | None:
        """Along which axis the shards of a tensor lie; None: the first shard has all of it."""
        if len(self._shards) == 1:
            return None
        if name == "tok_embeddings.weight":
            shape = self._shards[0].records[name].shape
            return 0 if len(shape) == 2 and shape[1] == self.config.dim else 1
        if name.endswith(_SPLIT_ROWS):
            return 0
        return 1 if name.endswith(_SPLIT_COLUMNS) else None

    def _layout(self, name: str) -> Layout:
        for shard in self._shards:
            shard.data(name)  # a view: refuses ranges outside the file before anything is loaded
        shapes = {shard.records[name].shape for shard in self._shards}
        types = {shard.type(name) for shard in self._shards}
        if len(shapes) != 1 or len(types) != 1:
            raise ModelFileError(f"{self._shards[0].path.parent}: the shards differ in {name}")
        shape, axis = shapes.pop(), self._axes[name]
        if axis is not None:
            if len(shape) != 2:
                raise ModelFileError(f"{self._shards[0].path}: {name} is no matrix")
            shape = _scaled(shape, axis, len(self._shards))
        return Layout(shape, types.pop())

    def _check_shard_count(self, folder: Path) -> None:
        """A missing shard shows as matrices that are too narrow by a whole factor."""
        layout = self.layouts.get("layers.0.attention.wo.weight")
        wide = self.config.n_heads * self.config.head_dim
        if layout is None or len(layout.shape) != 2 or layout.shape[1] in (0, wide):
            return
        found = len(self._shards)
        needed, rest = divmod(wide * found, layout.shape[1])
        if not rest and found < needed <= _MAX_SHARDS:
            raise ModelFileError(
                f"{folder}: {found} of {needed} shards are here (consolidated.00.pth to "
                f"consolidated.{needed - 1:02d}.pth): download the others"
            )


def _scaled(shape: Shape, axis: int, factor: int) -> Shape:
    return tuple(size * factor if index == axis else size for index, size in enumerate(shape))


def _shard_paths(folder: Path) -> list[Path]:
    """consolidated.00.pth and on, without gaps."""
    found = {int(m[1]): p for p in folder.iterdir() if (m := _SHARD.fullmatch(p.name))}
    if not found:
        raise ModelFileError(f"{folder}: params.json is here, but no consolidated.00.pth")
    for index in range(max(found) + 1):
        if index not in found:
            raise ModelFileError(f"{folder}: the shard consolidated.{index:02d}.pth is missing")
    if len(found) > _MAX_SHARDS:
        raise ModelFileError(f"{folder}: {len(found)} shards; at most {_MAX_SHARDS} are supported")
    return [found[index] for index in sorted(found)]


def _config(
    params: Mapping[str, Any], path: Path, vocab_rows: int | None, *, infills: bool
) -> ModelConfig:
    """params.json with the defaults of Meta's ModelArgs.

    A vocab_size that is absent or −1 is that of the output matrix. The file does not tell the
    context: 16,384 for the RoPE base of long-context fine-tuning (10⁶), else Llama 2's 4,096.
    """
    if params.get("use_scaled_rope"):
        raise ModelFileError(f"{path}: use_scaled_rope (Llama 3.1) is not supported")
    told = {key: value for key, value in params.items() if (key, value) != ("vocab_size", -1)}
    read = Numbers(told, path)
    dim, heads = read.whole("dim"), read.whole("n_heads")
    theta = read.real("rope_theta", 10_000.0)
    multiplier = read.real("ffn_dim_multiplier", 1.0)
    try:
        return ModelConfig(
            name=folder_name(path.parent),
            dim=dim,
            n_layers=read.whole("n_layers", most=1000),
            n_heads=heads,
            n_kv_heads=read.whole("n_kv_heads", heads),
            head_dim=dim // heads,
            ffn_dim=ffn_hidden(dim, read.whole("multiple_of", 256), multiplier),
            vocab_size=read.whole("vocab_size", vocab_rows),
            norm_eps=read.real("norm_eps", 1e-5),
            rope_theta=theta,
            context=16_384 if theta == 1e6 else 4_096,
            infills=infills,
        )
    except ValueError as error:
        raise ModelFileError(f"{path}: {error}") from None
