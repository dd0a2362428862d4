"""Fixtures of all tests: where real weights and evaluation data are, or why a test is skipped."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# No test fails for a slow machine: examples are bounded by their number alone.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

SMOLLM2_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Evaluation data and tokenizer vectors, beside the checkout and not part of it."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("CODELLAMA_DATA", beside))
    if not folder.is_dir():
        pytest.skip("no shared/data beside the checkout")
    return folder


@pytest.fixture(scope="session")
def smollm2_path() -> Path:
    """The embedded default model's GGUF, as `make setup` brings it into the local store."""
    store = os.environ.get("CODELLAMA_MODELS", str(Path.home() / ".cache" / "codellama" / "models"))
    path = Path(store) / SMOLLM2_FILE
    if not path.is_file():
        pytest.skip("the embedded default model is not in the store: run `make setup`")
    return path
