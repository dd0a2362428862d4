"""Tokenizers in checkpoint folders (tokenizer.model, tokenizer.json) and as GGUF metadata.

tokenizer.model is SentencePiece's own file. tokenizer.json is Hugging Face's: byte-level BPE, or
SentencePiece's BPE written out as merges, of which the pieces' order gives the scores back.
Raises ModelFileError in one line for files that are neither.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from codellama.errors import ModelFileError
from codellama.model.tokenizer_base import Tokenizer
from codellama.model.tokenizer_bpe import ByteLevelTokenizer
from codellama.model.tokenizer_spm import SentencePieceTokenizer

__all__ = ["tokenizer_from_file", "tokenizer_to_gguf"]

_NORMAL, _UNKNOWN, _CONTROL, _USER, _UNUSED, _BYTE = 1, 2, 3, 4, 5, 6
_LARGEST = 64 << 20  # bytes of a tokenizer file; Llama 3's has 9 MB


def tokenizer_from_file(folder: Path) -> Tokenizer:
    """The tokenizer of a checkpoint folder: tokenizer.model if there, else tokenizer.json."""
    model, library = folder / "tokenizer.model", folder / "tokenizer.json"
    for path in (model, library):
        if path.is_file() and path.stat().st_size > _LARGEST:
            size = path.stat().st_size
            raise ModelFileError(f"{path.name} has {size} bytes: that is no tokenizer")
    settings = folder / "tokenizer_config.json"
    config = _json(settings) if settings.is_file() else {}
    if model.is_file():
        return _sentencepiece(model, config)
    if library.is_file():
        return _library(library, config)
    raise ModelFileError(
        f"{folder}: neither tokenizer.model nor tokenizer.json is here: fetch one of them"
    )


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelFileError(f"{path.name} cannot be read: {error}") from None
    if not isinstance(value, dict):
        raise ModelFileError(f"{path.name} is no JSON object")
    return value


def _sentencepiece(path: Path, config: Mapping[str, Any]) -> SentencePieceTokenizer:
    import sentencepiece

    try:
        library = sentencepiece.SentencePieceProcessor(model_proto=path.read_bytes())
    except (RuntimeError, OSError, TypeError) as error:
        raise ModelFileError(f"{path.name} is no SentencePiece model: {error}") from None
    n = library.vocab_size()
    kinds = [
        _UNKNOWN if library.is_unknown(i)
        else _CONTROL if library.is_control(i)
        else _BYTE if library.is_byte(i)
        else _UNUSED if library.is_unused(i)
        else _NORMAL
        for i in range(n)
    ]  # fmt: skip
    return SentencePieceTokenizer(
        [library.id_to_piece(i) for i in range(n)],
        [library.get_score(i) for i in range(n)],
        kinds,
        bos_id=library.bos_id() if library.bos_id() >= 0 else None,
        eos_id=library.eos_id() if library.eos_id() >= 0 else None,
        add_bos=bool(config.get("add_bos_token", True)),
    )


def _library(path: Path, config: Mapping[str, Any]) -> Tokenizer:
    file = _json(path)
    model = file.get("model")
    if not isinstance(model, dict) or not isinstance(model.get("vocab"), dict):
        raise ModelFileError(f"{path.name} holds no BPE vocabulary")
    ids: dict[int, str] = {int(i): str(p) for p, i in model["vocab"].items()}
    tokens = [t for t in file.get("added_tokens", []) if isinstance(t, dict) and "id" in t]
    added = {int(t["id"]): t for t in tokens}
    ids |= {i: str(t.get("content", "")) for i, t in added.items()}
    if sorted(ids) != list(range(len(ids))):
        raise ModelFileError(f"{path.name}: the ids of its {len(ids)} tokens have gaps")
    pieces = [ids[i] for i in range(len(ids))]
    special = {i for i, t in added.items() if t.get("special")}
    names = {p: i for i, p in enumerate(pieces)}
    bos, eos = (names.get(_token_text(config.get(k))) for k in ("bos_token", "eos_token"))
    if model.get("byte_fallback"):
        return SentencePieceTokenizer(
            pieces,
            [-float(i) for i in range(len(pieces))],
            [_kind(i, p, special, model.get("unk_token")) for i, p in enumerate(pieces)],
            bos_id=bos if bos is not None else names.get("<s>"),
            eos_id=eos if eos is not None else names.get("</s>"),
            add_bos=bool(config.get("add_bos_token", True)),
        )
    kinds = dict.fromkeys(added, _USER) | dict.fromkeys(special, _CONTROL)
    return ByteLevelTokenizer(
        pieces,
        [m if isinstance(m, str) else " ".join(m) for m in model.get("merges", [])],
        [kinds.get(i, _NORMAL) for i in range(len(pieces))],
        pre=_pre(file.get("pre_tokenizer")),
        bos_id=bos,
        eos_id=eos,
        add_bos=bool(config.get("add_bos_token", False)),
    )


def _kind(index: int, piece: str, special: set[int], unknown: object) -> int:
    if piece == unknown:
        return _UNKNOWN
    if index in special:
        return _CONTROL
    is_byte = len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">")
    return _BYTE if is_byte else _NORMAL


def _token_text(value: object) -> str:
    """tokenizer_config.json writes a token as text or as {"content": text}."""
    return str(value.get("content", "")) if isinstance(value, dict) else str(value or "")


def _pre(pre_tokenizer: object) -> str:
    """GGUF's word for a pre-tokenizer, by what it is made of."""
    text = json.dumps(pre_tokenizer)
    if '"Digits"' in text:
        return "smollm"
    return "llama-bpe" if "{1,3}" in text else "gpt-2"


def tokenizer_to_gguf(tokenizer: Tokenizer) -> dict[str, Any]:
    """The tokenizer.ggml.* keys from which tokenizer_from_gguf, and llama.cpp, build it again."""
    metadata: dict[str, Any] = {
        "tokenizer.ggml.model": tokenizer.kind,
        "tokenizer.ggml.tokens": list(tokenizer.pieces),
        "tokenizer.ggml.token_type": list(tokenizer.types),
        "tokenizer.ggml.add_bos_token": tokenizer.add_bos,
    }
    if isinstance(tokenizer, SentencePieceTokenizer):
        metadata["tokenizer.ggml.pre"] = "default"
        metadata["tokenizer.ggml.scores"] = [float(s) for s in tokenizer.scores]
        metadata["tokenizer.ggml.add_space_prefix"] = tokenizer.dummy_prefix
        metadata["tokenizer.ggml.unknown_token_id"] = 0
    if isinstance(tokenizer, ByteLevelTokenizer):
        metadata["tokenizer.ggml.pre"] = tokenizer.pre
        metadata["tokenizer.ggml.merges"] = list(tokenizer.merges)
    for key, value in (("bos", tokenizer.bos_id), ("eos", tokenizer.eos_id)):
        if value is not None:
            metadata[f"tokenizer.ggml.{key}_token_id"] = value
    if tokenizer.infill is not None:
        for key in ("pre", "suf", "mid"):
            metadata[f"tokenizer.ggml.fim_{key}_token_id"] = getattr(tokenizer.infill, key)
        metadata["tokenizer.ggml.eot_token_id"] = tokenizer.infill.eot
    return metadata
