"""Products of prompts on a matrix unit: as near to float64 as bfloat16 allows, and the same bits
however columns are cut into runs and rows into steps.
"""

from __future__ import annotations

import numpy as np
import pytest

import codellama.native._native as _native
from codellama.weights.blocks import dequantize
from codellama.weights.tensor import BLOCK_LAYOUT, GGMLType, Tensor
from native_support import UNIT_TYPES, UNITS, random_weights

CASES = [(isa, type) for isa in UNITS for type in UNIT_TYPES[isa]]
pytestmark = pytest.mark.skipif(not CASES, reason="no matrix unit on this machine")
types = pytest.mark.parametrize(("isa", "type"), CASES, ids=lambda x: getattr(x, "name", x))


def rounded(x: np.ndarray) -> np.ndarray:
    """The nearest bfloat16, ties to even, as float64; the slow, obvious version."""
    bits = x.astype(np.float32).view(np.uint32).astype(np.uint64)
    bits = (bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000
    return bits.astype(np.uint32).view(np.float32).astype(np.float64)


def product(tensor: Tensor, x_MK: np.ndarray, isa: str, run: int = 12) -> np.ndarray:
    packed = _native.pack(int(tensor.type), *tensor.shape, tensor.data)
    out_MN = np.empty((len(x_MK), tensor.shape[0]), np.float32)
    _native.matmul_on_unit(packed, x_MK, out_MN, isa, run)
    return out_MN


def columns_of(type: GGMLType, blocks: int) -> int:
    return blocks * max(32, BLOCK_LAYOUT[type][0])


@types
@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 17, 2), (16, 32, 1), (33, 90, 3)], ids=str)
def test_products_of_rounded_operands_are_exact(
    isa: str, type: GGMLType, shape: tuple[int, int, int]
) -> None:
    m, n, blocks = shape
    tensor = random_weights(type, n, columns_of(type, blocks), seed=m)
    x_MK = np.random.default_rng(m).normal(size=(m, tensor.shape[1])).astype(np.float32)
    x, w = rounded(x_MK), rounded(dequantize(tensor))
    # The unit takes subnormal operands and sums for zero.
    w[np.abs(w) < 2.0**-126] = 0
    error = np.abs(product(tensor, x_MK, isa) - x @ w.T)
    assert (error <= 4e-6 * (np.abs(x) @ np.abs(w.T)) + 1e-30).all()


@types
def test_runs_and_company_change_no_bit(isa: str, type: GGMLType) -> None:
    tensor = random_weights(type, 50, columns_of(type, 5), seed=2)
    x_MK = np.random.default_rng(2).normal(size=(37, tensor.shape[1])).astype(np.float32)
    whole = product(tensor, x_MK, isa, 1000)
    for run in (1, 3, 12):
        np.testing.assert_array_equal(product(tensor, x_MK, isa, run), whole)
    for row in (0, 15, 16, 36):
        np.testing.assert_array_equal(
            product(tensor, x_MK[row : row + 1], isa), whole[row : row + 1]
        )


def test_types_without_a_unit_are_refused() -> None:
    for isa in UNITS:
        for type in set(GGMLType) - set(UNIT_TYPES[isa]):
            columns = columns_of(type, 1)
            tensor = random_weights(type, 16, columns, seed=0)
            with pytest.raises(ValueError, match="no matrix unit"):
                product(tensor, np.zeros((1, columns), np.float32), isa)
