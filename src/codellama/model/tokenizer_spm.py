"""SentencePiece BPE, as Llama 2 and Code Llama use it, rebuilt from pieces, scores and types.

Encoding runs in the `sentencepiece` library on a model in which every special piece is marked as
control, so that text cannot become one. Decoding joins the pieces' bytes here. The implicit
leading space ("dummy prefix") is encoded by `encode` and left out by `encode_infilling` (paper
§2.3; the reference's encode("☺" + s)[2:]).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any

from codellama.errors import ModelFileError
from codellama.model.tokenizer_base import SENTINELS, InfillIds, Tokenizer

__all__ = ["SentencePieceTokenizer", "model_proto"]

_NORMAL, _UNKNOWN, _CONTROL, _BYTE = 1, 2, 3, 6
_SPACE = "▁"


def _varint(n: int) -> bytes:
    out = bytearray()
    while n > 0x7F:
        out.append(n & 0x7F | 0x80)
        n >>= 7
    out.append(n)
    return bytes(out)


def _field(number: int, payload: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(payload)) + payload


def _number(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(value & 0xFFFFFFFFFFFFFFFF)


def model_proto(
    pieces: Sequence[str], scores: Sequence[float], types: Sequence[int], *, dummy_prefix: bool
) -> bytes:
    """A serialized sentencepiece.ModelProto: BPE, byte fallback if all 256 bytes are there, no
    normalization.

    Fields by number, from sentencepiece_model.proto: pieces = 1 (piece 1, score 2, type 3),
    trainer_spec = 2 (model_type 3, vocab_size 4, byte_fallback 35), normalizer_spec = 3 (name 1,
    add_dummy_prefix 3, remove_extra_whitespaces 4, escape_whitespaces 5).
    """
    out = bytearray()
    for piece, score, kind in zip(pieces, scores, types, strict=True):
        text = piece.encode("utf-8", "surrogateescape")
        out += _field(1, _field(1, text) + b"\x15" + struct.pack("<f", score) + _number(3, kind))
    fallback = sum(kind == _BYTE for kind in types) == 256
    out += _field(2, _number(3, 2) + _number(4, len(pieces)) + _number(35, int(fallback)))
    prefix = _number(3, int(dummy_prefix)) + _number(4, 0) + _number(5, 1)
    out += _field(3, _field(1, b"identity") + prefix)
    return bytes(out)


class SentencePieceTokenizer(Tokenizer):
    """A vocabulary as pieces, scores and types."""

    def __init__(
        self,
        pieces: Sequence[str],
        scores: Sequence[float],
        types: Sequence[int],
        *,
        bos_id: int | None = 1,
        eos_id: int | None = 2,
        add_bos: bool = True,
        dummy_prefix: bool = True,
    ) -> None:
        self.kind = "llama"
        self.pieces = list(pieces)
        self.scores = list(scores)
        self.bos_id, self.eos_id, self.add_bos = bos_id, eos_id, add_bos
        self.dummy_prefix = dummy_prefix
        ids = {piece: i for i, piece in enumerate(self.pieces)}
        self.types = list(types)
        self.infill = None
        if all(name in ids for name in SENTINELS):
            self.infill = InfillIds(*(ids[name] for name in SENTINELS))
            # The merge steps towards the sentinels, too: they begin with the first one's.
            for i in range(min(ids.get("▁<SU", self.infill.pre), self.infill.pre), len(ids)):
                self.types[i] = _CONTROL
        if "<step>" in ids:
            self.types[ids["<step>"]] = _CONTROL
        self.special = {p: i for p, i in ids.items() if self.types[i] in (_CONTROL, 4)}
        self._processors: dict[bool, Any] = {}
        self._processor(dummy_prefix)  # now, so that a damaged vocabulary is refused on opening

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, Any]) -> SentencePieceTokenizer:
        pieces = metadata["tokenizer.ggml.tokens"]
        return cls(
            pieces,
            metadata.get("tokenizer.ggml.scores", [0.0] * len(pieces)),
            metadata.get("tokenizer.ggml.token_type", [_NORMAL] * len(pieces)),
            bos_id=metadata.get("tokenizer.ggml.bos_token_id", 1),
            eos_id=metadata.get("tokenizer.ggml.eos_token_id", 2),
            add_bos=bool(metadata.get("tokenizer.ggml.add_bos_token", True)),
            dummy_prefix=bool(metadata.get("tokenizer.ggml.add_space_prefix", True)),
        )

    def _processor(self, dummy_prefix: bool) -> Any:
        if dummy_prefix not in self._processors:
            import sentencepiece

            proto = model_proto(self.pieces, self.scores, self.types, dummy_prefix=dummy_prefix)
            try:
                library = sentencepiece.SentencePieceProcessor(model_proto=proto)
            except RuntimeError as error:
                raise ModelFileError(f"the vocabulary is damaged: {error}") from None
            self._processors[dummy_prefix] = library
        return self._processors[dummy_prefix]

    def _encode(self, text: str) -> list[int]:
        return list(self._processor(self.dummy_prefix).encode(text))

    def encode_infilling(self, text: str) -> list[int]:
        return list(self._processor(False).encode(text)) if text else []

    def piece(self, token: int) -> bytes:
        kind, text = self.types[token], self.pieces[token]
        if kind == _BYTE:
            return bytes([int(text[3:5], 16)])
        if kind in (_UNKNOWN, _CONTROL):
            return b""
        return text.replace(_SPACE, " ").encode("utf-8", "surrogateescape")
