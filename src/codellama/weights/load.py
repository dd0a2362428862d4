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
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codellama.errors import CodeLlamaError, ModelFileError
from codellama.model.config import ModelConfig
from codellama.weights.checkpoint import Checkpoint, Layout, check_layouts
from codellama.weights.detect import Format, find_weights
from codellama.weights.file_types import DEFAULT_TYPE, file_type_name
from codellama.weights.gguf import config_from_gguf, gguf_name, meta_name, read_gguf
from codellama.weights.huggingface import HuggingFaceFolder
from codellama.weights.memory import check_memory
from codellama.weights.meta import MetaFolder
from codellama.weights.tensor import Tensor

if TYPE_CHECKING:
    from codellama.model.tokenizer import Tokenizer

__all__ = ["ModelFile", "check_memory", "open_model"]

ROPE_FACTORS = "rope_freqs.weight"
"""Divisors of the RoPE frequencies, (head_dim / 2,): the one tensor of a GGUF file that is no
weight."""


def open_model(path: str | os.PathLike[str]) -> ModelFile:
    """Open a model where it lies, and check that it is whole.

    Args:
        path: a GGUF file (by its bytes, so Ollama's blobs too; any part of a split one), a folder
            with config.json and safetensors, a folder with params.json and consolidated.NN.pth, a
            folder with one GGUF model, or a Hugging Face cache folder with one model.

    Raises:
        NotFoundError: nothing is there.
        ModelFileError: no model, a damaged or incomplete one, or another architecture.
    """
    format, found = find_weights(Path(path))
    if format == "gguf":
        return ModelFile(found, format, _GGUFCheckpoint(found))
    if format == "safetensors":
        return ModelFile(found, format, HuggingFaceFolder(found))
    return ModelFile(found, format, MetaFolder(found))


class ModelFile:
    """An open model.

    Attributes:
        path: the file or folder that was recognized.
        format: "gguf", "safetensors" or "meta".
        config: its shape.
        metadata: GGUF's keys; for folders those general.* and tokenizer.* keys that are known
            without loading a tokenizer.
        names: the tensors by Meta's names, in the order in which they are stored.
    """

    def __init__(self, path: Path, format: Format, checkpoint: Checkpoint) -> None:
        self.path = path
        self.format: Format = format
        self.config: ModelConfig = checkpoint.config
        self.metadata: dict[str, Any] = checkpoint.metadata
        self.names: tuple[str, ...] = tuple(checkpoint.layouts)
        self._checkpoint = checkpoint

    def __repr__(self) -> str:
        return f"ModelFile({self.config.name!r}, {self.format}, {self.quantization})"

    def tensor(self, name: str) -> Tensor:
        """One tensor, by Meta's name and in Meta's row order; a view of the file where possible.

        Values are not checked. Raises KeyError for a name that is not in `names`.
        """
        return self._checkpoint.tensor(name)

    def layout(self, name: str) -> Layout:
        """Shape and storage type of a tensor, without touching its data."""
        return self._checkpoint.layouts[name]

    @property
    def weight_bytes(self) -> int:
        """Bytes of all tensors as stored."""
        return sum(layout.n_bytes for layout in self._checkpoint.layouts.values())

    @property
    def largest_bytes(self) -> int:
        """Bytes of the largest tensor as stored."""
        return max(layout.n_bytes for layout in self._checkpoint.layouts.values())

    @property
    def quantization(self) -> str:
        """How the matrices are stored: "F16", "Q4_K_M", or "mostly Q4_K" for an unnamed mixture."""
        elements: Counter[str] = Counter()
        for shape, type in self._checkpoint.layouts.values():
            if len(shape) > 1:
                elements[type.name] += shape[0] * shape[1]
        most = elements.most_common(1)[0][0]
        named = file_type_name(self.metadata.get("general.file_type"))
        if named is not None and DEFAULT_TYPE[named].name == most:
            return named
        return most if len(elements) == 1 else f"mostly {most}"

    @property
    def license(self) -> str | None:
        """The license's identifier, where the files tell it."""
        return self._text("general.license")

    @property
    def chat_template(self) -> str | None:
        """The Jinja template of the model's chat format, if it has one."""
        return self._text("tokenizer.chat_template")

    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer.

        Raises:
            ModelFileError: it is missing or damaged, or its vocabulary is not that of the weights.
                Embeddings may have unused rows at their end in safetensors (padding), not in the
                other formats, where both come from one hand.
        """
        from codellama.model.tokenizer import tokenizer_from_file, tokenizer_from_gguf

        try:
            if self.format == "gguf":
                tokenizer = tokenizer_from_gguf(self.metadata)
            else:
                tokenizer = tokenizer_from_file(self.path)
        except CodeLlamaError as error:
            raise ModelFileError(_naming(self.path, error)) from None
        pieces, rows = tokenizer.vocab_size, self.config.vocab_size
        if pieces > rows or (pieces < rows and self.format != "safetensors"):
            raise ModelFileError(
                f"{self.path}: the tokenizer has {pieces:,} tokens, the embeddings have {rows:,} "
                "rows: the tokenizer belongs to another model"
            )
        return tokenizer

    def _text(self, key: str) -> str | None:
        value = self.metadata.get(key)
        return value if isinstance(value, str) and value else None


class _GGUFCheckpoint:
    """checkpoint.Checkpoint over a GGUF file."""

    def __init__(self, path: Path) -> None:
        file = read_gguf(path)
        try:
            self.config = config_from_gguf(file.metadata, file.tensors)
        except ModelFileError as error:
            raise ModelFileError(_naming(path, error)) from None
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


def _naming(path: Path, error: CodeLlamaError) -> str:
    """The error's line, with the file in front of it unless it says so itself."""
    text = str(error)
    return text if path.name in text else f"{path}: {text}"
