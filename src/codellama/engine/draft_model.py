"""Drafts from a small model with the same vocabulary: its likeliest tokens, one after the other.

The small model has a cache of its own; what it computed for a rejected draft is overwritten. It
drafts while its tokens are right often enough to pay for its own steps, which it measures.
Sequences are drafted for one by one: worth it for a few, not for a full batch.

Knows runners and token ids. Does not check that both models mean the same by an id: who loads them
does (api/loading.py).
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from time import perf_counter

import numpy as np

from codellama.engine.kv_pool import KVPool, blocks_for
from codellama.engine.params import SamplingParams
from codellama.engine.runner import BLOCK_SIZE, Batch, Logits, Runner
from codellama.engine.speculate import (
    DEEPEST,
    Drafter,
    FirstOf,
    PromptLookup,
    Rate,
    StepCost,
    best_depth,
)

__all__ = ["DraftModel", "ModelDrafter", "Speculation"]

LIKELY = 0.7  # prior of a small model's token being the large one's
CHUNK = 512  # prompt tokens computed at once


class DraftModel:
    """The small model, shared by the drafters of all sequences.

    Args:
        runner: its own; nobody else uses it or its blocks.
        cost: the large model's steps.
        clock: seconds.
    """

    def __init__(
        self, runner: Runner, cost: StepCost, *, clock: Callable[[], float] = perf_counter
    ) -> None:
        self.runner = runner
        self.cost = cost
        self._clock = clock
        self.own_cost = StepCost()
        self.context = min(runner.context, runner.n_blocks * BLOCK_SIZE)
        self.pool = KVPool(runner.n_blocks, runner.copy_block, caching=False)

    def drafter(self) -> ModelDrafter:
        """For one sequence."""
        return ModelDrafter(self)

    def compute(self, tokens: list[int], past: int, blocks: array[int]) -> Logits:
        """Logits [V] after the last of `tokens`, which start at position `past`."""
        for start in range(0, len(tokens), CHUNK):
            part = tokens[start : start + CHUNK]
            begin = self._clock()
            logits_1V = self.runner.run(
                Batch(
                    tokens_T=np.array(part, np.int32),
                    starts_S1=np.array([0, len(part)], np.int32),
                    past_S=np.array([past + start], np.int32),
                    blocks_SB=np.array(blocks, np.int32)[None],
                    rows_R=np.array([len(part) - 1], np.int32),
                    n_decode=len(part) if len(part) < BLOCK_SIZE else 0,
                )
            )
            if len(part) == 1:
                self.own_cost.observe(1, self._clock() - begin)
        logits_V: Logits = logits_1V[0]
        return logits_V


class ModelDrafter:
    """engine.speculate.Drafter by a DraftModel."""

    def __init__(self, model: DraftModel) -> None:
        self.drafted = 0
        self.accepted = 0
        self._model = model
        self._rate = Rate(LIKELY)
        self._blocks: array[int] = array("i")
        self._computed = 0  # tokens of the sequence that the small cache is sure to hold
        self._length = self._past = 0  # of the sequence and of the cache, at the last proposal

    def propose(self, tokens: list[int], limit: int, sequences: int = 1) -> list[int]:
        model = self._model
        most = min(limit, DEEPEST, model.context - len(tokens))
        depth = best_depth(self._rate.value, self._token_cost(sequences), most)
        if depth <= 0:
            self._rate.rest()
            return []
        if not self._reserve(len(tokens) + depth):
            return []
        self._length = len(tokens)
        draft: list[int] = []
        new, past = tokens[self._computed :], self._computed
        while len(draft) < depth:
            logits_V = model.compute(new, past, self._blocks)
            past += len(new)
            new = [int(logits_V.argmax())]
            draft += new
        self._computed, self._past = len(tokens), past  # past: all but the last of the draft
        return draft

    def observe(self, drafted: int, accepted: int) -> None:
        if drafted:
            self._computed = min(self._past, self._length + accepted)
            self.drafted += drafted
            self.accepted += accepted
            self._rate.observe(drafted, accepted)

    def close(self) -> None:
        self._model.pool.release(self._blocks)
        self._blocks = array("i")
        self._computed = 0

    def _token_cost(self, sequences: int) -> float:
        """A drafted token: a row of the large model's step, and a step of the small one."""
        model = self._model
        step = model.cost.step(sequences)
        own = model.own_cost.step() / step if step else 0.2
        return min(1.0, model.cost.row(sequences) + own * sequences)

    def _reserve(self, length: int) -> bool:
        missing = blocks_for(length) - len(self._blocks)
        if missing > self._model.pool.available:
            return False
        if missing > 0:
            self._blocks.extend(self._model.pool.allocate(missing))
        return True


class Speculation:
    """Who drafts for a request: prompt lookup where it is asked for, then the draft model, if any.

    Attributes:
        cost: of the large model's steps; its engine reports them.
    """

    def __init__(self, draft: Runner | None, clock: Callable[[], float]) -> None:
        self.cost = StepCost()
        self.model = None if draft is None else DraftModel(draft, self.cost, clock=clock)

    def drafter(self, params: SamplingParams) -> Drafter | None:
        """For one sample; None where nothing is to be drafted."""
        if params.speculate is False or (params.speculate is None and self.model is None):
            return None
        lookup = PromptLookup(self.cost)
        return lookup if self.model is None else FirstOf(lookup, self.model.drafter())
