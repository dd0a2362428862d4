"""Exact and near duplicates: MinHash finds candidates, the texts themselves decide.

Signatures of 126 permutations over 5-grams of words (rensa, in Rust), in 21 bands of 6: a pair of
Jaccard similarity 0.7 becomes a candidate with probability 0.93, 0.8 with 0.998, and 0.5 with 0.28,
so candidates are verified by their real similarity (training.md's 42 × 6 without verification joins
87% of the pairs at 0.6). Of a cluster the most permissively licensed copy stays, then the longest.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from codellama.specialize.corpus.licenses import is_permissive
from codellama.specialize.corpus.record import Record

__all__ = [
    "BANDS", "ROWS", "ShingleHashes", "clusters", "jaccard", "keep_one", "near_pairs", "overlap",
    "shingles",
]  # fmt: skip

BANDS, ROWS = 21, 6
SIMILAR = 0.7  # StarCoder's threshold (arXiv 2305.06161 §3.4)
SHINGLE = 5  # words
_WORD = re.compile(r"\w+")
_SEED = 42

_MIX = np.uint64(0x9E3779B97F4A7C15)  # odd: a bijection on 64 bits

Signatures = npt.NDArray[np.uint32]
Hashes = npt.NDArray[np.uint64]


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


class ShingleHashes:
    """`shingles` as sorted distinct 64-bit hashes, many times faster: words are hashed once each,
    and five of them are joined by vector arithmetic.
    """

    def __init__(self) -> None:
        self._known: dict[str, int] = {}

    def __call__(self, text: str) -> Hashes:
        known = self._known
        words = _WORD.findall(text)
        for word in words:
            if word not in known:
                digest = hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8)
                known[word] = int.from_bytes(digest.digest(), "little")
        ids = np.fromiter((known[word] for word in words), np.uint64, len(words))
        if len(ids) < SHINGLE:
            ids = np.concatenate([ids, np.zeros(SHINGLE - len(ids), np.uint64)])
        size = len(ids) - SHINGLE + 1
        joined = np.zeros(size, np.uint64)
        for place in range(SHINGLE):
            joined = (joined ^ ids[place : place + size]) * _MIX
        return np.unique(joined)


def overlap(a: Hashes, b: Hashes) -> float:
    """`jaccard` of sorted distinct hashes."""
    shared = len(np.intersect1d(a, b, assume_unique=True))
    return shared / (len(a) + len(b) - shared)


def signatures(hashes: Sequence[Hashes]) -> Signatures:
    """MinHash signatures, uint32 [texts, 126]."""
    from rensa import RMinHash

    ends = np.cumsum([0, *map(len, hashes)]).astype(np.uint64)
    flat = np.concatenate(hashes) if hashes else np.empty(0, np.uint64)
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(flat, ends, BANDS * ROWS, _SEED)
    return np.array(matrix.to_rows(), np.uint32).reshape(len(hashes), BANDS * ROWS)


def near_pairs(texts: Sequence[str], threshold: float = SIMILAR) -> list[tuple[int, int]]:
    """Pairs (i < j) whose 5-grams overlap by `threshold` or more, verified.

    In every band, texts of equal signature are compared with the first of them that is not yet in
    their cluster, not with each other: a thousand copies cost a thousand comparisons.
    """
    hash_text = ShingleHashes()
    hashes = [hash_text(text) for text in texts]
    bands = signatures(hashes).reshape(len(texts), BANDS, ROWS)
    pairs, seen, parent = [], set(), list(range(len(texts)))
    for band in range(BANDS):
        buckets: defaultdict[bytes, list[int]] = defaultdict(list)
        for index in range(len(texts)):
            buckets[bands[index, band].tobytes()].append(index)
        for members in buckets.values():
            leaders: list[int] = []
            for index in members:
                for leader in leaders:
                    if _root(parent, leader) == _root(parent, index):
                        break
                    if (leader, index) in seen:
                        continue
                    seen.add((leader, index))
                    if overlap(hashes[leader], hashes[index]) >= threshold:
                        pairs.append((leader, index))
                        parent[_root(parent, index)] = _root(parent, leader)
                        break
                else:
                    leaders.append(index)
    return pairs


def clusters(count: int, pairs: Iterable[tuple[int, int]]) -> list[list[int]]:
    """Connected components of 0 … count − 1, each ascending, in the order of their first member."""
    parent = list(range(count))
    for a, b in pairs:
        low, high = sorted((_root(parent, a), _root(parent, b)))
        parent[high] = low
    groups: defaultdict[int, list[int]] = defaultdict(list)
    for index in range(count):
        groups[_root(parent, index)].append(index)
    return [groups[root] for root in sorted(groups)]


def _root(parent: list[int], index: int) -> int:
    while parent[index] != index:
        parent[index] = parent[parent[index]]
        index = parent[index]
    return index


def keep_one(records: Sequence[Record]) -> list[Record]:
    """One record of every cluster of near duplicates, in the order of the input."""
    exact: dict[str, int] = {}
    for index, record in enumerate(records):
        best = exact.setdefault(record.id, index)
        if _rank(record) < _rank(records[best]):
            exact[record.id] = index
    unique = [records[i] for i in sorted(exact.values())]
    kept = [
        min(cluster, key=lambda i: (*_rank(unique[i]), i))
        for cluster in clusters(len(unique), near_pairs([r.text for r in unique]))
    ]
    return [unique[i] for i in sorted(kept)]


def _rank(record: Record) -> tuple[bool, bool, int]:
    """Lower is better: permissive, without conditions on notices, longer."""
    free = record.license in ("0BSD", "CC0-1.0", "Unlicense", "public-domain", "MIT-0")
    return (not is_permissive(record.license), not free, -len(record.text))
