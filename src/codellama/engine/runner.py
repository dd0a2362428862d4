"""What the engine asks of a model: a ragged batch in, logits out.

The protocol and its batch; the native runner is in engine/native_runner.py, the PyTorch one in
engine/torch_runner.py. Knows no text, no scheduling and no sampling. A runner owns the memory of
the KV cache, the engine's kv_pool decides which block belongs to whom.

Shape legend: T new tokens of the step, S sequences, B blocks of the longest table, R rows whose
logits are wanted, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

__all__ = ["BLOCK_SIZE", "Batch", "Int32", "Logits", "Runner"]

Int32 = npt.NDArray[np.int32]
Logits = npt.NDArray[np.float32]

BLOCK_SIZE = 16
"""Tokens per KV block: one vector of 16 scores, and the finest grain of shared prefixes."""


@dataclass(frozen=True, slots=True)
class Batch:
    """One engine step: prefill chunks and decode tokens of several sequences, one after another.

    Attributes:
        tokens_T: new token ids.
        starts_S1: sequence s owns tokens_T[starts_S1[s] : starts_S1[s + 1]]; at least one token
            each.
        past_S: tokens of s already in the cache, i.e. the position of its first new token.
        blocks_SB: block tables, padded with -1; entry b holds positions [16b, 16b + 16).
        rows_R: rows of tokens_T whose logits are wanted, ascending.
        n_decode: tokens before this one continue answers, those from it on are prompt. A runner may
            round prompts otherwise than answers, if a token's result stays the same however its
            prompt is cut and whoever runs beside it. Whole sequences lie on either side.
    """

    tokens_T: Int32
    starts_S1: Int32
    past_S: Int32
    blocks_SB: Int32
    rows_R: Int32
    n_decode: int = 0


class Runner(Protocol):
    """A model with a paged KV cache."""

    @property
    def vocab_size(self) -> int: ...
    @property
    def context(self) -> int:
        """Longest sequence, in tokens."""
        ...

    @property
    def n_blocks(self) -> int:
        """Blocks of BLOCK_SIZE tokens in the cache."""
        ...

    def run(self, batch: Batch) -> Logits:
        """Cache the batch's keys and values; return logits [R, V], valid until the next run."""
        ...

    def copy_block(self, source: int, target: int) -> None:
        """Copy one block's keys and values in every layer (copy-on-write of shared prefixes)."""
        ...
