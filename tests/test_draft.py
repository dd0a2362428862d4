"""CodeLlama.load with a draft model: the same text; another vocabulary is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from codellama import CodeLlama
from codellama.errors import RequestError
from codellama.model.config import ModelConfig
from random_model import write_random

LARGE = ModelConfig(
    name="large", dim=64, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=16, ffn_dim=96,
    vocab_size=320, context=256,
)  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("draft")
    small = replace(LARGE, name="small", n_layers=1, context=64)
    shapes = {"large": LARGE, "small": small, "other": replace(small, vocab_size=352)}
    for name, config in shapes.items():
        write_random(folder / f"{name}.gguf", config, "Q8_0")
    return {name: folder / f"{name}.gguf" for name in shapes}


def test_the_text_is_the_same(files: dict[str, Path]) -> None:
    alone = CodeLlama.load(files["large"], threads=1)
    for draft in ("small", "large"):
        llm = CodeLlama.load(files["large"], draft=files[draft], threads=1)
        for params in ({}, {"temperature": 1.0, "seed": 3}):
            got = llm.complete([5, 6, 7], max_tokens=90, ignore_eos=True, **params)
            want = alone.complete([5, 6, 7], max_tokens=90, ignore_eos=True, **params)
            assert got == want
            assert got.usage.drafted_tokens >= got.usage.accepted_tokens
            assert want.usage.drafted_tokens == 0


def test_a_model_drafts_rightly_for_itself(files: dict[str, Path]) -> None:
    """Greedy: what it drafts is what it says, but where rounding of other shapes parts them."""
    llm = CodeLlama.load(files["large"], draft=files["large"], threads=1)
    usage = llm.complete([5, 6, 7], max_tokens=60, ignore_eos=True).usage
    assert usage.drafted_tokens > 0
    assert usage.accepted_tokens >= 0.4 * usage.drafted_tokens, "lookup drafts, too, and may miss"


def test_int8_caches_are_both_models(files: dict[str, Path]) -> None:
    alone = CodeLlama.load(files["large"], threads=1, device="cpu", kv_type="q8_0")
    llm = CodeLlama.load(
        files["large"], draft=files["small"], threads=1, device="cpu", kv_type="q8_0"
    )
    for params in ({}, {"temperature": 1.0, "seed": 3}):
        got = llm.complete([5, 6, 7], max_tokens=90, ignore_eos=True, **params)
        assert got == alone.complete([5, 6, 7], max_tokens=90, ignore_eos=True, **params)
    with pytest.raises(RequestError, match="kv_type is 'q4_0'"):
        CodeLlama.load(files["large"], kv_type="q4_0")


def test_another_vocabulary(files: dict[str, Path]) -> None:
    with pytest.raises(RequestError, match="cannot draft: its vocabulary is not the large"):
        CodeLlama.load(files["large"], draft=files["other"], threads=1)
