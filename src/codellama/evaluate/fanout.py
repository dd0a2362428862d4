"""The same function over many items, in parallel, with results in the items' order.

`Local` uses threads: judging waits for boxes, generating waits for the engine. ray_fanout.py does
the same over a cluster.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

__all__ = ["FanOut", "Local"]


class FanOut(Protocol):
    """work over items → (item, result) in the items' order, as they are ready."""

    def __call__(
        self, work: Callable[[Any], Any], items: Sequence[Any]
    ) -> Iterator[tuple[Any, Any]]: ...


class Local:
    """Threads of this process.

    An item is begun at most `ahead` items before the oldest unfinished one, so that a kill loses
    little.
    """

    def __init__(self, workers: int, ahead: int = 4) -> None:
        self.workers = max(1, workers)
        self.ahead = ahead * self.workers

    def __call__(
        self, work: Callable[[Any], Any], items: Sequence[Any]
    ) -> Iterator[tuple[Any, Any]]:
        waiting: deque[tuple[Any, Future[Any]]] = deque()
        with ThreadPoolExecutor(self.workers) as pool:
            try:
                for item in items:
                    waiting.append((item, pool.submit(work, item)))
                    if len(waiting) >= self.ahead:
                        first, future = waiting.popleft()
                        yield first, future.result()
                while waiting:
                    first, future = waiting.popleft()
                    yield first, future.result()
            finally:
                for _, future in waiting:
                    future.cancel()
