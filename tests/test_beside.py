"""What is loaded beside something else arrives, or says why not, and stops when nobody waits."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from codellama.api.beside import Beside

Progress = Callable[[int, int], None]


def test_it_is_loaded_in_another_thread_while_the_body_runs() -> None:
    inside = threading.Event()

    def load(progress: Progress) -> str:
        assert inside.wait(10)
        progress(1, 1)
        return threading.current_thread().name

    told: list[tuple[int, int]] = []
    with Beside(load, lambda done, total: told.append((done, total))) as loading:
        inside.set()
    assert loading.result == "codellama-load"
    assert told == [(1, 1)]


def test_an_error_of_loading_is_raised_on_leaving() -> None:
    def load(progress: Progress) -> str:
        raise ValueError("damaged")

    with pytest.raises(ValueError, match="damaged"), Beside(load):
        pass


def test_an_error_of_the_body_stops_loading() -> None:
    inside = threading.Event()
    steps: list[int] = []

    def load(progress: Progress) -> None:
        assert inside.wait(10)
        for step in range(1_000_000):
            progress(step, 1_000_000)
            steps.append(step)

    with pytest.raises(KeyError, match="no tokenizer"), Beside(load) as loading:
        threading.Timer(0.1, inside.set).start()
        raise KeyError("no tokenizer")
    assert steps == []
    assert not loading._results
