"""Prompt lookup proposes what followed last time, and stops when that does not pay."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from codellama.engine.speculate import MATCHES, PAUSE, WINDOW, PromptLookup

DEEPEST = MATCHES[0][1]


def test_it_proposes_what_followed_the_same_tokens() -> None:
    assert PromptLookup().propose([1, 2, 3, 4, 5, 9, 1, 2], 16) == [3, 4, 5, 9]
    assert PromptLookup().propose([1, 2, 3, 4, 5, 9, 1, 2], 2) == [3, 4]
    assert PromptLookup().propose([1, 2, 3], 16) == []


def test_the_longest_match_wins_then_the_latest() -> None:
    tokens = [1, 2, 3, 4, 50, 3, 4, 60, 1, 2, 3, 4]
    assert PromptLookup().propose(tokens, 1) == [50], "four tokens match there, two at 60"
    assert PromptLookup().propose([3, 4, 50, 3, 4, 60, 9, 3, 4], 1) == [60]


def test_long_matches_draft_deeply() -> None:
    tokens = list(range(40)) * 2
    assert len(PromptLookup().propose(tokens, 100)) == DEEPEST
    assert len(PromptLookup().propose([*range(40), 99, 10, 11], 100)) == MATCHES[-1][1]


@given(st.lists(st.integers(0, 3), min_size=1, max_size=80), st.integers(1, 20))
@settings(deadline=None)
def test_growing_a_sequence_gives_the_same_as_seeing_it_whole(
    tokens: list[int], limit: int
) -> None:
    grown = PromptLookup()
    for end in range(1, len(tokens) + 1):
        draft = grown.propose(tokens[:end], limit)
    assert draft == PromptLookup().propose(tokens, limit)
    assert len(draft) <= limit


def test_depth_follows_acceptance() -> None:
    lookup = PromptLookup()
    tokens = list(range(40)) * 2
    lookup.observe(16, 3, len(tokens))
    assert len(lookup.propose(tokens, 100)) == 4
    lookup.observe(4, 4, len(tokens))
    assert len(lookup.propose(tokens, 100)) == 8


def test_it_pauses_while_drafts_are_wrong_and_tries_again() -> None:
    lookup = PromptLookup()
    tokens = list(range(40)) * 2
    steps = 0
    while lookup.propose(tokens, 100):
        lookup.observe(len(lookup.propose(tokens, 100)), 0, len(tokens))
        steps += 1
        assert steps < WINDOW
    assert lookup.propose(list(range(40)) * 4, 100), f"{PAUSE} tokens later it tries again"


def test_it_goes_on_while_drafts_are_right() -> None:
    lookup = PromptLookup()
    tokens = list(range(40)) * 2
    for _ in range(100):
        draft = lookup.propose(tokens, 100)
        assert draft
        lookup.observe(len(draft), len(draft), len(tokens))
    assert lookup.accepted == lookup.drafted == 100 * DEEPEST
