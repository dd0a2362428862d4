"""BLEU-4 and edit similarity of short texts (Papineni et al. 2002; smoothing of Lin and Och 2004,
as CodeXGLUE uses it)."""

from __future__ import annotations

import re
from collections import Counter
from difflib import SequenceMatcher
from math import exp, log

__all__ = ["edit_similarity", "sentence_bleu", "words"]


def words(text: str) -> list[str]:
    """Words and signs apart: "f(x)." → ["f", "(", "x", ")", "."]."""
    return re.findall(r"\w+|[^\w\s]", text)


def sentence_bleu(candidate: str, reference: str) -> float:
    """From 0 to 100; one is added to the counts of 2- to 4-grams, so that short lines have a score.

    >>> sentence_bleu("return the sum", "return the sum")
    100.0
    """
    ours, theirs = words(candidate), words(reference)
    if not ours or not theirs:
        return 0.0
    total = 0.0
    for n in range(1, 5):
        have, want = _ngrams(ours, n), _ngrams(theirs, n)
        matches = sum((have & want).values())
        count = max(len(ours) - n + 1, 0)
        if n > 1:
            matches, count = matches + 1, count + 1
        if not matches:
            return 0.0
        total += log(matches / count) / 4
    brevity = min(0.0, 1 - len(theirs) / len(ours))
    return round(100 * exp(total + brevity), 6)


def edit_similarity(a: str, b: str) -> float:
    """From 0 to 1: how much of two texts is the same, in order."""
    return SequenceMatcher(None, a, b, autojunk=False).ratio()


def _ngrams(tokens: list[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))
