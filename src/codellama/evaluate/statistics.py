"""pass@k without bias, and how sure it is: bootstrap confidence intervals over problems."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["bootstrap", "mean", "pass_at_k"]

RESAMPLES = 1000
SEED = 2308_12950  # the paper's number: any fixed seed makes intervals repeatable


def pass_at_k(n: int, passed: int, k: int) -> float:
    """Chance that at least one of k samples, drawn from n of which some passed, is among these.

    1 − C(n − c, k) / C(n, k), as a product that does not overflow (Chen et al. 2021).

    >>> pass_at_k(10, 3, 1)
    0.3
    """
    assert 0 <= passed <= n and 1 <= k <= n
    if n - passed < k:
        return 1.0
    fractions = 1.0 - k / np.arange(n - passed + 1, n + 1)
    return round(float(1.0 - np.prod(fractions)), 12)


def mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else 0.0


def bootstrap(
    values: Sequence[float],
    statistic: Callable[[npt.NDArray[np.float64]], float] | None = None,
) -> tuple[float, float]:
    """The central 95 % of a statistic (default: mean) over problems drawn with replacement.

    It tells how the score varies with the choice of problems, not with seeds or prompts.
    """
    if not len(values):
        return (0.0, 0.0)
    values_N = np.asarray(values, np.float64)
    generator = np.random.default_rng(SEED)
    picks_RN = generator.integers(0, len(values_N), (RESAMPLES, len(values_N)))
    if statistic is None:
        drawn_R = values_N[picks_RN].mean(axis=1)
    else:
        drawn_R = np.array([statistic(values_N[picks_N]) for picks_N in picks_RN])
    low, high = np.percentile(drawn_R, [2.5, 97.5])
    return (float(low), float(high))
