"""Attention over a cache of either type, against float64 over the numbers that the cache holds, on
every instruction set of the machine.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import codellama.native._native as _native
from codellama.model.config import KV_TYPES
from codellama.native import available_isas
from native_support import KV_CEILINGS, UNIT_ATTENTION, UNITS

ISAS = available_isas()


@dataclass(frozen=True)
class Case:
    """Random queries, keys and values, and where the blocks lie."""

    tokens: int
    positions: int
    heads: int
    kv_heads: int
    head_dim: int

    def draw(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        rng = np.random.default_rng(self.positions)
        q = rng.normal(size=(self.tokens, self.heads, self.head_dim)) / self.head_dim**0.5
        k, v = rng.normal(size=(2, self.positions, self.kv_heads, self.head_dim))
        k[..., 1] *= 12  # rotated keys have a few large dimensions
        table = rng.permutation(-(-self.positions // 16) + 3)[: -(-self.positions // 16)]
        return (
            q.astype(np.float32),
            k.astype(np.float32),
            v.astype(np.float32),
            table.astype(np.int32),
        )


CASES = [
    Case(tokens=1, positions=1, heads=1, kv_heads=1, head_dim=2),
    Case(tokens=1, positions=17, heads=4, kv_heads=2, head_dim=10),
    Case(tokens=3, positions=16, heads=6, kv_heads=2, head_dim=16),
    Case(tokens=5, positions=530, heads=9, kv_heads=3, head_dim=64),
    Case(tokens=1, positions=1100, heads=5, kv_heads=5, head_dim=128),
    Case(tokens=40, positions=575, heads=3, kv_heads=1, head_dim=24),
    Case(tokens=7, positions=513, heads=8, kv_heads=1, head_dim=80),
    Case(tokens=2, positions=33, heads=2, kv_heads=2, head_dim=256),
]
cases = pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c.head_dim}x{c.positions}")


def mixed(x: np.ndarray) -> np.ndarray:
    """Heads times the Hadamard matrix; the kernels' additions in their order, so the same bits:
    up to 16 numbers one by one, wider blocks by sums and differences.
    """
    width = x.shape[-1] & -x.shape[-1]
    narrow = min(width, 16)
    signs = np.ones((1, 1), np.float32)
    while len(signs) < narrow:
        signs = np.block([[signs, signs], [signs, -signs]])
    parts = x.reshape(-1, narrow)
    x = sum(parts[:, j, None] * signs[j] for j in range(narrow)).reshape(x.shape)
    for half in (h for h in (16, 32, 64, 128) if h < width):
        pairs = x.reshape(-1, 2, half)
        x = np.stack([pairs[:, 0] + pairs[:, 1], pairs[:, 0] - pairs[:, 1]], 1).reshape(x.shape)
    return x * (np.float32(1) / np.sqrt(np.float32(width)))


def in_q8(x: np.ndarray) -> np.ndarray:
    """What int8 with a scale per position and head makes of it, in float64."""
    largest = np.abs(x).max(axis=-1, keepdims=True)
    codes = np.rint(x * (np.float32(127) / largest))
    return codes.astype(np.float64) * (largest / np.float32(127))


def attention(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    """The slow, obvious version: [T, N, H] of the last T positions, in float64."""
    q, k, v = (x.astype(np.float64) for x in (q, k, v))
    group = q.shape[1] // k.shape[1]
    out = np.empty_like(q)
    for t, seen in enumerate(range(len(k) - len(q) + 1, len(k) + 1)):
        for n in range(q.shape[1]):
            scores = k[:seen, n // group] @ q[t, n]
            weights = np.exp(scores - scores.max())
            out[t, n] = weights @ v[:seen, n // group] / weights.sum()
    return out


def kernels(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, table: np.ndarray, kv_type: str, isa: str,
    on_unit: bool = False,
) -> np.ndarray:  # fmt: skip
    out = np.empty_like(q)
    _native.cached_attention(q, k, v, table, out, kv_type, isa, on_unit)
    return out


def relative(got: np.ndarray, want: np.ndarray) -> float:
    return float(np.sqrt(((got - want) ** 2).mean() / (want**2).mean()))


@cases
@pytest.mark.parametrize("isa", ISAS)
def test_f16(case: Case, isa: str) -> None:
    q, k, v, table = case.draw()
    want = attention(q, k.astype(np.float16), v.astype(np.float16))
    assert relative(kernels(q, k, v, table, "f16", isa), want) < 2e-6


@cases
@pytest.mark.parametrize("isa", ISAS)
def test_q8_0(case: Case, isa: str) -> None:
    """No error but float32's beside the codes: mixing, scales and their places are exact."""
    q, k, v, table = case.draw()
    want = attention(mixed(q), in_q8(mixed(k)), in_q8(v))
    assert relative(kernels(q, k, v, table, "q8_0", isa), want) < 2e-6


