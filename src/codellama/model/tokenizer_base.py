"""What every tokenizer offers, whatever its kind: text ↔ token ids.

The promise on which prompts stand: `encode` never yields a control token or an infilling
sentinel, whatever the text says. Special ids enter a prompt only by name, through
model/prompts.py. Knows no files; libraries are imported when a tokenizer is built.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from codellama.errors import RequestError

__all__ = ["SENTINELS", "InfillIds", "StandIns", "Tokenizer", "latin_stand_ins"]

SENTINELS = ("▁<PRE>", "▁<SUF>", "▁<MID>", "▁<EOT>")
STOP_PIECES = ("</s>", "<|im_end|>", "<|endoftext|>", "<step>", "<|eot_id|>")


StandIns = tuple[Sequence[str], Callable[[bytes], str]]
"""Pieces as texts of one character a byte, and what writes bytes in these characters."""


def latin_stand_ins(piece: Callable[[int], bytes], count: int) -> StandIns:
    """Of the first `count` tokens, in Latin-1: what there is for any vocabulary."""
    return [piece(id).decode("latin-1") for id in range(count)], lambda raw: raw.decode("latin-1")


@dataclass(frozen=True, slots=True)
class InfillIds:
    """Sentinels of a model that infills (paper §2.3)."""

    pre: int
    suf: int
    mid: int
    eot: int


class Tokenizer(ABC):
    """A vocabulary; the bytes of ids' pieces, joined, are their text."""

    kind: str  # "llama" (SentencePiece) or "gpt2" (byte-level BPE), GGUF's words
    pieces: Sequence[str]
    types: Sequence[int]  # 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte
    special: Mapping[str, int]  # text of control tokens → id
    bos_id: int | None
    eos_id: int | None
    add_bos: bool
    infill: InfillIds | None

    @property
    def vocab_size(self) -> int:
        return len(self.pieces)

    @property
    def stop_ids(self) -> frozenset[int]:
        """Ids that end an answer: EOS, the infilling EOT, and the ends of turns."""
        found = {self.token_id(piece) for piece in STOP_PIECES} | {self.eos_id}
        if self.infill is not None:
            found.add(self.infill.eot)
        return frozenset(i for i in found if i is not None)

    @property
    def eot_id(self) -> int | None:
        return self.infill.eot if self.infill else None

    def token_id(self, piece: str) -> int | None:
        """The id of a control token by its text, None where there is no such control token."""
        return self.special.get(piece)

    def text_of(self, token: int | None) -> str:
        """How a special token is written in templates; empty for None."""
        return "" if token is None else self.pieces[token]

    def special_pattern(self) -> re.Pattern[str]:
        """Matches the text of any special token, as one group."""
        longest_first = sorted(self.special, key=len, reverse=True)
        return re.compile("(" + ("|".join(map(re.escape, longest_first)) or r"(?!)") + ")")

    def prepare(self) -> None:  # noqa: B027
        """Do now what the first text would have to wait for."""

    @abstractmethod
    def _encode(self, text: str) -> list[int]: ...

    @abstractmethod
    def encode_infilling(self, text: str) -> list[int]:
        """Ids of `text` without SentencePiece's implicit leading space."""

    @abstractmethod
    def piece(self, token: int) -> bytes: ...

    def stand_ins(self) -> StandIns:
        """Every piece's bytes, as the texts that this tokenizer has at hand: quicker to search."""
        return latin_stand_ins(self.piece, self.vocab_size)

    def encode(self, text: str, *, bos: bool = False) -> list[int]:
        """Ids of `text`, none of them special. Raises RequestError for lone surrogates."""
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            raise RequestError("the text holds lone surrogates, which are no characters") from None
        ids = self._encode(text) if text else []
        return [self.bos_id, *ids] if bos and self.bos_id is not None else ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids as a continuation; control tokens have none."""
        return b"".join(self.piece(i) for i in ids).decode("utf-8", "replace")
