"""Exact and near duplicates: MinHash finds candidates, the texts themselves decide.

Signatures of 126 permutations over 5-grams of words (rensa, in Rust), in 21 bands of 6: a pair of
Jaccard similarity 0.7 becomes a candidate with probability 0.93, 0.8 with 0.998, and 0.5 with 0.28,
so candidates are verified by their real similarity (training.md's 42 × 6 without verification joins
87% of the pairs at 0.6). Of a cluster the most permissively licensed copy stays, then the longest.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from codellama.specialize.corpus.licenses import is_permissive
from codellama.specialize.corpus.record import Record
from codellama.specialize.corpus.shingles import Hashes, distinct, overlap, shingle_hashes

__all__ = ["BANDS", "ROWS", "SIMILAR", "clusters", "keep_one", "near_pairs", "signatures"]

BANDS, ROWS = 21, 6
SIMILAR = 0.7  # StarCoder's threshold (arXiv 2305.06161 §3.4)
_SEED = 42
_MIX = np.uint64(0x9E3779B97F4A7C15)  # odd: a bijection on 64 bits

Signatures = npt.NDArray[np.uint32]


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
    hashes = shingle_hashes(texts)
    sets: dict[int, Hashes] = {}  # only of candidates: sorting is a third of hashing
    pairs, seen, parent = [], set(), list(range(len(texts)))
    for members in _buckets(signatures(hashes)):
        leaders: list[int] = []
        for index in members:
            for leader in leaders:
                if _root(parent, leader) == _root(parent, index):
                    break
                if (leader, index) in seen:
                    continue
                seen.add((leader, index))
                for each in (leader, index):
                    if each not in sets:
                        sets[each] = distinct(hashes[each])
                if overlap(sets[leader], sets[index]) >= threshold:
                    pairs.append((leader, index))
                    parent[_root(parent, index)] = _root(parent, leader)
                    break
            else:
                leaders.append(index)
    return pairs


def _buckets(signatures_NP: Signatures) -> Iterator[list[int]]:
    """Ascending texts that agree in a band, two or more; what agrees by a collision of the band's
    64 bits is sorted out with the other candidates.
    """
    bands_NBR = signatures_NP.reshape(len(signatures_NP), BANDS, ROWS)
    for band in range(BANDS):
        keys_N = np.zeros(len(bands_NBR), np.uint64)
        for row in range(ROWS):
            keys_N = (keys_N ^ bands_NBR[:, band, row]) * _MIX
            keys_N ^= keys_N >> np.uint64(32)
        order_N = np.argsort(keys_N, kind="stable")
        ordered_N = keys_N[order_N]
        cuts = np.flatnonzero(ordered_N[1:] != ordered_N[:-1]) + 1
        bounds = np.concatenate([[0], cuts, [len(order_N)]])
        for group in np.flatnonzero(np.diff(bounds) > 1):
            yield order_N[bounds[group] : bounds[group + 1]].tolist()


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
