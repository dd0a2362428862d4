"""Text ↔ token ids: which kind of tokenizer a file asks for.

The face is tokenizer_base.Tokenizer; SentencePiece is in tokenizer_spm.py, byte-level BPE in
tokenizer_bpe.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from codellama.errors import ModelFileError
from codellama.model.tokenizer_base import InfillIds, Tokenizer
from codellama.model.tokenizer_bpe import ByteLevelTokenizer
from codellama.model.tokenizer_files import tokenizer_from_file, tokenizer_to_gguf
from codellama.model.tokenizer_spm import SentencePieceTokenizer

__all__ = [
    "InfillIds",
    "Tokenizer",
    "tokenizer_from_file",
    "tokenizer_from_gguf",
    "tokenizer_to_gguf",
]


def tokenizer_from_gguf(metadata: Mapping[str, Any]) -> Tokenizer:
    """Raises ModelFileError when the vocabulary is missing or of an unknown kind."""
    kind = metadata.get("tokenizer.ggml.model")
    if "tokenizer.ggml.tokens" not in metadata:
        raise ModelFileError("the file holds no vocabulary (tokenizer.ggml.tokens)")
    if kind == "llama":
        return SentencePieceTokenizer.from_gguf(metadata)
    if kind == "gpt2":
        return ByteLevelTokenizer.from_gguf(metadata)
    raise ModelFileError(f"tokenizer {kind!r} is not supported; known: llama, gpt2")
