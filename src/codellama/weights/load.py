"""open_model: a path becomes a ModelFile, one face over GGUF, safetensors and Meta's checkpoints.

Opening reads headers, checks every tensor's place and shape, and maps the rest; it takes
milliseconds for any size of model. Values are not looked at here: whoever copies a tensor checks it
on the way (the native engine while packing, export while converting, others by
`blocks.check_finite`), so that start-up reads the weights once. Does not know engines or devices.

    model = open_model("codellama-7b.Q4_K_M.gguf")
    check_memory(model, context=16_384)
    tokenizer = model.tokenizer()
    weights = [model.tensor(name) for name in model.names]
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from codellama.errors import ModelFileError
from codellama.weights.checkpoint import Checkpoint, Layout, check_layouts
from codellama.weights.detect import Format, find_weights
from codellama.weights.gguf_config import config_from_gguf, gguf_name, meta_name
from codellama.weights.gguf_read import read_gguf
from codellama.weights.memory import check_memory
from codellama.weights.model_file import ROPE_FACTORS, ModelFile, naming
from codellama.weights.tensor import Tensor

__all__ = ["ModelFile", "adapters_of", "check_memory", "open_model"]


def open_model(path: str | os.PathLike[str]) -> ModelFile:
    """Open a model where it lies, and check that it is whole.

    Args:
        path: a GGUF file (by its bytes, so Ollama's blobs too; any part of a split one), a folder
            with config.json and safetensors, a folder with params.json and consolidated.NN.pth, a
            folder with one GGUF model, or a Hugging Face cache folder with one model. Files named
            .adapter-0, .adapter-1, … beside the weights change them, in that order.

    Raises:
        NotFoundError: nothing is there.
        ModelFileError: no model, a damaged or incomplete one, or another architecture.
    """
    format, found = find_weights(Path(path))
    model = ModelFile(found, format, _checkpoint(format, found))
    adapters = adapters_of(Path(path))
    if adapters:
        from codellama.weights.adapter import open_adapted  # few models need it

        for adapter in adapters:
            model = open_adapted(model, adapter, None)
    return model


def _checkpoint(format: Format, path: Path) -> Checkpoint:
    """Readers are imported when their format comes: Meta's and Hugging Face's take 6 ms."""
    if format == "gguf":
        return _GGUFCheckpoint(path)
    if format == "safetensors":
        from codellama.weights.huggingface import HuggingFaceFolder

        return HuggingFaceFolder(path)
    from codellama.weights.meta import MetaFolder

    return MetaFolder(path)


def adapters_of(path: Path) -> list[Path]:
    """The adapters of a folder, as the store's views have them, in order."""
    if not path.is_dir():
        return []
    return sorted(path.glob(".adapter-*"), key=lambda each: (len(each.name), each.name))


class _GGUFCheckpoint:
    """checkpoint.Checkpoint over a GGUF file."""

    def __init__(self, path: Path) -> None:
        file = read_gguf(path)
        try:
            self.config = config_from_gguf(file.metadata, file.tensors)
        except ModelFileError as error:
            raise ModelFileError(naming(path, error)) from None
        self.metadata: dict[str, Any] = file.metadata
        self._tensors: dict[str, Tensor] = {}
        for name, tensor in file.tensors.items():
            self._tensors[_known(name, path)] = tensor
        self.layouts: Mapping[str, Layout] = {
            name: Layout(tensor.shape, tensor.type) for name, tensor in self._tensors.items()
        }
        self._check(path)

    def tensor(self, name: str) -> Tensor:
        return replace(self._tensors[name], name=name)

    def _check(self, path: Path) -> None:
        layouts = dict(self.layouts)
        factors = layouts.pop(ROPE_FACTORS, None)
        if factors is not None and factors.shape != (self.config.head_dim // 2,):
            raise ModelFileError(f"{path}: {ROPE_FACTORS} has another length than half a head")
        check_layouts(layouts, self.config, path)


def _known(name: str, path: Path) -> str:
    """Meta's name of a GGUF tensor. Raises ModelFileError for one that no Llama has."""
    try:
        known = meta_name(name)
        if gguf_name(known) == name:
            return known
    except (KeyError, ValueError, IndexError, StopIteration):
        pass
    raise ModelFileError(
        f"{path}: holds {name[:100]!r}, which a Llama does not have: this architecture is not "
        "supported"
    )
