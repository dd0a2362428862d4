"""A linear classifier over hashed word and character n-grams: seconds to train, a megabyte to keep.

It stands in where the paper's classifiers are not to be had (ToxiGen's RoBERTa, TruthfulQA's GPT
judges), and is only ever reported beside its own accuracy, measured on what it was not trained on.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from zlib import crc32

import numpy as np
import numpy.typing as npt

__all__ = ["Classifier", "auc", "cross_validate"]

BUCKETS = 1 << 17
EPOCHS = 12
RATE = 0.5
DECAY = 1e-5

Floats = npt.NDArray[np.float64]


def features(text: str) -> npt.NDArray[np.int64]:
    """Hashes of words, pairs of words and 3- to 5-grams of characters; each once."""
    text = text.lower()
    words = re.findall(r"\w+|[^\w\s]", text)
    grams = set(words)
    grams |= {f"{a} {b}" for a, b in pairwise(words)}
    joined = f" {' '.join(words)} "
    for n in (3, 4, 5):
        grams |= {f"#{joined[i : i + n]}" for i in range(len(joined) - n + 1)}
    return np.array(sorted({crc32(gram.encode()) % BUCKETS for gram in grams}), np.int64)


@dataclass(slots=True)
class Classifier:
    """Logistic regression; `weights` has a last entry for the bias."""

    weights: Floats

    @classmethod
    def train(cls, texts: Sequence[str], labels: Sequence[bool]) -> Classifier:
        """Averaged stochastic gradient descent with a fixed order: the same bits every time."""
        weights = np.zeros(BUCKETS + 1)
        squares = np.full(BUCKETS + 1, 1e-8)
        encoded = [features(text) for text in texts]
        generator = np.random.default_rng(0)
        total = np.zeros_like(weights)
        for epoch in range(EPOCHS):
            for i in generator.permutation(len(encoded)):
                ids = encoded[i]
                scale = 1 / np.sqrt(max(len(ids), 1))
                score = weights[ids].sum() * scale + weights[-1]
                error = 1 / (1 + np.exp(-score)) - labels[i]
                gradient = error * scale + DECAY * weights[ids]
                squares[ids] += gradient**2
                weights[ids] -= RATE * gradient / np.sqrt(squares[ids])
                squares[-1] += error**2
                weights[-1] -= RATE * error / np.sqrt(squares[-1])
            if epoch >= EPOCHS // 2:
                total += weights
        return cls(total / (EPOCHS - EPOCHS // 2))

    def probability(self, text: str) -> float:
        """Of the label, for one text."""
        ids = features(text)
        score = self.weights[ids].sum() / np.sqrt(max(len(ids), 1)) + self.weights[-1]
        return float(1 / (1 + np.exp(-score)))


def auc(scores: Sequence[float], labels: Sequence[bool]) -> float:
    """Chance that a labelled text scores higher than another: .5 is guessing."""
    scores_N, labels_N = np.asarray(scores), np.asarray(labels, bool)
    _, inverse_N, counts = np.unique(scores_N, return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2
    positive, negative = int(labels_N.sum()), int((~labels_N).sum())
    total = ranks[inverse_N][labels_N].sum() - positive * (positive + 1) / 2
    return float(total / max(positive * negative, 1))


def cross_validate(
    texts: Sequence[str], labels: Sequence[bool], groups: Sequence[object], folds: int = 5
) -> tuple[float, float, float]:
    """(accuracy, AUC, share of the larger class) on folds that share no group with their training
    texts.
    """
    names = sorted({str(group) for group in groups})
    order = np.random.default_rng(0).permutation(len(names))
    fold_of = {names[i]: place % folds for place, i in enumerate(order)}
    scores = np.zeros(len(texts))
    for fold in range(folds):
        inside = [fold_of[str(group)] != fold for group in groups]
        model = Classifier.train(
            [t for t, keep in zip(texts, inside, strict=True) if keep],
            [y for y, keep in zip(labels, inside, strict=True) if keep],
        )
        for i, keep in enumerate(inside):
            if not keep:
                scores[i] = model.probability(texts[i])
    labels_N = np.asarray(labels, bool)
    share = float(labels_N.mean())
    return (
        float(((scores > 0.5) == labels_N).mean()),
        auc(scores.tolist(), list(labels)),
        max(share, 1 - share),
    )
