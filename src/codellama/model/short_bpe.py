"""Byte-level BPE of short ASCII texts, by the vocabulary's own lists: what a prompt needs before
the `tokenizers` library is there.

Building the library for 49,152 pieces takes 75 ms, a sixth of what lay between the shell and the
first token; two dictionaries take 11. ASCII needs no tables of Unicode's classes, so GPT-2's
splitting is a pattern that Python has. The ids are the library's, which a test holds. Everything
else (other characters, bytes without a piece) is None: the caller asks the library.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

from codellama.errors import ModelFileError

__all__ = ["ShortTexts"]

_WORDS = re.compile(
    r"'s|'t|'re|'ve|'m|'ll|'d| ?[A-Za-z]+| ?[0-9]+| ?[^\sA-Za-z0-9]+|\s+(?!\S)|\s+", re.ASCII
)
_DIGIT = re.compile("([0-9])")
_LONGEST = 64  # of a word: pairs are looked through after each merge, so time grows by the square
_STAND_INS = {b: 256 + b for b in range(33)} | {127: 289}  # GPT-2's, of the bytes below 128


class ShortTexts:
    """Encodes what it can.

    Args:
        merges: pairs of pieces with a space between, the first of them first.
        digits: digits are split off one by one before anything else.

    >>> ShortTexts(["a", "b", "ab", "Ġ"], ["a b"], digits=False).encode("aab ab")
    [0, 2, 3, 2]
    """

    def __init__(self, pieces: Sequence[str], merges: Sequence[str], *, digits: bool) -> None:
        self._ids = dict(zip(pieces, range(len(pieces)), strict=True))
        self._ranks = dict(zip(merges, range(len(merges)), strict=True))
        self._digits = digits

    def encode(self, text: str) -> list[int] | None:
        """The ids, or None for a text that the library must encode.

        Raises ModelFileError where a merge yields no piece.
        """
        if not text.isascii():
            return None
        parts = _DIGIT.split(text) if self._digits else (text,)
        ids: list[int] = []
        for part in parts:
            for word in _WORDS.findall(part):
                symbols = list(word.translate(_STAND_INS))
                if len(word) > _LONGEST or not all(map(self._ids.__contains__, symbols)):
                    return None
                ids += map(self._id, self._merged(symbols))
        return ids

    def _merged(self, symbols: list[str]) -> list[str]:
        """The pair of lowest rank is joined, the leftmost of equals, until none is left."""
        none = len(self._ranks)
        while len(symbols) > 1:
            pairs = map(" ".join, pairwise(symbols))
            rank, at = min((self._ranks.get(pair, none), at) for at, pair in enumerate(pairs))
            if rank == none:
                break
            symbols[at : at + 2] = ["".join(symbols[at : at + 2])]
        return symbols

    def _id(self, piece: str) -> int:
        try:
            return self._ids[piece]
        except KeyError:
            damage = f"a merge yields {piece!r:.50}, which is no piece"
            raise ModelFileError(f"the vocabulary is damaged: {damage}") from None
