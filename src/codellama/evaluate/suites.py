"""Suites by name. A module is imported when one of its suites is asked for."""

from __future__ import annotations

from difflib import get_close_matches
from importlib import import_module

from codellama.errors import NotFoundError
from codellama.evaluate.asks import Model
from codellama.evaluate.data import Data
from codellama.evaluate.suite import Options, Suite

__all__ = ["SUITES", "make_suite", "suite_class"]

# Name → (module, class).
SUITES: dict[str, tuple[str, str]] = {
    "humaneval": ("programs", "HumanEval"),
    "mbpp": ("programs", "Mbpp"),
    "mbpp-instruct": ("programs", "MbppInstruct"),
}


def suite_class(name: str) -> type[Suite]:
    """Raises NotFoundError, with the nearest names."""
    if name not in SUITES:
        near = get_close_matches(name, SUITES, n=3)
        hint = f"did you mean {', '.join(near)}?" if near else "see `codellama evaluate` for all"
        raise NotFoundError(f"no suite {name!r}: {hint}")
    module, attribute = SUITES[name]
    found: type[Suite] = getattr(import_module(f"codellama.evaluate.{module}"), attribute)
    return found


def make_suite(
    name: str, data: Data, options: Options | None = None, model: Model | None = None
) -> Suite:
    """A suite, ready to run. Raises NotFoundError for a name that there is not."""
    return suite_class(name)(data, options or Options(), model)  # type: ignore[arg-type,call-arg]
