"""Products of prompts on a matrix unit: as near to float64 as bfloat16 allows, and the same bits
however columns are cut into runs and rows into steps.
"""

from __future__ import annotations

import numpy as np
import pytest

import codellama.native._native as _native
from codellama.native import available_isas
from codellama.weights.blocks import dequantize
from codellama.weights.tensor import BLOCK_LAYOUT, GGMLType, Tensor
from native_support import random_weights

pytestmark = pytest.mark.skipif("amx" not in available_isas(), reason="no AMX on this machine")
TYPES = [t for t in GGMLType if BLOCK_LAYOUT[t][0] > 1 or t is GGMLType.BF16]
types = pytest.mark.parametrize("type", TYPES, ids=lambda t: t.name)


def rounded(x: np.ndarray) -> np.ndarray:
    """The nearest bfloat16, ties to even, as float64; the slow, obvious version."""
    bits = x.astype(np.float32).view(np.uint32).astype(np.uint64)
    bits = (bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000
    return bits.astype(np.uint32).view(np.float32).astype(np.float64)


def product(tensor: Tensor, x_MK: np.ndarray, run: int = 12) -> np.ndarray:
    packed = _native.pack(int(tensor.type), *tensor.shape, tensor.data)
    out_MN = np.empty((len(x_MK), tensor.shape[0]), np.float32)
    _native.matmul_on_unit(packed, x_MK, out_MN, "amx", run)
    return out_MN


def columns_of(type: GGMLType, blocks: int) -> int:
    return blocks * max(32, BLOCK_LAYOUT[type][0])


@types
@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 17, 2), (16, 32, 1), (33, 90, 3)], ids=str)
def test_products_of_rounded_operands_are_exact(
    type: GGMLType, shape: tuple[int, int, int]
) -> None:
    m, n, blocks = shape
    tensor = random_weights(type, n, columns_of(type, blocks), seed=m)
    x_MK = np.random.default_rng(m).normal(size=(m, tensor.shape[1])).astype(np.float32)
    x, w = rounded(x_MK), rounded(dequantize(tensor))
    # The unit takes subnormal operands and sums for zero.
    w[np.abs(w) < 2.0**-126] = 0
    error = np.abs(product(tensor, x_MK) - x @ w.T)
    assert (error <= 4e-6 * (np.abs(x) @ np.abs(w.T)) + 1e-30).all()


@types
def test_runs_and_company_change_no_bit(type: GGMLType) -> None:
    tensor = random_weights(type, 50, columns_of(type, 5), seed=2)
    x_MK = np.random.default_rng(2).normal(size=(37, tensor.shape[1])).astype(np.float32)
    whole = product(tensor, x_MK, 1000)
    for run in (1, 3, 12):
        np.testing.assert_array_equal(product(tensor, x_MK, run), whole)
    for row in (0, 15, 16, 36):
        np.testing.assert_array_equal(product(tensor, x_MK[row : row + 1]), whole[row : row + 1])


def test_types_without_a_unit_are_refused() -> None:
    for type in (GGMLType.F32, GGMLType.F16):
        tensor = random_weights(type, 16, 32, seed=0)
        with pytest.raises(ValueError, match="no matrix unit"):
            product(tensor, np.zeros((1, 32), np.float32))
