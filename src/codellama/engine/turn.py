"""Whose turn it is: one thread at a time, in the order in which they came.

Knows nothing of what is done in a turn. Entered for every token: a context that is made once costs
2 µs less there than one that is made each time.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock

__all__ = ["Turn"]


class Turn:
    """`with turn:`. Not re-entrant.

    Args:
        first: called at the beginning of every turn.
    """

    def __init__(self, first: Callable[[], None]) -> None:
        self._first = first
        self._lock = Lock()
        self._gate = Lock()  # the next in line waits here: nobody takes two turns before

    def __enter__(self) -> None:
        with self._gate:
            self._lock.acquire()
        try:
            self._first()
        except BaseException:
            self._lock.release()
            raise

    def __exit__(self, *_: object) -> None:
        self._lock.release()
