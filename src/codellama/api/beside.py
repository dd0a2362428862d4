"""Something that is loaded in a thread of its own while its caller does something else.

Loading tells its progress: that is where a load that nobody waits for any more stops.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import Thread
from types import TracebackType
from typing import Generic, TypeVar

__all__ = ["Beside"]

T = TypeVar("T")
Progress = Callable[[int, int], None]


class Beside(Generic[T]):
    """A context in which `load(progress)` runs; leaving it waits, and raises what loading raised.

    An error inside, or Ctrl-C, stops loading at its next progress and is what is raised.

    >>> with Beside(lambda progress: 2 + 3) as loading:
    ...     other = 7
    >>> loading.result
    5
    """

    def __init__(self, load: Callable[[Progress], T], progress: Progress | None = None) -> None:
        self._load = load
        self._progress = progress
        self._abandoned = False
        self._results: list[T] = []
        self._error: BaseException | None = None
        self._thread = Thread(target=self._run, name="codellama-load")

    @property
    def result(self) -> T:
        """What was loaded, once the context is left."""
        return self._results[0]

    def __enter__(self) -> Beside[T]:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _error: object, _trace: TracebackType | None
    ) -> None:
        self._abandoned = kind is not None
        try:
            self._thread.join()
        except BaseException:
            self._abandoned = True
            raise
        if kind is None and self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            self._results.append(self._load(self._tell))
        except BaseException as error:
            self._error = error

    def _tell(self, done: int, total: int) -> None:
        if self._abandoned:
            raise InterruptedError("nobody waits for this model any more")
        if self._progress is not None:
            self._progress(done, total)
