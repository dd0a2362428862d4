"""Pieces of documents → rows of a fixed length: one global plan, made once, before any sharding.

A plan says which pieces lie in which row and in which order rows are trained on. It depends on the
lengths and the key alone, so any number of machines, resumed any number of times, sees the same
rows at the same step. Pieces of one row do not attend to each other: that is forward.py's matter.
Knows no text and no tokens.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Plan", "best_fit", "plan_rows", "shuffled"]

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Plan:
    """Rows in training order: row r holds pieces[starts[r] : starts[r + 1]]."""

    pieces: Ints
    starts: Ints

    def __len__(self) -> int:
        return len(self.starts) - 1

    def row(self, index: int) -> Ints:
        return self.pieces[self.starts[index] : self.starts[index + 1]]


def shuffled(count: int, key: str) -> list[int]:
    """0 … count − 1 in an order that depends on `key` only; equal in every version of everything.

    >>> shuffled(5, "a") == shuffled(5, "a"), sorted(shuffled(5, "a"))
    (True, [0, 1, 2, 3, 4])
    """

    def mark(index: int) -> bytes:
        return hashlib.blake2b(f"{key}\0{index}".encode(), digest_size=16).digest()

    return sorted(range(count), key=mark)


def best_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Bins of indices whose lengths add up to at most `capacity`: longest first, each into the
    fullest bin that still has room (best-fit decreasing: at most 11/9 of the fewest bins).

    Raises ValueError for a length beyond the capacity.
    """
    bins: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (free tokens, bin), ascending
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        length = lengths[index]
        if length > capacity:
            raise ValueError(f"a piece of {length} tokens does not fit a row of {capacity}")
        at = bisect_left(room, (length, -1))
        if at == len(room):
            bins.append([])
            free, bin = capacity, len(bins) - 1
        else:
            free, bin = room.pop(at)
        bins[bin].append(index)
        if free > length:
            insort(room, (free - length, bin))
    return bins


def plan_rows(rows: Sequence[Sequence[int]], key: str) -> Plan:
    """The rows in shuffled order; so are the pieces inside each row."""
    order = shuffled(len(rows), f"rows\0{key}")
    mixed = [[rows[r][i] for i in shuffled(len(rows[r]), f"row\0{key}\0{r}")] for r in order]
    starts = np.zeros(len(mixed) + 1, np.int64)
    np.cumsum([len(row) for row in mixed], out=starts[1:])
    return Plan(np.array([piece for row in mixed for piece in row], np.int64), starts)
