"""Checked access to the numbers of a JSON configuration (config.json, params.json).

Knows the ranges that no model leaves, so that a hostile file cannot ask for senseless work.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from codellama.errors import ModelFileError

__all__ = ["Numbers"]

_MAX_SIZE = 1 << 24  # of a width or a vocabulary


class Numbers:
    """Reads numbers from `table`; a null counts as absent; `path` names the file in errors.

    Every method raises ModelFileError when the number is absent without a default, of another type,
    or out of range.
    """

    def __init__(self, table: Mapping[str, Any], path: Path) -> None:
        self._table = table
        self._path = path

    def whole(self, key: str, default: int | None = None, *, most: int = _MAX_SIZE) -> int:
        """A whole number from 1 to `most`."""
        value = self._value(key, default)
        if type(value) is not int or not 0 < value <= most:
            raise ModelFileError(f"{self._path}: {key} must be a whole number from 1 to {most:,}")
        return value

    def real(self, key: str, default: float | None = None) -> float:
        """A positive number below 10³⁰."""
        value = self._value(key, default)
        if type(value) not in (int, float) or not 0 < value < 1e30:
            raise ModelFileError(f"{self._path}: {key} must be a positive number")
        return float(value)

    def _value(self, key: str, default: float | None) -> Any:
        value = self._table.get(key)
        if value is None:
            value = default
        if value is None:
            raise ModelFileError(f"{self._path}: {key} is missing")
        return value
