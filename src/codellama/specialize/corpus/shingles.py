"""5-grams of words: as strings, the obvious way; and as 64-bit numbers, by vector arithmetic over
the bytes of many texts at once.

A word's number is Σ c(byte) · B^place over its bytes, c random and B odd, all modulo 2⁶⁴: the
difference of two running sums, times a power of 1/B. It is mixed, and five of them are joined. Two
different shingles share a number with a chance of about 2⁻⁶⁴ for text as people write it; text made
to collide can, so what is found is a candidate and no proof. The numbers are not for keeping.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import pairwise

import numpy as np
import numpy.typing as npt

__all__ = ["SHINGLE", "Hashes", "distinct", "jaccard", "overlap", "shingle_hashes", "shingles"]

SHINGLE = 5  # words
BLOCK = 1 << 16  # bytes: what a step works on is eight times as large, and stays in the L2 cache

Hashes = npt.NDArray[np.uint64]

_WORD = re.compile(r"\w+")
_NEITHER = re.compile(r"[^\w\x00-\x7f]")  # neither ASCII nor part of a word
_MIX = np.uint64(0x9E3779B97F4A7C15)  # odd: a bijection on 64 bits
_BASE = 0xD6E8FEB86659FD93
_SHIFT = np.uint64(32)


def shingles(text: str) -> set[str]:
    """The 5-grams of the text's words; the whole text where it has fewer."""
    words = _WORD.findall(text)
    if len(words) < SHINGLE:
        return {" ".join(words)}
    return {" ".join(words[i : i + SHINGLE]) for i in range(len(words) - SHINGLE + 1)}


def jaccard(a: set[str], b: set[str]) -> float:
    """|a ∩ b| / |a ∪ b|; 1 for two empty sets."""
    shared = len(a & b)
    union = len(a) + len(b) - shared
    return shared / union if union else 1.0


def shingle_hashes(texts: Sequence[str]) -> list[Hashes]:
    """`shingles` of each text as numbers, in the text's order, as often as they come."""
    found: list[Hashes] = []
    for block in _blocks(texts):
        found += _hash_block(block)
    return found


def distinct(hashes: Hashes) -> Hashes:
    """Sorted, each once."""
    ordered = np.sort(hashes)
    fresh = np.empty(len(ordered), bool)
    fresh[:1] = True
    np.not_equal(ordered[1:], ordered[:-1], out=fresh[1:])
    return ordered[fresh]


def overlap(a: Hashes, b: Hashes) -> float:
    """`jaccard` of distinct hashes."""
    both = np.sort(np.concatenate([a, b]))
    shared = int(np.count_nonzero(both[1:] == both[:-1]))
    return shared / (len(a) + len(b) - shared)


def _blocks(texts: Sequence[str]) -> Iterator[list[bytes]]:
    """The texts as bytes, about BLOCK together. Outside ASCII, what is no word becomes a space:
    every byte from 0x80 on is then part of one.
    """
    block: list[bytes] = []
    size = 0
    for text in texts:
        raw = (text if text.isascii() else _NEITHER.sub(" ", text)).encode()
        if block and size + len(raw) > BLOCK:
            yield block
            block, size = [], 0
        block.append(raw)
        size += len(raw) + 1
    if block:
        yield block


def _hash_block(block: list[bytes]) -> list[Hashes]:
    joined = np.frombuffer(b" ".join([*block, b""]), np.uint8)
    starts, words = _words(joined)
    # Which words are whose: a text's first word is the first that starts at or after it.
    places = np.cumsum([0, *(len(raw) + 1 for raw in block)])
    first = np.searchsorted(starts, places).tolist()
    size = len(words) - SHINGLE + 1
    every = _join([words[i : i + size] for i in range(SHINGLE)]) if size > 0 else words[:0]
    found = []
    for begin, end in pairwise(first):
        if end - begin >= SHINGLE:
            found.append(every[begin : end - SHINGLE + 1])
        else:
            few = [*words[begin:end], *[np.uint64(0)] * (SHINGLE - end + begin)]
            found.append(_join([np.array([word]) for word in few]))
    return found


def _words(raw: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.int64], Hashes]:
    """(where each word starts, its number) of bytes that end with a space."""
    inside, letters = _tables()
    is_word = inside[raw]
    edges = np.flatnonzero(is_word[1:] != is_word[:-1]) + 1
    if len(raw) and is_word[0]:
        edges = np.concatenate([[0], edges])
    starts, ends = edges[::2], edges[1::2]
    up, down = _powers(1 << max(16, (len(raw) + 1).bit_length()))
    sums = np.zeros(len(raw) + 1, np.uint64)
    np.cumsum(letters[raw] * up[: len(raw)], out=sums[1:])
    words = (sums[ends] - sums[starts]) * down[starts]
    words ^= words >> _SHIFT  # a product's low bits know little of the high ones
    words *= _MIX
    words ^= words >> _SHIFT
    return starts, words


def _join(words: Sequence[Hashes]) -> Hashes:
    joined = np.zeros(len(words[0]), np.uint64)
    for each in words:
        joined ^= each
        joined *= _MIX
    joined ^= joined >> _SHIFT
    return joined


@cache
def _tables() -> tuple[npt.NDArray[np.bool_], Hashes]:
    """Of every byte: whether it is part of a word, and its random number."""
    inside = np.array([n >= 0x80 or chr(n).isalnum() or n == 0x5F for n in range(256)])
    letters = np.random.default_rng(0).integers(0, 2**64, 256, np.uint64)
    return inside, letters


@cache
def _powers(count: int) -> tuple[Hashes, Hashes]:
    """B^i and B^-i for i < count."""
    both = []
    for base in (_BASE, pow(_BASE, -1, 2**64)):
        powers = np.full(count, base, np.uint64)
        powers[0] = 1
        both.append(np.cumprod(powers))
    return both[0], both[1]
