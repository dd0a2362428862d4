"""Block formats against the `gguf` package, an implementation of other hands."""

from __future__ import annotations

import gguf
import numpy as np
import pytest

from codellama.errors import ModelFileError
from codellama.weights.blocks import QUANTIZABLE, check_finite, dequantize, quantize
from codellama.weights.tensor import BLOCK_LAYOUT, GGMLType, Tensor

QUANTIZED = [t for t in GGMLType if BLOCK_LAYOUT[t][0] > 1]
# Root mean square error of normal values, relative to theirs; ggml's own reference stays within
# 3% of these.
CEILING = {
    GGMLType.Q4_0: 0.10,
    GGMLType.Q4_1: 0.085,
    GGMLType.Q5_0: 0.050,
    GGMLType.Q5_1: 0.042,
    GGMLType.Q8_0: 0.007,
    GGMLType.Q4_K: 0.080,
    GGMLType.Q5_K: 0.040,
    GGMLType.Q6_K: 0.022,
}


def random_tensor(type: GGMLType, seed: int, blocks: int = 64) -> Tensor:
    """Arbitrary codes with sane scales."""
    elements, size = BLOCK_LAYOUT[type]
    rng = np.random.default_rng(seed)
    data = rng.integers(0, 256, (blocks, size), np.uint8)
    at = {"Q2_K": (80, 82), "Q3_K": (108,), "Q6_K": (208,)}.get(type.name, (0, 2))
    if type.name in ("Q4_0", "Q5_0", "Q8_0"):
        at = (0,)
    for place in at:
        scale = rng.normal(0, 1, (blocks, 1)).astype(np.float16)
        data[:, place : place + 2] = scale.view(np.uint8)
    return Tensor("t", (blocks // 4, 4 * elements), type, data.reshape(-1))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("type", QUANTIZED, ids=lambda t: t.name)
def test_dequantize_is_bit_equal(type: GGMLType, seed: int) -> None:
    tensor = random_tensor(type, seed)
    rows = tensor.data.reshape(tensor.shape[0], -1)
    theirs = gguf.quants.dequantize(rows, gguf.GGMLQuantizationType(int(type)))
    np.testing.assert_array_equal(dequantize(tensor), theirs)


@pytest.mark.parametrize("type", [GGMLType.F32, GGMLType.F16, GGMLType.BF16], ids=lambda t: t.name)
def test_floats_go_there_and_back(type: GGMLType) -> None:
    x = np.random.default_rng(0).normal(size=(3, 40)).astype(np.float32)
    back = dequantize(Tensor("t", x.shape, type, quantize(x, type)))
    np.testing.assert_allclose(back, x, rtol={4: 0, 2: 2**-8}[BLOCK_LAYOUT[type][1]])


@pytest.mark.parametrize("type", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "BF16", "F16"])
def test_quantize_is_bit_equal(type: str) -> None:
    x = np.random.default_rng(1).normal(0, 0.02, (64, 256)).astype(np.float32)
    x[0] = 0
    x[1, ::7] = 1e-30
    theirs = gguf.quants.quantize(x, gguf.GGMLQuantizationType[type])
    np.testing.assert_array_equal(quantize(x, GGMLType[type]), theirs.reshape(-1).view(np.uint8))


@pytest.mark.parametrize("type", CEILING, ids=lambda t: t.name)
def test_error_stays_under_the_ceiling(type: GGMLType) -> None:
    x = np.random.default_rng(2).normal(0, 0.05, (64, 512)).astype(np.float32)
    back = dequantize(Tensor("t", x.shape, type, quantize(x, type)))
    assert np.sqrt(((back - x) ** 2).mean() / (x**2).mean()) < CEILING[type]


@pytest.mark.parametrize("type", CEILING, ids=lambda t: t.name)
@pytest.mark.parametrize("value", [0.0, 1.0, -3.5, 1e-20])
def test_constant_blocks(type: GGMLType, value: float) -> None:
    x = np.full((1, 256), value, np.float32)
    back = dequantize(Tensor("t", x.shape, type, quantize(x, type)))
    np.testing.assert_allclose(back, x, rtol=0.02, atol=1e-7)


@pytest.mark.parametrize("type", QUANTIZABLE, ids=lambda t: t.name)
def test_nan_is_refused(type: GGMLType) -> None:
    x = np.zeros((1, 256), np.float32)
    x[0, 3] = np.nan
    with pytest.raises(ModelFileError, match="NaN"):
        quantize(x, type)


@pytest.mark.parametrize("type", list(GGMLType), ids=lambda t: t.name)
def test_check_finite_sees_every_scale(type: GGMLType) -> None:
    elements, size = BLOCK_LAYOUT[type]
    clean = np.zeros(4 * size, np.uint8)
    check_finite(Tensor("t", (4 * elements,), type, clean))
    infinity = {"F32": "000080ff", "BF16": "807f"}.get(type.name, "007c")
    raw = np.frombuffer(bytes.fromhex(infinity), np.uint8)
    at = {"Q2_K": (80, 82), "Q3_K": (108,), "Q6_K": (208,), "Q4_1": (0, 2), "Q5_1": (0, 2)}
    for place in at.get(type.name, (0, 2) if type.name in ("Q4_K", "Q5_K") else (0,)):
        data = clean.copy()
        data[2 * size + place : 2 * size + place + len(raw)] = raw
        with pytest.raises(ModelFileError, match="NaN or infinite"):
            check_finite(Tensor("t", (4 * elements,), type, data))


def test_types_that_are_only_read_say_so() -> None:
    with pytest.raises(ModelFileError, match="Q3_K is read but not written"):
        quantize(np.zeros((1, 256), np.float32), GGMLType.Q3_K)
