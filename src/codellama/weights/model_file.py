"""ModelFile: an open model, one face over every checkpoint format. load.py opens it.

Values are not looked at here, and nothing is read but what is asked for. Does not know engines or
devices.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codellama.errors import CodeLlamaError, ModelFileError
from codellama.model.config import ModelConfig
from codellama.weights.checkpoint import Checkpoint, Layout
from codellama.weights.detect import Format
from codellama.weights.file_types import DEFAULT_TYPE, file_type_name
from codellama.weights.tensor import Tensor

if TYPE_CHECKING:
    from codellama.model.tokenizer import Tokenizer

__all__ = ["ROPE_FACTORS", "ModelFile", "naming"]

ROPE_FACTORS = "rope_freqs.weight"
"""Divisors of the RoPE frequencies, (head_dim / 2,): the one tensor of a GGUF file that is no
weight."""


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
            raise ModelFileError(naming(self.path, error)) from None
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


def naming(path: Path, error: CodeLlamaError) -> str:
    """The error's line, with the file in front of it unless it says so itself."""
    text = str(error)
    return text if path.name in text else f"{path}: {text}"
