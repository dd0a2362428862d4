"""The public surface: what `codellama` exports, that it is typed and documented, and what importing
it costs.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

import codellama
from codellama import errors

SURFACE = {
    "CodeLlama",
    "Completion",
    "SamplingParams",
    "TextIterator",
    "TokenLogprob",
    "Usage",
    "__version__",
}


def test_the_surface_is_stated() -> None:
    assert set(codellama.__all__) == SURFACE | set(errors.__all__)
    assert sorted(codellama.__all__) == dir(codellama)


@pytest.mark.parametrize("name", sorted(SURFACE | set(errors.__all__)))
def test_every_name_is_there_and_says_what_it_is(name: str) -> None:
    value = getattr(codellama, name)
    assert isinstance(value, str) or (value.__doc__ and value.__module__.startswith("codellama."))


def test_other_names_are_not() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Engine'"):
        _ = codellama.Engine  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "name", ["complete", "infill", "chat", "stream", "embed", "logits", "load"]
)
def test_methods_are_documented(name: str) -> None:
    assert getattr(codellama.CodeLlama, name).__doc__


def test_importing_loads_nothing() -> None:
    """Not even NumPy: a command line that prints its version should not wait."""
    code = "import sys, codellama; print([m for m in ('numpy', 'torch') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
