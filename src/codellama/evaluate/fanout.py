"""The same function over many items, in parallel; results as they are ready, so that a kill loses
only what is in flight. Whoever needs an order sorts.

`Local` uses threads: judging waits for boxes, generating waits for the engine. ray_fanout.py does
the same over a cluster.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any, Protocol

__all__ = ["FanOut", "Local"]


class FanOut(Protocol):
    """work over items → (item, result), as they are ready."""

    def __call__(
        self, work: Callable[[Any], Any], items: Sequence[Any]
    ) -> Iterator[tuple[Any, Any]]: ...


class Local:
    """Threads of this process. Raises what `work` raises, after what had begun has ended."""

    def __init__(self, workers: int) -> None:
        self.workers = max(1, workers)

    def __call__(
        self, work: Callable[[Any], Any], items: Sequence[Any]
    ) -> Iterator[tuple[Any, Any]]:
        left = iter(items)
        running: dict[Future[Any], Any] = {}
        with ThreadPoolExecutor(self.workers) as pool:
            while True:
                for item in left:
                    running[pool.submit(work, item)] = item
                    if len(running) >= self.workers:
                        break
                if not running:
                    return
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    yield running.pop(future), future.result()
