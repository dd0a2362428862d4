"""What an engine is doing, in numbers. Knows nothing of how it does it."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["EngineStatus"]


@dataclass(frozen=True, slots=True)
class EngineStatus:
    """Sequences that run and wait; KV blocks in all and unreferenced; tokens in the prefix tree;
    pre-emptions so far.
    """

    running: int
    waiting: int
    blocks: int
    free_blocks: int
    cached_tokens: int
    preemptions: int
