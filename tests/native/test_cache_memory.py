"""The cache in memory: a block is where it belongs, and what no sequence reached takes no room."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from codellama.native import BLOCK_SIZE, NativeModel, Shape

SHAPE = Shape(
    dim=32, n_layers=2, n_heads=8, n_kv_heads=8, head_dim=64, ffn_dim=32, vocab_size=20,
    norm_eps=1e-5, rope_theta=1e4,
)  # fmt: skip
PART = {"wq": (512, 32), "wk": (512, 32), "wv": (512, 32), "wo": (32, 512)}
FFN = dict.fromkeys(("w1", "w2", "w3"), (32, 32))


@pytest.fixture
def model() -> NativeModel:
    """Random float32 weights, two layers of eight heads: 4 KB a position."""
    random = np.random.default_rng(0)
    model = NativeModel(SHAPE, n_threads=2)
    sizes = {"tok_embeddings": (20, 32)}
    for layer in range(SHAPE.n_layers):
        sizes |= {f"layers.{layer}.attention.{name}": size for name, size in PART.items()}
        sizes |= {f"layers.{layer}.feed_forward.{name}": size for name, size in FFN.items()}
        for norm in ("attention_norm", "ffn_norm"):
            model.add_norm(f"layers.{layer}.{norm}.weight", np.ones(32, np.float32))
    model.add_norm("norm.weight", np.ones(32, np.float32))
    for name, size in sizes.items():
        values = random.normal(size=size).astype(np.float32)
        model.add_matrix(f"{name}.weight", 0, size, values.reshape(-1).view(np.uint8))
    model.finish()
    return model


def step(model: NativeModel, tokens: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Logits after these tokens."""
    n = len(tokens)
    starts, last = np.array([0, n], np.int32), np.array([n - 1], np.int32)
    return model.step(tokens, starts, np.zeros(1, np.int32), table[None], last)


def resident() -> int:
    """Bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="there is no /proc/self/statm")
def test_memory_is_taken_as_sequences_grow(model: NativeModel) -> None:
    """128 MB of cache, one token: 16 MB at most, even where pages are of 2 MB."""
    model.allocate_cache(32_768 // BLOCK_SIZE)
    assert model.cache_bytes == 128 << 20
    before = resident()
    step(model, np.zeros(1, np.int32), np.zeros(1, np.int32))
    assert resident() - before < 16 << 20


@pytest.mark.parametrize("kv_type", ["f16", "q8_0"])
def test_no_two_blocks_share_a_byte(model: NativeModel, kv_type: str) -> None:
    model.allocate_cache(50, kv_type)
    for block in range(50):
        model.write_block(block, np.full(model.block_bytes, block + 1, np.uint8))
    model.copy_block(2, 49)
    out = np.empty(model.block_bytes, np.uint8)
    for block in range(50):
        model.read_block(block, out)
        assert (out == (3 if block == 49 else block + 1)).all()


def test_where_blocks_lie_changes_no_bit(model: NativeModel) -> None:
    """600 tokens in blocks of one place after the other, and all over the cache."""
    tokens = np.random.default_rng(1).integers(0, 20, 600).astype(np.int32)
    order = np.random.default_rng(2).permutation(80)[:38].astype(np.int32)
    found = []
    for table in (np.arange(38, dtype=np.int32), order):
        model.allocate_cache(80)
        found.append(step(model, tokens, table).copy())
    np.testing.assert_array_equal(*found)