@pytest.mark.skipif(not UNITS, reason="no matrix unit on this machine")
@pytest.mark.parametrize("isa", UNITS)
@pytest.mark.parametrize("kv_type", KV_TYPES)
@cases
def test_on_a_matrix_unit(case: Case, kv_type: str, isa: str) -> None:
    q, k, v, table = case.draw()
    if kv_type == "f16":
        want = attention(q, k.astype(np.float16), v.astype(np.float16))
    else:
        want = attention(mixed(q), in_q8(mixed(k)), in_q8(v))
    got = kernels(q, k, v, table, kv_type, isa, on_unit=True)
    assert relative(got, want) < UNIT_ATTENTION.get(isa, 0.015)


@pytest.mark.skipif(not UNITS, reason="no matrix unit on this machine")
@pytest.mark.parametrize("isa", UNITS)
@pytest.mark.parametrize("head_dim", [64, 128])
def test_the_largest_sums_on_a_matrix_unit(head_dim: int, isa: str) -> None:
    """Keys, queries and values of one magnitude each and equal probabilities: every word is as
    large as it gets, and so is every sum of words.
    """
    q, k, v, table = Case(20, 520, 2, 1, head_dim).draw()
    q[:], k[:], v[:] = 3.0, -5.0, 1.9990234375
    np.testing.assert_allclose(
        kernels(q, k, v, table, "f16", isa, on_unit=True), v[0, 0, 0], rtol=4e-3
    )
    v[:, :, 0] *= 0.25  # and where sums differ
    got = kernels(q, k, v, table, "f16", isa, on_unit=True)
    np.testing.assert_allclose(got[..., 0], v[0, 0, 0], rtol=4e-3)


@pytest.mark.skipif(not UNITS, reason="no matrix unit on this machine")
@pytest.mark.parametrize("isa", UNITS)
def test_a_sink_of_tiny_values_on_a_matrix_unit(isa: str) -> None:
    """Nearly all of the attention goes to a position whose values are next to nothing: what is left
    is the others', and has to be as exact as ever.
    """
    q, k, v, table = Case(20, 520, 2, 1, 64).draw()
    k[0], k[1:] = 2 * np.sign(q[0, 0]), 0.01 * k[1:]
    q[:] = q[0, 0]
    v[0] = 1e-5 * v[0]
    want = attention(q, k.astype(np.float16), v.astype(np.float16))
    assert relative(kernels(q, k, v, table, "f16", isa, on_unit=True), want) < 0.015


@pytest.mark.parametrize("kv_type", KV_TYPES)
def test_what_a_cache_costs(kv_type: str) -> None:
    """Keys with a large dimension and values, kept and read: docs/NUMERICS.md has the ceilings."""
    for case in CASES[3:]:
        q, k, v, table = case.draw()
        error = relative(kernels(q, k, v, table, kv_type, "portable"), attention(q, k, v))
        assert error < KV_CEILINGS[kv_type], (case, error)


def test_the_ceilings_are_those_of_the_document() -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "NUMERICS.md").read_text()
    rows = re.findall(r"^\| (f16|q8_0) \|(?:[^|\n]+\|)+ ([0-9.e-]+) \|$", text, re.MULTILINE)
    assert {name: float(ceiling) for name, ceiling in rows} == KV_CEILINGS


@pytest.mark.parametrize("isa", ISAS)
def test_numbers_beyond_float16_and_none_at_all(isa: str) -> None:
    """Both types cut at 65504 and keep zeros; nothing becomes NaN."""
    q, k, v, table = CASES[2].draw()
    v[0], v[1], v[2:] = 1e6, -np.inf, 0
    k[:] = 0
    for kv_type in KV_TYPES:
        out = kernels(q, k, v, table, kv_type, isa)
        np.testing.assert_allclose(out, 0, atol=1e-2)
    q, k, v, table = CASES[2].draw()
    v[:] = 1e6
    for kv_type in KV_TYPES:
        np.testing.assert_allclose(kernels(q, k, v, table, kv_type, isa), 65504, rtol=1e-5)


def test_shapes_that_do_not_match_are_refused() -> None:
    q, k, v, table = CASES[2].draw()
    with pytest.raises(ValueError, match="shapes"):
        kernels(q, k, v, table[:0], "f16", "portable")
    with pytest.raises(ValueError, match="f16 or q8_0, not 'q4_0'"):
        kernels(q, k, v, table, "q4_0", "portable")
