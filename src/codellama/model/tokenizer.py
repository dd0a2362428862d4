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
    _check(metadata)
    if kind == "llama":
        return SentencePieceTokenizer.from_gguf(metadata)
    if kind == "gpt2":
        return ByteLevelTokenizer.from_gguf(metadata)
    raise ModelFileError(f"tokenizer {kind!r} is not supported; known: llama, gpt2")


_LISTS: dict[str, set[type]] = {
    "tokens": {str}, "merges": {str}, "scores": {int, float}, "token_type": {int},
}  # fmt: skip

# Others (padding, most of all) are wrong in many a published file, and used by nobody here.
_USED_IDS = ("bos", "eos", "eot", "fim_pre", "fim_suf", "fim_mid")


def _check(metadata: Mapping[str, Any]) -> None:
    """Lists of the right things, as long as the vocabulary, and ids that are in it."""
    tokens = metadata["tokenizer.ggml.tokens"]
    for name, kinds in _LISTS.items():
        values = metadata.get(f"tokenizer.ggml.{name}", [])
        if not isinstance(values, list) or not set(map(type, values)) <= kinds:
            raise ModelFileError(f"tokenizer.ggml.{name} holds something else than it should")
        if name in ("scores", "token_type") and values and len(values) != len(tokens):
            raise ModelFileError(
                f"tokenizer.ggml.{name} has {len(values)} entries for {len(tokens)} tokens"
            )
    for name in _USED_IDS:
        key = f"tokenizer.ggml.{name}_token_id"
        value = metadata.get(key, 0)
        if not isinstance(value, int) or not 0 <= value < len(tokens):
            raise ModelFileError(f"{key} is {value!r:.50}, which is none of {len(tokens)} tokens")
