"""Speculation: guess the next tokens, compute them all in one step, keep those that were right.

A draft is computed in the same step as the token it follows, and accepted as far as the tokens
drawn at its rows equal it. As the draw at each position depends only on that position's logits and
random number, the text is the same as without drafts, greedy or sampled; a draft can cost time, not
quality. Acceptance by equality is Leviathan et al.'s rule (2023, algorithm 1) for a draft that is
certain of its tokens, with one coupling of the random numbers: the one that also keeps the text.

Code repeats itself, and an edit repeats almost all of it: `PromptLookup` (Saxena, 2023) drafts from
an earlier occurrence of the last tokens. engine/draft_model.py drafts with a small model. How deep
to draft is a matter of cost: `best_depth` weighs how often this kind of draft was right lately
against what a row more costs in a step, which `StepCost` measures while the engine runs.

Knows only token ids and seconds.
"""

from __future__ import annotations

from typing import Protocol

__all__ = ["Drafter", "FirstOf", "PromptLookup", "Rate", "StepCost", "best_depth"]

DEEPEST = 31  # with the token before it a step of 32 rows: more fill the matrix units no better


class Drafter(Protocol):
    """Guesses for one sequence. `propose` before a step, `observe` after it, `close` at the end.

    Attributes:
        drafted, accepted: tokens so far, for usage and metrics.
    """

    @property
    def drafted(self) -> int: ...
    @property
    def accepted(self) -> int: ...

    def propose(self, tokens: list[int], limit: int, sequences: int = 1) -> list[int]:
        """At most `limit` tokens that may follow, in a step of so many sequences; none when nothing
        is likely enough to pay."""
        ...

    def observe(self, drafted: int, accepted: int) -> None:
        """So many of the tokens proposed last were computed, and so many of those were right."""
        ...

    def close(self) -> None:
        """The sequence has ended: give back what was taken for it."""
        ...


class StepCost:
    """What rows cost: seconds of a decode step as a line over its rows, fitted to the last ones."""

    FADE = 0.98  # of what is known, per step: about fifty steps are remembered
    USUAL = 0.08  # of a step, per row more, before steps of different sizes were seen

    def __init__(self) -> None:
        self._n = self._rows = self._seconds = self._rows2 = self._rows_seconds = 0.0

    def observe(self, rows: int, seconds: float) -> None:
        fade = self.FADE
        self._n = self._n * fade + 1.0
        self._rows = self._rows * fade + rows
        self._seconds = self._seconds * fade + seconds
        self._rows2 = self._rows2 * fade + rows * rows
        self._rows_seconds = self._rows_seconds * fade + rows * seconds

    def step(self, rows: int = 1) -> float:
        """Seconds of a step of so many rows; 0 before any was seen."""
        if not self._n:
            return 0.0
        mean = self._seconds / self._n
        return max(0.1 * mean, mean + self._slope() * (rows - self._rows / self._n))

    def row(self, sequences: int = 1) -> float:
        """A row more, as a share of the time in which each of `sequences` gains a token: what a
        drafted token must be worth."""
        step = self.step(sequences)
        if not step or self._variance() < 0.25:
            return self.USUAL * sequences / (1.0 + self.USUAL * (sequences - 1))
        return min(1.0, max(0.005, self._slope() * sequences / step))

    def _variance(self) -> float:
        return self._rows2 / self._n - (self._rows / self._n) ** 2

    def _slope(self) -> float:
        """Seconds a row more."""
        variance, n = self._variance(), self._n
        if variance < 0.25:
            return 0.0
        return max(0.0, (self._rows_seconds / n - self._rows * self._seconds / n**2) / variance)


class Rate:
    """How often a drafted token was right after right ones. What does not pay rests, and fades to a
    prior meanwhile, so that it is tried again."""

    FADE = 0.97  # per token judged: some thirty are remembered
    REST = 64  # steps
    FORGET = 0.98  # per step of rest: a quarter is remembered after it
    WEIGHT = 2.0  # tokens that the prior counts as

    def __init__(self, prior: float) -> None:
        self._prior = prior
        self._right = self._tried = 0.0
        self._resting = 0

    @property
    def value(self) -> float:
        """0 while it rests."""
        if self._resting:
            return 0.0
        return (self._right + self.WEIGHT * self._prior) / (self._tried + self.WEIGHT)

    def observe(self, drafted: int, accepted: int) -> None:
        """The token after the right ones was wrong, if it was drafted; later ones say nothing."""
        judged = accepted + (accepted < drafted)
        fade = self.FADE**judged
        self._right = self._right * fade + accepted
        self._tried = self._tried * fade + judged

    def rest(self) -> None:
        """A step without a draft, since one would not have paid."""
        self._resting = self._resting - 1 if self._resting else self.REST
        self._right *= self.FORGET
        self._tried *= self.FORGET


