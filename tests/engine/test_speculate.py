"""Prompt lookup proposes what followed last time, as deep as pays; what steps cost is measured."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codellama.engine.speculate import (
    DEEPEST,
    MATCHES,
    FirstOf,
    PromptLookup,
    Rate,
    StepCost,
    best_depth,
)


def free() -> StepCost:
    """Rows cost nothing: drafts are as deep as they can be."""
    cost = StepCost()
    for rows in (1, 8) * 50:
        cost.observe(rows, 1.0)
    return cost


def test_it_proposes_what_followed_the_same_tokens() -> None:
    assert PromptLookup(free()).propose([1, 2, 3, 4, 5, 9, 1, 2], 4) == [3, 4, 5, 9]
    assert PromptLookup(free()).propose([1, 2, 3, 4, 5, 9, 1, 2], 2) == [3, 4]
    assert PromptLookup().propose([1, 2, 3], 16) == []


def test_the_longest_match_wins_then_the_latest() -> None:
    tokens = [1, 2, 3, 4, 50, 3, 4, 60, 1, 2, 3, 4]
    assert PromptLookup().propose(tokens, 1) == [50], "four tokens match there, two at 60"
    assert PromptLookup().propose([3, 4, 50, 3, 4, 60, 9, 3, 4], 1) == [60]


def test_long_matches_draft_more_deeply() -> None:
    long = PromptLookup().propose(list(range(40)) * 2, 100)
    short = PromptLookup().propose([*range(40), 99, 10, 11], 100)
    assert long == list(range(len(long)))
    assert 0 < len(short) < len(long) <= DEEPEST


def test_a_loop_at_the_end_goes_on() -> None:
    draft = PromptLookup(free()).propose([9, *[1, 2, 3] * 4], 10)
    assert draft == [1, 2, 3, 1, 2, 3, 1, 2, 3, 1]


def test_it_goes_on_where_the_last_draft_came_from() -> None:
    """A boilerplate of four tokens comes twice; after a replaced token the first place is right."""
    boiler = [1, 2, 3, 4]
    source = [5, 6, 7, 8, *boiler, 10, 11, 12, 13, 14, *boiler, 20, 21, 22, *boiler, 30, 31]
    lookup = PromptLookup(free())
    tokens = [*source, 99, 5, 6, 7, 8, *boiler]
    assert lookup.propose(tokens, 3) == [10, 11, 12], "eight tokens match at the first place"
    lookup.observe(3, 3)
    tokens += [10, 11, 12, 13, 77, *boiler]  # 14 was replaced
    assert lookup.propose(tokens, 3) == [20, 21, 22], "the latest place says 30"


@given(st.lists(st.integers(0, 3), min_size=1, max_size=80), st.integers(1, 20))
def test_growing_a_sequence_gives_the_same_as_seeing_it_whole(
    tokens: list[int], limit: int
) -> None:
    """Of the places where n-grams ended; which one a draft comes from may depend on the last."""
    grown, whole = PromptLookup(), PromptLookup()
    for end in range(1, len(tokens) + 1):
        draft = grown.propose(tokens[:end], limit)
        assert len(draft) <= limit
    whole.propose(tokens, limit)
    assert grown._places == whole._places


def depth_after(*observed: tuple[int, int]) -> int:
    """Of an eight-token match, after drafts of which so many tokens were right."""
    lookup = PromptLookup()
    tokens = list(range(40)) * 2
    for drafted, accepted in observed:
        assert lookup.propose(tokens, 100)
        lookup.observe(drafted, accepted)
        tokens += [1000 + len(tokens), *range(8)]
    return len(lookup.propose(tokens, 100))


def test_depth_follows_acceptance() -> None:
    assert 0 < depth_after((10, 0)) < depth_after() < depth_after(*[(31, 31)] * 5)


def test_it_gives_up_while_drafts_are_wrong_and_tries_again() -> None:
    lookup = PromptLookup()
    tokens = list(range(40)) * 2
    steps = 0
    while draft := lookup.propose(tokens, 100):
        lookup.observe(len(draft), 0)
        steps += 1
        assert steps < 100
    waited = 0
    while not lookup.propose(tokens, 100):
        waited += 1
        assert waited <= Rate.REST
    assert waited == Rate.REST


@given(st.floats(0, 0.999), st.floats(0.001, 1), st.integers(0, 31))
def test_the_best_depth_is_the_best(rate: float, cost: float, most: int) -> None:
    def speed(depth: int) -> float:
        return sum(rate**i for i in range(depth + 1)) / (1 + cost * depth)

    best = max(speed(depth) for depth in range(most + 1))
    assert speed(best_depth(rate, cost, most)) == pytest.approx(best, rel=1e-9)


def test_step_costs_are_a_line() -> None:
    cost = StepCost()
    assert (cost.step(), cost.row()) == (0.0, StepCost.USUAL)
    for rows in (1, 1, 4, 1, 8, 2) * 20:
        cost.observe(rows, 0.010 + 0.0005 * rows)
    assert cost.step(1) == pytest.approx(0.0105)
    assert cost.step(16) == pytest.approx(0.018)
    assert cost.row(1) == pytest.approx(0.0005 / 0.0105)
    assert cost.row(8) == pytest.approx(0.0005 * 8 / 0.014), "others wait for the row, too"


def test_step_costs_follow_the_machine() -> None:
    cost = StepCost()
    for seconds in (1.0, 0.1):
        for _ in range(300):
            cost.observe(1, seconds)
    assert cost.step(1) == pytest.approx(0.1, rel=0.05)
    assert cost.row() == StepCost.USUAL, "rows of one size tell nothing about a row more"


def test_a_rate_starts_at_its_prior_and_rests_back_to_it() -> None:
    rate = Rate(0.8)
    assert rate.value == pytest.approx(0.8)
    for _ in range(20):
        rate.observe(5, 0)
    low = rate.value
    assert low < 0.3
    rate.rest()
    assert rate.value == 0.0
    for _ in range(Rate.REST):
        rate.rest()
    assert low < 0.5 * rate.value < 0.5 * 0.8


def test_the_first_that_proposes_learns() -> None:
    class Fixed:
        def __init__(self, draft: list[int]) -> None:
            self.draft, self.drafted, self.accepted, self.closed = draft, 0, 0, False

        def propose(self, tokens: list[int], limit: int, sequences: int = 1) -> list[int]:
            return self.draft[:limit]

        def observe(self, drafted: int, accepted: int) -> None:
            self.drafted, self.accepted = drafted, accepted

        def close(self) -> None:
            self.closed = True

    silent, loud = Fixed([]), Fixed([1, 2, 3])
    both = FirstOf(silent, loud)
    assert both.propose([0], 2) == [1, 2]
    both.observe(2, 1)
    assert (both.drafted, both.accepted, silent.drafted) == (2, 1, 0)
    both.close()
    assert silent.closed and loud.closed


def test_every_kind_of_match_has_a_prior() -> None:
    assert sorted(MATCHES) == sorted(MATCHES, key=lambda n: MATCHES[n])
