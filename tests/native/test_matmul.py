"""Kernels on every instruction set of this machine: packing loses nothing, products are as exact
as they claim.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import codellama.native._native as _native
from codellama.native import available_isas
from codellama.weights.blocks import dequantize
from codellama.weights.tensor import BLOCK_LAYOUT, GGMLType
from native_support import (
    CEILINGS,
    REMAINDERS,
    columns_of,
    product,
    product_error,
    quantized_activations,
    random_weights,
)

ISAS = available_isas()
FUSED = [isa for isa in ISAS if isa != "portable"]  # all with fused multiply-add
QUANTIZED = [t for t in GGMLType if BLOCK_LAYOUT[t][0] > 1]
types = pytest.mark.parametrize("type", list(GGMLType), ids=lambda t: t.name)
isas = pytest.mark.parametrize("isa", ISAS)


@types
@pytest.mark.parametrize("rows", [1, 15, 16, 17, 100])
@pytest.mark.parametrize("blocks", [1, 3, 9])
def test_packing_is_lossless(type: GGMLType, rows: int, blocks: int) -> None:
    tensor = random_weights(type, rows, columns_of(type, blocks), seed=rows + blocks)
    packed = _native.pack(int(type), *tensor.shape, tensor.data)
    back = np.empty(tensor.shape, np.float32)
    _native.unpack(packed, back)
    np.testing.assert_array_equal(back, dequantize(tensor))


@isas
@types
@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 17, 2), (7, 90, 3), (13, 128, 1)], ids=str)
def test_product_is_exact_for_its_activations(
    isa: str, type: GGMLType, shape: tuple[int, int, int]
) -> None:
    """Against float64, with activations as the kernel rounds them: only float32 additions may
    differ.
    """
    m, n, blocks = shape
    tensor = random_weights(type, n, columns_of(type, blocks), seed=m)
    x_MK = np.random.default_rng(m).normal(size=(m, tensor.shape[1])).astype(np.float32)
    used = quantized_activations(x_MK, isa) if type in QUANTIZED else x_MK
    w_NK = dequantize(tensor).astype(np.float64)
    exact, size = used @ w_NK.T, np.abs(used) @ np.abs(w_NK.T)
    error = np.abs(product(tensor, x_MK, isa) - exact)
    assert (error <= 2e-6 * size + 1e-30).all()


@isas
@types
@pytest.mark.parametrize("shape", REMAINDERS, ids=str)
def test_error_against_float64_stays_under_its_ceiling(
    isa: str, type: GGMLType, shape: tuple[int, int, int]
) -> None:
    assert product_error(type, shape, isa) < CEILINGS[type.name]


def test_the_ceilings_are_those_of_the_document() -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "NUMERICS.md").read_text()
    rows = re.findall(r"^\| ([A-Z0-9_]+) \|(?:[^|\n]+\|)+ ([0-9.e-]+) \|$", text, re.MULTILINE)
    assert {name: float(ceiling) for name, ceiling in rows} == CEILINGS


@isas
@pytest.mark.parametrize("type", QUANTIZED, ids=lambda t: t.name)
@pytest.mark.parametrize("byte", [0x00, 0x7F, 0x80, 0xFF], ids=hex)
@pytest.mark.parametrize("m", [1, 4, 9])
def test_codes_and_activations_at_their_largest(
    isa: str, type: GGMLType, byte: int, m: int
) -> None:
    """Sums of products in 16 bits are full here, and one more would overflow."""
    tensor = random_weights(type, 32, columns_of(type, 2), seed=m, byte=byte)
    signs = np.array([1, -1, 1], np.float32)[np.arange(m) % 3]
    x_MK = np.broadcast_to(signs[:, None], (m, tensor.shape[1])).copy()
    w_NK = dequantize(tensor).astype(np.float64)
    size = np.abs(x_MK) @ np.abs(w_NK.T)
    assert (np.abs(product(tensor, x_MK, isa) - x_MK @ w_NK.T) <= 2e-6 * size + 1e-30).all()


@isas
@types
def test_a_row_does_not_depend_on_its_company(isa: str, type: GGMLType) -> None:
    tensor = random_weights(type, 130, columns_of(type, 2), seed=2)
    x_MK = np.random.default_rng(2).normal(size=(70, tensor.shape[1])).astype(np.float32)
    alone = np.concatenate([product(tensor, row[None], isa) for row in x_MK])
    for at_once in range(17):
        np.testing.assert_array_equal(product(tensor, x_MK, isa, at_once), alone)


@pytest.mark.skipif(len(FUSED) < 2, reason="needs two instruction sets with fused multiply-add")
@types
def test_fused_sets_agree_to_the_bit(type: GGMLType) -> None:
    tensor = random_weights(type, 50, columns_of(type, 3), seed=3)
    x_MK = np.random.default_rng(3).normal(size=(6, tensor.shape[1])).astype(np.float32)
    first, *others = (product(tensor, x_MK, isa) for isa in FUSED)
    for other in others:
        np.testing.assert_array_equal(other, first)


@isas
@pytest.mark.parametrize("size", [0.0, 1e-38, 1e-30, 1e-5, 1e5, 1e30])
def test_activations_of_any_size(isa: str, size: float) -> None:
    """From subnormal to enormous: no NaN, and exact where the block is not flushed to zero."""
    tensor = random_weights(GGMLType.Q4_0, 32, 64, seed=4)
    x_MK = (np.random.default_rng(4).normal(size=(2, 64)) * size).astype(np.float32)
    used = quantized_activations(x_MK, isa)
    w_NK = dequantize(tensor).astype(np.float64)
    got = product(tensor, x_MK, isa)
    assert np.isfinite(got).all()
    np.testing.assert_allclose(
        got, used @ w_NK.T, rtol=1e-4, atol=2e-6 * float((np.abs(used) @ np.abs(w_NK.T)).max())
    )


@pytest.mark.parametrize("isa", ISAS)
@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), exponent=st.integers(-30, 30))
def test_quantized_activations_are_the_nearest(isa: str, seed: int, exponent: int) -> None:
    x = np.random.default_rng(seed).normal(size=64).astype(np.float32) * np.float32(2.0**exponent)
    q, d = np.empty(64, np.int8), np.empty(2, np.float32)
    _native.quantize(x, q, d, isa)
    x_64, q_64 = (v.reshape(2, 32).astype(np.float64) for v in (x, q))
    step = np.abs(x_64).max(1) / 127
    assert np.abs(x_64 / step[:, None] - q_64).max() <= 0.5 + 1e-4
    assert np.abs(q_64).max(1).tolist() == [127, 127]
    best = (x_64 * q_64).sum(1) / (q_64**2).sum(1)
    np.testing.assert_allclose(d, best, rtol=1e-6)
    np.testing.assert_allclose(d, step, rtol=5e-3)


def test_least_squares_take_a_thirty_second_of_the_error() -> None:
    x = np.random.default_rng(5).normal(size=(4000, 32)).astype(np.float32)
    q, d = np.empty(x.size, np.int8), np.empty(len(x), np.float32)
    _native.quantize(x.ravel(), q, d, ISAS[0])
    q_64, step = q.reshape(x.shape).astype(np.float64), np.abs(x).max(1, keepdims=True) / 127
    fitted, plain = (((x - q_64 * s) ** 2).sum() for s in (d[:, None], step))
    assert fitted / plain == pytest.approx(31 / 32, abs=5e-3)


def test_bad_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="divide"):
        _native.pack(int(GGMLType.Q4_0), 4, 33, np.zeros(72, np.uint8))
    with pytest.raises(ValueError, match="bytes"):
        _native.pack(int(GGMLType.Q4_0), 4, 32, np.zeros(71, np.uint8))
    with pytest.raises(ValueError, match="storage type 9"):
        _native.pack(9, 4, 32, np.zeros(72, np.uint8))
    with pytest.raises(ValueError, match="available"):
        _native.rms_norm(
            np.ones(4, np.float32), np.ones(4, np.float32), 1e-5, np.ones(4, np.float32), "mmx"
        )
