"""A Hugging Face checkpoint folder (config.json, *.safetensors) as tensors with Meta's names.

Sharded or not; every file memory-mapped. Tensors are views, except wq and wk, whose rows are put
into Meta's order when they are asked for (checkpoint.py tells the permutation). The index may name
files of its own folder only. Does not read pickled weights (pytorch_model.bin).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from codellama.errors import ModelFileError, NotFoundError
from codellama.model.config import ModelConfig
from codellama.weights.checkpoint import (
    Layout,
    check_layouts,
    heads_of,
    meta_name,
    permute_rows,
)
from codellama.weights.files import read_json
from codellama.weights.folder import folder_infills, folder_metadata
from codellama.weights.huggingface_config import config_from_hf
from codellama.weights.safetensors import DTYPES, Entry, SafetensorsFile, read_safetensors
from codellama.weights.tensor import Tensor, drop_pages

__all__ = ["HuggingFaceFolder"]

INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"
_MAX_FILES = 1000
# Buffers that older exports saved beside the weights; computed from the configuration anyway.
_IGNORED = re.compile(r"(.*\.)?(rotary_emb\.inv_freq|masked_bias)")


class HuggingFaceFolder:
    """A checkpoint.Checkpoint over one folder.

    Raises:
        ModelFileError: a file is missing, damaged or contradicts another; another architecture.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        path = folder / "config.json"
        self.config: ModelConfig = config_from_hf(
            read_json(path), path, infills=folder_infills(folder)
        )
        self.metadata: dict[str, Any] = folder_metadata(folder)
        self._entries: dict[str, tuple[SafetensorsFile, str]] = {}
        for file, name in _tensors(folder):
            self._add(file, name)
        if self.config.tied:
            self._entries.pop("output.weight", None)  # a copy of the embeddings
        self.layouts: Mapping[str, Layout] = {name: self._layout(name) for name in self._entries}
        check_layouts(self.layouts, self.config, folder)

    def tensor(self, name: str) -> Tensor:
        """One tensor by Meta's name; wq and wk are copies, all others views of the map."""
        file, own_name = self._entries[name]
        shape, type = self.layouts[name]
        data = file.data(own_name)
        if heads := heads_of(name, self.config):
            permuted = permute_rows(data, shape[0], heads, to="meta")
            drop_pages(data)
            data = permuted
        return Tensor(name, shape, type, data)

    def _add(self, file: SafetensorsFile, name: str) -> None:
        if _IGNORED.fullmatch(name):
            return
        meta = meta_name(name)
        if meta is None:
            raise ModelFileError(
                f"{file.path}: holds {name[:100]!r}, which a Llama does not have: this "
                "architecture, or this adapter, is not supported"
            )
        if meta in self._entries:
            raise ModelFileError(f"{file.path}: {name} is also in {self._entries[meta][0].path}")
        self._entries[meta] = (file, name)

    def _layout(self, name: str) -> Layout:
        file, own_name = self._entries[name]
        entry: Entry = file.entries[own_name]
        if entry.dtype not in DTYPES:
            raise ModelFileError(
                f"{file.path}: {own_name} is stored as {entry.dtype}; "
                f"{', '.join(DTYPES)} can be read"
            )
        return Layout(entry.shape, DTYPES[entry.dtype])


def _tensors(folder: Path) -> list[tuple[SafetensorsFile, str]]:
    """Every tensor of the folder with the file it is in: as the index says, or of the one file."""
    if not (folder / INDEX).exists():
        file = read_safetensors(_only_file(folder))
        return [(file, name) for name in file.entries]
    weight_map = _weight_map(folder / INDEX)
    files = {name: _shard(folder, name) for name in sorted(set(weight_map.values()))}
    for tensor, file_name in weight_map.items():
        if tensor not in files[file_name].entries:
            raise ModelFileError(f"{folder / file_name}: {tensor[:100]!r} is missing in it")
    return [(files[file_name], tensor) for tensor, file_name in weight_map.items()]


def _only_file(folder: Path) -> Path:
    if (folder / _SINGLE).exists():
        return folder / _SINGLE
    found = sorted(folder.glob("*.safetensors"))
    if len(found) > 1:
        raise ModelFileError(
            f"{folder}: {len(found)} .safetensors files and no {INDEX} that says which tensor is "
            "where: add that file"
        )
    if not found:
        raise ModelFileError(f"{folder}: config.json is here, but no .safetensors file")
    return found[0]


def _weight_map(path: Path) -> dict[str, str]:
    table = read_json(path).get("weight_map")
    if not isinstance(table, dict) or not table:
        raise ModelFileError(f"{path}: has no weight_map")
    for file_name in table.values():
        plain = isinstance(file_name, str) and re.fullmatch(r"[\w.+-]{1,200}", file_name)
        if not plain or not file_name.endswith(".safetensors"):
            raise ModelFileError(
                f"{path}: names {str(file_name)[:80]!r}, which is no .safetensors file of its "
                "folder"
            )
    if len(set(table.values())) > _MAX_FILES:
        raise ModelFileError(f"{path}: names more than {_MAX_FILES} files")
    return table


def _shard(folder: Path, name: str) -> SafetensorsFile:
    try:
        return read_safetensors(folder / name)
    except NotFoundError:
        raise ModelFileError(
            f"{folder}: the shard {name} is missing: download the folder again"
        ) from None
