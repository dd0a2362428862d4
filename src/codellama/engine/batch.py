"""From a plan to the runner's Batch: lists to arrays, nothing decided here. And one text alone,
every row wanted.

Shape legend: as in engine/runner.py (T tokens, S sequences, B blocks, R rows); W width of a row.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable

import numpy as np

from codellama.engine.kv_pool import blocks_for
from codellama.engine.runner import Batch, Int32, Logits
from codellama.engine.sequence import Slot

__all__ = ["Run", "assemble", "run_alone"]

Run = Callable[[Batch], Logits]


def assemble(plan: list[Slot]) -> Batch:
    """The plan as one ragged batch; wanted rows are those from a slot's last known token on.

    The plan has answering sequences first, then prompts.
    """
    tokens: list[int] = []
    rows: list[int] = []
    starts, n_decode = [0], 0
    for slot in plan:
        part = slot.tokens
        tokens += part
        starts.append(len(tokens))
        rows += range(len(tokens) - slot.n_rows, len(tokens))
        if not slot.prompt:
            n_decode += len(part)
    past = [slot.sequence.computed for slot in plan]
    # One array and four views of it: every array made costs a microsecond of a step of 2,400.
    numbers = np.array([*tokens, *starts, *past, *rows], np.int32)
    starts_at, past_at = len(tokens), len(tokens) + len(starts)
    rows_at = past_at + len(past)
    return Batch(
        tokens_T=numbers[:starts_at],
        starts_S1=numbers[starts_at:past_at],
        past_S=numbers[past_at:rows_at],
        blocks_SB=_tables([slot.sequence.blocks for slot in plan]),
        rows_R=numbers[rows_at:],
        n_decode=n_decode,
    )


def run_alone(run: Run, ids: list[int], blocks: array[int], chunk: int) -> Logits:
    """`run`'s rows for every token of one text, [T, W], `chunk` tokens at a time."""
    parts = []
    for start in range(0, len(ids), chunk):
        part = ids[start : start + chunk]
        batch = Batch(
            tokens_T=np.array(part, np.int32),
            starts_S1=np.array([0, len(part)], np.int32),
            past_S=np.array([start], np.int32),
            blocks_SB=_tables([blocks[: blocks_for(start + len(part))]]),
            rows_R=np.arange(len(part), dtype=np.int32),
        )
        parts.append(run(batch).copy())
    return np.concatenate(parts)


def _tables(tables: list[array[int]]) -> Int32:
    if len(tables) == 1:
        return np.array(tables, np.int32)
    blocks_SB = np.full((len(tables), max(map(len, tables))), -1, np.int32)
    for row_B, table in zip(blocks_SB, tables, strict=True):
        row_B[: len(table)] = np.frombuffer(table, np.int32)
    return blocks_SB