def best_depth(rate: float, cost: float, most: int) -> int:
    """The depth of most tokens a second: 1 + p + … + p^d of them in 1 + cost · d of a step's time.

    >>> best_depth(0.9, 0.05, 31), best_depth(0.5, 0.05, 31), best_depth(0.05, 0.1, 31)
    (13, 3, 0)
    """
    expected, chance, depth = 1.0, rate, 0
    while depth < most and (expected + chance) * (1 + cost * depth) > expected * (
        1 + cost * (depth + 1)
    ):
        expected += chance
        chance *= rate
        depth += 1
    return depth


# n tokens that equal the last ones → how often what followed them follows again, before it is
# known for this text: two equal tokens say little.
MATCHES = {8: 0.9, 4: 0.7, 2: 0.4}
FOLLOW = 0.95  # the same for going on where the last draft came from
AGREE = 4  # tokens that must be equal there


class PromptLookup:
    """Drafts what followed an earlier occurrence of the last tokens: the place that the last draft
    came from, else the latest one of the longest match."""

    def __init__(self, cost: StepCost | None = None) -> None:
        self.drafted = 0
        self.accepted = 0
        self._cost = cost or StepCost()
        self._places: dict[int, dict[tuple[int, ...], int]] = {n: {} for n in MATCHES}
        self._rates = {n: Rate(prior) for n, prior in MATCHES.items()} | {0: Rate(FOLLOW)}
        self._indexed = 0
        self._back = 0  # how far behind the end the last draft's source was; 0: none
        self._kind = 0  # of the last proposal

    def propose(self, tokens: list[int], limit: int, sequences: int = 1) -> list[int]:
        self._index(tokens)
        self._kind, self._back = self._find(tokens)
        if not self._back:
            return []
        rate = self._rates[self._kind]
        depth = best_depth(rate.value, self._cost.row(sequences), min(limit, DEEPEST))
        if depth == 0:
            rate.rest()
            return []
        start = len(tokens) - self._back
        draft = tokens[start : start + depth]
        while len(draft) < depth:  # what repeats at the very end goes on repeating
            draft.append(draft[len(draft) - self._back])
        return draft

    def observe(self, drafted: int, accepted: int) -> None:
        if not drafted:
            return
        self.drafted += drafted
        self.accepted += accepted
        self._rates[self._kind].observe(drafted, accepted)

    def close(self) -> None:
        pass

    def _find(self, tokens: list[int]) -> tuple[int, int]:
        """(kind, distance back from the end to what may follow), distance 0 for none."""
        end = len(tokens)
        there = end - self._back
        if self._back and there >= AGREE and tokens[there - AGREE : there] == tokens[-AGREE:]:
            return 0, self._back
        for n, places in self._places.items():
            place = places.get(tuple(tokens[-n:])) if end > n else None
            if place is not None:
                return n, end - place
        return 0, 0

    def _index(self, tokens: list[int]) -> None:
        """Remember where each n-gram last ended, up to but not including the end of `tokens`."""
        for place in range(self._indexed + 1, len(tokens)):
            for n, places in self._places.items():
                if place >= n:
                    places[tuple(tokens[place - n : place])] = place
        self._indexed = max(self._indexed, len(tokens) - 1)


class FirstOf:
    """The first drafter that proposes anything; it is the one that learns how that went."""

    def __init__(self, *drafters: Drafter) -> None:
        self._drafters = drafters
        self._last: Drafter | None = None

    @property
    def drafted(self) -> int:
        return sum(each.drafted for each in self._drafters)

    @property
    def accepted(self) -> int:
        return sum(each.accepted for each in self._drafters)

    def propose(self, tokens: list[int], limit: int, sequences: int = 1) -> list[int]:
        for each in self._drafters:
            draft = each.propose(tokens, limit, sequences)
            if draft:
                self._last = each
                return draft
        return []

    def observe(self, drafted: int, accepted: int) -> None:
        if drafted and self._last is not None:
            self._last.observe(drafted, accepted)

    def close(self) -> None:
        for each in self._drafters:
            each.close()
