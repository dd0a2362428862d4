"""Shared by the native engine's tests: random weights of any storage type, and the errors
accepted.
"""

from __future__ import annotations

import numpy as np

import codellama.native._native as _native
from codellama.weights.blocks import dequantize
from codellama.weights.tensor import BLOCK_LAYOUT, GGMLType, Tensor, row_bytes

# Root mean square error of products with normal activations x, relative to rms(x) · |w|: the size
# of a product of random vectors. For quantized types it is that of int8 activations, d/√12 per
# value with d = max|x|/127 of 32 values: 0.0048. Measured values are in docs/NUMERICS.md.
_INT8 = 8e-3
CEILINGS = {
    "F32": 5e-7,
    "F16": 5e-7,
    "BF16": 5e-7,
    **dict.fromkeys(
        ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"), _INT8
    ),
}
# Instruction sets with a matrix unit, or what stands in for one, and the types that it multiplies
# beside a prompt's attention.
UNIT_TYPES = {
    "amx": [t for t in GGMLType if BLOCK_LAYOUT[t][0] > 1 or t is GGMLType.BF16],
    "avx512bf16": [GGMLType.BF16],
    "avx512": [],
}
UNITS = [isa for isa in _native.available_isas() if isa in UNIT_TYPES]
UNIT_ATTENTION = {"avx512": 2e-3}
"""Root mean square error of a prompt's attention there, of scores of twelve and more, relative to
the output's size; 0.015 in bfloat16."""
KV_CEILINGS = {"f16": 2e-3, "q8_0": 2.5e-2}
"""Root mean square error of attention over a cache of that type, relative to the output's size."""

REMAINDERS = ((1, 96, 4), (5, 33, 1), (9, 130, 3), (13, 17, 8), (32, 64, 2))
"""Rows of activations, rows of weights, blocks of columns."""

_SCALES = {
    GGMLType.Q4_1: (0, 2),
    GGMLType.Q5_1: (0, 2),
    GGMLType.Q2_K: (80, 82),
    GGMLType.Q3_K: (108,),
    GGMLType.Q4_K: (0, 2),
    GGMLType.Q5_K: (0, 2),
    GGMLType.Q6_K: (208,),
}


def random_weights(
    type: GGMLType, rows: int, columns: int, seed: int, *, byte: int | None = None
) -> Tensor:
    """Arbitrary codes (or every one of the same byte), and scales of either sign, a hundredth of
    them subnormal.
    """
    rng = np.random.default_rng(seed)
    elements, size = BLOCK_LAYOUT[type]
    if elements == 1:
        values = rng.normal(size=(rows, columns)).astype(np.float32)
        if type is GGMLType.F16:
            data = values.astype(np.float16)
        else:
            data = (
                (values.view(np.uint32) >> 16).astype(np.uint16)
                if type is GGMLType.BF16
                else values
            )
        return Tensor("w", (rows, columns), type, data.reshape(-1).view(np.uint8))
    blocks = rows * row_bytes(type, columns) // size
    raw = rng.integers(0, 256, (blocks, size), np.uint8)
    if byte is not None:
        raw[:] = byte
    for at in _SCALES.get(type, (0,)):
        scale = rng.normal(0, 0.1, (blocks, 1))
        scale[rng.random(blocks) < 0.01] *= 1e-6
        raw[:, at : at + 2] = scale.astype(np.float16).view(np.uint8)
    return Tensor("w", (rows, columns), type, raw.reshape(-1))


def quantized_activations(x_MK: np.ndarray, isa: str) -> np.ndarray:
    """x as the kernels see it: int8 codes times the scale of their 32, in float64."""
    q, d = np.empty(x_MK.size, np.int8), np.empty(x_MK.size // 32, np.float32)
    _native.quantize(np.ascontiguousarray(x_MK).reshape(-1), q, d, isa)
    return (q.reshape(-1, 32) * d[:, None].astype(np.float64)).reshape(x_MK.shape)


def columns_of(type: GGMLType, blocks: int) -> int:
    """Columns of `blocks` blocks; for float types a number that no vector divides."""
    elements = BLOCK_LAYOUT[type][0]
    return blocks * elements if elements > 1 else 32 * blocks + 3


def product(tensor: Tensor, x_MK: np.ndarray, isa: str, rows_at_once: int = 0) -> np.ndarray:
    """x · wᵀ [M, N] by the kernels of one instruction set."""
    rows, columns = tensor.shape
    packed = _native.pack(int(tensor.type), rows, columns, tensor.data)
    out_MN = np.empty((len(x_MK), rows), np.float32)
    _native.matmul(packed, x_MK, out_MN, isa, rows_at_once)
    return out_MN


def product_error(type: GGMLType, shape: tuple[int, int, int], isa: str) -> float:
    """The measure of CEILINGS for one shape of REMAINDERS."""
    m, rows, blocks = shape
    tensor = random_weights(type, rows, columns_of(type, blocks), seed=m)
    x_MK = np.random.default_rng(m).normal(size=(m, tensor.shape[1])).astype(np.float32)
    w_NK = dequantize(tensor).astype(np.float64)
    error_MN = product(tensor, x_MK, isa) - x_MK.astype(np.float64) @ w_NK.T
    size_MN = np.sqrt((x_MK**2).mean(axis=1))[:, None] * np.linalg.norm(w_NK, axis=1)
    return float(np.sqrt((error_MN**2).mean() / (size_MN**2).mean()))
