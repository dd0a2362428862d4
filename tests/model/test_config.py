"""The published family: numbers of the paper, of the checkpoints and of their model cards."""

from __future__ import annotations

from dataclasses import replace

import pytest

from codellama.errors import RequestError
from codellama.model.config import PUBLISHED, ffn_hidden, kv_type_of

# size: dim, layers, heads, kv heads, ffn, parameters with 32,016 or (34B) 32,000 tokens
SIZES = {
    "7b": (4096, 32, 32, 32, 11008, 6_738_546_688),
    "13b": (5120, 40, 40, 40, 13824, 13_016_028_160),
    "34b": (8192, 48, 64, 8, 22016, 33_743_970_304),
    "70b": (8192, 80, 64, 8, 28672, 68_976_910_336),
}
# variant: vocabulary, rope_theta, context, infills
VARIANTS = {
    "codellama:7b-code": (32016, 1e6, 16384, True),
    "codellama:13b-instruct": (32016, 1e6, 16384, True),
    "codellama:7b-python": (32000, 1e6, 16384, False),
    "codellama:34b-code": (32000, 1e6, 16384, False),
    "codellama:34b-instruct": (32000, 1e6, 16384, False),
    "codellama:70b-code": (32016, 1e6, 16384, True),
    "codellama:70b-python": (32016, 1e4, 4096, False),
    "codellama:70b-instruct": (32016, 1e4, 4096, True),
    "llama2:7b": (32000, 1e4, 4096, False),
    "smollm2:135m": (49152, 1e5, 8192, False),
}


@pytest.mark.parametrize("size", SIZES)
def test_shapes(size: str) -> None:
    config = PUBLISHED[f"codellama:{size}-code"]
    numbers = (config.dim, config.n_layers, config.n_heads, config.n_kv_heads, config.ffn_dim)
    assert (*numbers, config.n_parameters) == SIZES[size]
    assert config.head_dim == 128
    assert not config.tied


@pytest.mark.parametrize("name", VARIANTS)
def test_variants(name: str) -> None:
    config = PUBLISHED[name]
    assert VARIANTS[name] == (
        config.vocab_size, config.rope_theta, config.context, config.infills,
    )  # fmt: skip


def test_the_family_is_whole() -> None:
    assert len(PUBLISHED) == 4 + 12 + 1
    assert PUBLISHED["smollm2:135m"].n_parameters == 134_515_008
    assert PUBLISHED["llama2:7b"].n_parameters == 6_738_415_616


def test_cache_sizes() -> None:
    """Bytes a token in bf16, as the fact sheet has them."""
    sizes = [PUBLISHED[f"codellama:{s}-code"].kv_bytes(1) for s in SIZES]
    assert sizes == [524_288, 819_200, 196_608, 327_680]
    assert PUBLISHED["codellama:7b-code"].kv_bytes(1, "q8_0") == 2 * 32 * 32 * (128 + 4)
    assert PUBLISHED["smollm2:135m"].kv_bytes(2, "q8_0") == 2 * 2 * 30 * 3 * 68


def test_kinds_of_cache_by_name() -> None:
    assert kv_type_of("q8_0") == "q8_0"
    with pytest.raises(RequestError, match=r"OLLAMA_KV_CACHE_TYPE is 'q4_0': .* f16 or q8_0"):
        kv_type_of("q4_0", "OLLAMA_KV_CACHE_TYPE")


@pytest.mark.parametrize(
    "change",
    [{"dim": 0}, {"n_kv_heads": 5}, {"head_dim": 3}, {"rope_theta": 0.0}, {"norm_eps": -1.0}],
)
def test_contradictions_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"must be|cannot|odd"):
        replace(PUBLISHED["codellama:7b-code"], **change)


def test_ffn_width() -> None:
    assert ffn_hidden(8192, 256) == 22016
