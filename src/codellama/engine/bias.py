"""Tokens that an answer may never hold, as a Constraint, alone or on top of another one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from codellama.engine.request import Constraint

__all__ = ["Biased"]

Mask = npt.NDArray[np.bool_]


class Biased:
    """Allows what `inner` allows (all, without one) but for the `banned` ids."""

    def __init__(
        self, banned: Sequence[int], vocab_size: int, inner: Constraint | None = None
    ) -> None:
        self._allowed_V: Mask = np.ones(vocab_size, np.bool_)
        self._allowed_V[list(banned)] = False
        self._inner = inner

    def __call__(self, output: list[int]) -> Mask:
        inner_V = self._inner(output) if self._inner is not None else None
        return self._allowed_V if inner_V is None else self._allowed_V & inner_V
