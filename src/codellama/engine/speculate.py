"""Prompt lookup: guess the next tokens from an earlier occurrence of the last ones.

Code repeats itself, and an edit repeats almost all of it. The draft is computed in the same step as
the token it follows, and accepted as far as the tokens drawn at its rows equal it. As the draw at
each position depends only on that position's logits and random number, the text is the same as
without drafts, greedy or sampled; a draft can cost time, not quality. Prompt lookup after Saxena
(2023) and llama.cpp's lookup decoding; acceptance by equality is the special case of Leviathan et
al. (2023), algorithm 1, for a deterministic draft.

Knows only token ids. Another drafter (a small model with the same vocabulary) needs the same two
methods.
"""

from __future__ import annotations

__all__ = ["PromptLookup"]

# (n, longest draft after a match of n tokens): two equal tokens say little about the next sixteen.
MATCHES = ((8, 16), (4, 8), (2, 4))
WINDOW = 48  # drafted tokens over which acceptance is judged
WORTHWHILE = 0.25  # accepted share below which drafting pauses; not yet measured
PAUSE = 64  # tokens without drafts before it is tried again


class PromptLookup:
    """Drafts for one sequence. `propose` before a step, `observe` after it.

    Attributes:
        drafted, accepted: tokens so far, for usage and metrics.
    """

    def __init__(self) -> None:
        self.drafted = 0
        self.accepted = 0
        self._places: list[dict[tuple[int, ...], int]] = [{} for _ in MATCHES]
        self._indexed = 0
        self._depth = MATCHES[0][1]
        self._recent_drafted = 0.0
        self._recent_accepted = 0.0
        self._paused_until = 0

    def propose(self, tokens: list[int], limit: int) -> list[int]:
        """At most `limit` tokens that may follow; none when nothing matches or it does not pay."""
        if len(tokens) < self._paused_until:
            return []
        self._index(tokens)
        for (n, longest), places in zip(MATCHES, self._places, strict=True):
            place = places.get(tuple(tokens[-n:])) if len(tokens) > n else None
            if place is not None:
                return tokens[place : place + min(longest, self._depth, limit)]
        return []

    def observe(self, drafted: int, accepted: int, length: int) -> None:
        """So many of the drafted tokens were right; the sequence now has `length` tokens."""
        if not drafted:
            return
        self.drafted += drafted
        self.accepted += accepted
        fade = max(0.0, 1.0 - drafted / WINDOW)
        self._recent_drafted = self._recent_drafted * fade + drafted
        self._recent_accepted = self._recent_accepted * fade + accepted
        self._depth = min(2 * self._depth, MATCHES[0][1]) if accepted == drafted else accepted + 1
        share = self._recent_accepted / self._recent_drafted
        if self._recent_drafted >= WINDOW / 2 and share < WORTHWHILE:
            self._paused_until = length + PAUSE
            self._recent_drafted = self._recent_accepted = 0.0

    def _index(self, tokens: list[int]) -> None:
        """Remember where each n-gram last ended, up to but not including the end of `tokens`."""
        for place in range(self._indexed + 1, len(tokens)):
            for (n, _longest), places in zip(MATCHES, self._places, strict=True):
                if place >= n:
                    places[tuple(tokens[place - n : place])] = place
        self._indexed = max(self._indexed, len(tokens) - 1)
