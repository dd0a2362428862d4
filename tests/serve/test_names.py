"""Which local model answers for `codellama`, where nobody has that name."""

from __future__ import annotations

from pathlib import Path

import pytest

from codellama.errors import NotFoundError
from codellama.hub import ModelInfo
from codellama.hub.layout import ModelEntry
from codellama.serve import names
from codellama.serve.names import Names

ORDER = ("codellama:13b", "starcoder:1b", "codellama-smol:135m", "smollm2:135m")
"""Best first: Code Llama, another model for code, the one that ships, any."""


@pytest.mark.parametrize("count", range(1, len(ORDER) + 1))
def test_the_best_local_model_answers(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    here = ORDER[-count:]
    entries = [ModelEntry(name, 1, float(at), "gguf", "store") for at, name in enumerate(here)]

    def info(name: str) -> ModelInfo:
        if name not in here:
            raise NotFoundError(name)
        return ModelInfo(name, Path(name), 1, 0.0, "gguf", "store")

    monkeypatch.setattr(names, "list_models", lambda: entries)
    monkeypatch.setattr(names, "info", info)
    found = Names().resolve("codellama")
    assert found.info.name == here[0] and here[0] in found.notice
