"""Whether values that callers gave are what they must be, by the name of the field.

Each raises RequestError with one line that says what the field is and what it must be. Knows no
field.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from codellama.errors import RequestError

__all__ = ["biases", "flag", "ids", "integer", "number", "texts"]

LARGEST_BIAS = 1e4  # far beyond any logit; sums stay finite in float32


def number(name: str, value: float, low: float, high: float) -> None:
    numeric = isinstance(value, int | float) and not isinstance(value, bool)
    if not numeric or not low <= value <= high:  # NaN is in no range
        raise RequestError(f"{name} is {value!r}: it must be a number from {low:g} to {high:g}")


def integer(
    name: str, value: int | None, low: int, high: int | None = None, *, optional: bool = False
) -> None:
    if value is None and optional:
        return
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or value is None or value < low or (high is not None and value > high):
        bound = f"from {low} up" if high is None else f"from {low} to {high}"
        none = " or None" if optional else ""
        raise RequestError(f"{name} is {value!r}: it must be an integer {bound}{none}")


def flag(name: str, value: object, *, optional: bool = False) -> None:
    if not isinstance(value, bool) and not (optional and value is None):
        raise RequestError(
            f"{name} is {value!r}: it must be True{', False or None' if optional else ' or False'}"
        )


def texts(name: str, value: object) -> tuple[str, ...]:
    given = (value,) if isinstance(value, str) else value
    if not isinstance(given, Iterable):
        raise RequestError(f"{name} is {value!r}: it must be a text or a list of texts")
    found = tuple(given)
    if not all(isinstance(text, str) and text for text in found):
        raise RequestError(f"{name} is {value!r}: each must be a non-empty text")
    return found


def biases(name: str, value: object) -> tuple[tuple[int, float], ...]:
    pairs = value.items() if isinstance(value, Mapping) else value
    try:
        found = {id: float(bias) for id, bias in pairs}  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        raise RequestError(f"{name}: it must be token ids with numbers") from None
    for id, bias in found.items():
        whole = isinstance(id, int) and not isinstance(id, bool) and id >= 0
        if not whole or not (bias == float("-inf") or abs(bias) <= LARGEST_BIAS):
            raise RequestError(
                f"{name} is {bias!r} for {id!r}: it must be a number from {-LARGEST_BIAS:g} to "
                f"{LARGEST_BIAS:g}, or -inf, for a token id"
            )
    return tuple(sorted(found.items()))


def ids(name: str, value: object) -> frozenset[int]:
    found = frozenset(value) if isinstance(value, Iterable) and not isinstance(value, str) else None
    if found is None or not all(
        isinstance(id, int) and not isinstance(id, bool) and id >= 0 for id in found
    ):
        raise RequestError(f"{name} is {value!r}: it must be a list of token ids")
    return found
