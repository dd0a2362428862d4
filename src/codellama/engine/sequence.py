"""A sequence, and its part of a step: the nouns of scheduler, batch and engine.

Knows token ids and block numbers; decides nothing.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field

from codellama.engine.runner import BLOCK_SIZE

__all__ = ["Sequence", "Slot"]


@dataclass(slots=True, eq=False)
class Sequence:
    """One sample of a request: its tokens, and how far the cache holds them.

    Attributes:
        rank: order of service, smaller first; unique.
        tokens: prompt and output.
        limit: length at which it ends.
        forks: samples to be split off when the prompt is computed.
        blocks: its block table; empty while it waits.
        computed: tokens whose keys and values are in the cache.
        published: full blocks that are in the prefix tree.
        cached: prompt tokens found in the prefix tree when first admitted; None before.
    """

    request_id: int
    index: int
    rank: tuple[int, int, int]
    tokens: list[int]
    n_prompt: int
    limit: int
    forks: int = 0
    blocks: array[int] = field(default_factory=lambda: array("i"))
    computed: int = 0
    published: int = 0
    cached: int | None = None

    @property
    def pending(self) -> int:
        """Tokens still to be computed; one for a sequence that is answering."""
        return len(self.tokens) - self.computed

    def check(self) -> None:
        assert 0 <= self.computed < len(self.tokens) or self.computed == self.limit
        assert self.computed <= len(self.blocks) * BLOCK_SIZE
        assert self.published * BLOCK_SIZE <= self.computed
        assert 0 < self.n_prompt <= len(self.tokens) <= self.limit


@dataclass(frozen=True, slots=True)
class Slot:
    """A sequence's part of a step: `count` known tokens from `sequence.computed` on, then the
    draft.

    `samples`: the known tokens reach the end of the sequence, so the rows from the last known one
    on are to be drawn.
    """

    sequence: Sequence
    count: int
    draft: tuple[int, ...] = ()
    samples: bool = False

    @property
    def prompt(self) -> bool:
        """Whether the tokens are the request's own; a slot never spans both kinds."""
        return self.sequence.computed < self.sequence.n_prompt

    @property
    def tokens(self) -> list[int]:
        start = self.sequence.computed
        return self.sequence.tokens[start : start + self.count] + list(self.draft)

    @property
    def n_rows(self) -> int:
        """Rows of logits wanted: the last known token's and the draft's, or none."""
        return 1 + len(self.draft) if self.samples else 0
