"""One thread at a time, each beginning with what is to be done first."""

from __future__ import annotations

import threading

import pytest

from codellama.engine.turn import Turn


def test_turns_exclude_each_other() -> None:
    turn, inside, most = Turn(lambda: None), [0], [0]

    def work() -> None:
        for _ in range(200):
            with turn:
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                inside[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]


def test_a_turn_is_over_after_an_error_inside_or_before() -> None:
    begun: list[int] = []

    def first() -> None:
        begun.append(1)
        if len(begun) == 2:
            raise OSError("in the beginning")

    turn = Turn(first)
    with pytest.raises(ValueError), turn:
        raise ValueError
    with pytest.raises(OSError), turn:
        pass
    with turn:
        assert len(begun) == 3
