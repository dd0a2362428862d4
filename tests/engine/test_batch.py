"""A plan becomes the runner's arrays; a text alone is computed in chunks."""

from __future__ import annotations

from array import array

import numpy as np

from codellama.engine.batch import assemble, run_alone
from codellama.engine.sequence import Sequence, Slot
from fakes import FakeRunner


def sequence(tokens: list[int], computed: int, blocks: list[int]) -> Sequence:
    return Sequence(1, 0, (0, 0, 0), tokens, 1, 100, blocks=array("i", blocks), computed=computed)


def test_assemble() -> None:
    plan = [
        Slot(sequence([1, 2, 3], 2, [4]), 1, draft=(7, 8), samples=True),
        Slot(sequence(list(range(40)), 16, [5, 6, 7]), 10),
        Slot(sequence([9, 9], 0, [8]), 2, samples=True),
    ]
    batch = assemble(plan)
    assert batch.tokens_T.tolist() == [3, 7, 8, *range(16, 26), 9, 9]
    assert batch.starts_S1.tolist() == [0, 3, 13, 15]
    assert batch.past_S.tolist() == [2, 16, 0]
    assert batch.blocks_SB.tolist() == [[4, -1, -1], [5, 6, 7], [8, -1, -1]]
    assert batch.rows_R.tolist() == [0, 1, 2, 14]
    assert batch.rows_R.dtype == np.int32
    assert batch.n_decode == 13  # two slots that answer, and a prompt


def test_assemble_without_wanted_rows() -> None:
    batch = assemble([Slot(sequence(list(range(40)), 16, [5, 6, 7]), 10)])
    assert batch.rows_R.shape == (0,)
    assert batch.rows_R.dtype == np.int32


def test_run_alone_gives_every_row() -> None:
    runner = FakeRunner()
    ids = [i % 50 for i in range(70)]
    logits_TV = run_alone(runner.run, ids, array("i", [9, 3, 4, 1, 0]), chunk=32)
    assert runner.steps == 3
    want = np.array([runner.alone(ids[: i + 1]) for i in range(70)])
    assert np.array_equal(logits_TV, want)
