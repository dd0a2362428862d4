"""The tokenizer's files of a Hugging Face folder, from whatever the model came with.

A Hugging Face source's files are copied. Otherwise tokenizer.json is built with the `tokenizers`
library so that AutoTokenizer gives the ids that our own tokenizer gives, with control tokens as
Hugging Face's special tokens; a SentencePiece vocabulary also gets its tokenizer.model.

Merges of a SentencePiece vocabulary are not stored anywhere: its scores order them. Every way to
join two pieces into a third is a merge, the better the higher the third one's score; that gives
SentencePiece's own segmentation (as in transformers, convert_slow_tokenizer.py, generate_merges).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codellama.model.tokenizer_base import SENTINELS, Tokenizer
from codellama.model.tokenizer_bpe import ByteLevelTokenizer, build_library
from codellama.model.tokenizer_spm import SentencePieceTokenizer, model_proto
from codellama.weights.files import read_bounded, synced_write

if TYPE_CHECKING:
    from codellama.weights.model_file import ModelFile

__all__ = ["hf_library", "published_types", "write_tokenizer"]

_COPIED = (
    "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "merges.txt", "chat_template.jinja",
)  # fmt: skip
_NORMAL, _UNKNOWN, _CONTROL, _USER = 1, 2, 3, 4


def write_tokenizer(src: ModelFile, folder: Path) -> Tokenizer:
    """Write the tokenizer's files into `folder`; returns the tokenizer.

    Raises:
        ModelFileError: the model has no tokenizer, or one that does not fit its weights.
    """
    tokenizer = src.tokenizer()
    if src.format == "safetensors":
        for name in _COPIED:
            if (src.path / name).is_file():
                synced_write(folder / name, read_bounded(src.path / name))
        return tokenizer
    original = src.path / "tokenizer.model"
    types = published_types(src, tokenizer)
    if isinstance(tokenizer, SentencePieceTokenizer):
        proto = read_bounded(original) if src.format == "meta" else _proto(tokenizer, types)
        synced_write(folder / "tokenizer.model", proto)
    library = hf_library(tokenizer, types)
    synced_write(folder / "tokenizer.json", library.to_str(pretty=True).encode())
    _write_json(folder / "tokenizer_config.json", _config(src, tokenizer))
    _write_json(folder / "special_tokens_map.json", _special_map(tokenizer))
    return tokenizer


def published_types(src: ModelFile, tokenizer: Tokenizer) -> list[int]:
    """The pieces' types as the model's makers publish them, for files that others read.

    Our own tokenizer calls the infilling sentinels, and the pieces from which BPE builds them,
    control, so that no text becomes one (design decision 6). In Code Llama's tokenizer.model they
    are ordinary pieces, and other engines' users type `<PRE> … <SUF>… <MID>` and rely on that.
    """
    if src.format == "gguf":
        stored = src.metadata.get("tokenizer.ggml.token_type")
        return list(stored) if stored is not None else list(tokenizer.types)
    if not isinstance(tokenizer, SentencePieceTokenizer) or tokenizer.infill is None:
        return list(tokenizer.types)
    ordinary = {sentinel[:n] for sentinel in SENTINELS for n in range(3, len(sentinel) + 1)}
    ordinary |= {SENTINELS[3] + "<EOT>" * n for n in range(1, 6)}
    return [
        _NORMAL if type == _CONTROL and piece in ordinary else type
        for piece, type in zip(tokenizer.pieces, tokenizer.types, strict=True)
    ]


def _proto(tokenizer: SentencePieceTokenizer, types: list[int]) -> bytes:
    prefix = tokenizer.dummy_prefix
    return model_proto(tokenizer.pieces, tokenizer.scores, types, dummy_prefix=prefix)


def _write_json(path: Path, document: dict[str, Any]) -> None:
    synced_write(path, json.dumps(document, indent=2, ensure_ascii=False).encode() + b"\n")


def _config(src: ModelFile, tokenizer: Tokenizer) -> dict[str, Any]:
    document: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": tokenizer.add_bos,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": src.config.context,
        **_special_map(tokenizer),
    }
    if src.chat_template:
        document["chat_template"] = src.chat_template
    return document


def _special_map(tokenizer: Tokenizer) -> dict[str, Any]:
    named = {"bos_token": tokenizer.bos_id, "eos_token": tokenizer.eos_id}
    document = {key: tokenizer.pieces[id] for key, id in named.items() if id is not None}
    if _UNKNOWN in tokenizer.types:
        document["unk_token"] = tokenizer.pieces[tokenizer.types.index(_UNKNOWN)]
    return document


def hf_library(tokenizer: Tokenizer, types: list[int]) -> Any:
    """A tokenizers.Tokenizer of this vocabulary, whose pieces have the `types` given. It encodes as
    `tokenizer` does, and sentinels besides, as special tokens.
    """
    from tokenizers import AddedToken

    if isinstance(tokenizer, SentencePieceTokenizer):
        library = _sentencepiece_library(tokenizer, types)
    else:
        assert isinstance(tokenizer, ByteLevelTokenizer)
        library = _byte_level_library(tokenizer)
    for piece, type in zip(tokenizer.pieces, types, strict=True):
        if type in (_UNKNOWN, _CONTROL) or piece in SENTINELS:
            library.add_special_tokens([AddedToken(piece, special=True, normalized=False)])
        elif type == _USER:
            library.add_tokens([AddedToken(piece, normalized=False)])
    if tokenizer.add_bos and tokenizer.bos_id is not None:
        library.post_processor = _begin_with(tokenizer.pieces[tokenizer.bos_id], tokenizer.bos_id)
    return library


def _begin_with(piece: str, id: int) -> Any:
    from tokenizers.processors import TemplateProcessing

    return TemplateProcessing(
        single=f"{piece} $A", pair=f"{piece} $A {piece}:1 $B:1", special_tokens=[(piece, id)]
    )


def _byte_level_library(tokenizer: ByteLevelTokenizer) -> Any:
    from tokenizers.decoders import ByteLevel

    library = build_library(tokenizer.pieces, tokenizer.merges, tokenizer.pre)
    library.decoder = ByteLevel()
    return library


def _sentencepiece_library(tokenizer: SentencePieceTokenizer, types: list[int]) -> Any:
    from tokenizers import Tokenizer as Library
    from tokenizers import decoders, normalizers
    from tokenizers.models import BPE

    unknown = tokenizer.pieces[types.index(_UNKNOWN)] if _UNKNOWN in types else None
    vocab = {piece: id for id, piece in enumerate(tokenizer.pieces)}
    merges = _merges(tokenizer, types)
    library = Library(BPE(vocab, merges, unk_token=unknown, fuse_unk=True, byte_fallback=True))
    # Not the library's Metaspace, which spares text that begins with a space the dummy prefix.
    prefix = [normalizers.Prepend("▁")] if tokenizer.dummy_prefix else []
    library.normalizer = normalizers.Sequence([*prefix, normalizers.Replace(" ", "▁")])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    if tokenizer.dummy_prefix:
        steps.append(decoders.Strip(" ", 1, 0))
    library.decoder = decoders.Sequence(steps)
    return library


def _merges(tokenizer: SentencePieceTokenizer, types: list[int]) -> list[tuple[str, str]]:
    """Every pair of pieces that joins into a third, best score of the third first."""
    scored = zip(tokenizer.pieces, tokenizer.scores, types, strict=True)
    score = {piece: score for piece, score, type in scored if type == _NORMAL}
    return [
        (piece[:cut], piece[cut:])
        for piece in sorted(score, key=lambda piece: -score[piece])
        for cut in range(1, len(piece))
        if piece[:cut] in score and piece[cut:] in score
    ]
