"""Storage formats in NumPy: the readable reference for the kernels, and what export writes.

A row is cut into blocks; a block holds small integer codes and the scale d (and minimum m) that
turn them into numbers: value = d · (code − zero) + m. This file has the float formats and the five
older block formats of 32 values:

    Q4_0  d f16 | 16 bytes: code i in the low nibble of byte i, code i + 16 in the high; zero 8
    Q4_1  d, m f16 | the same; zero 0
    Q5_0  d f16 | 32 high bits | nibbles as Q4_0: code = nibble | bit << 4; zero 16
    Q5_1  d, m f16 | the same; zero 0
    Q8_0  d f16 | 32 signed bytes

The formats of 256 values are in blocks_k.py. Arithmetic and rounding are ggml's, so that files
agree bit for bit (ggml/src/ggml-quants.c, the reference functions). Works on bytes; knows no files
and no names.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from codellama.errors import ModelFileError
from codellama.weights import blocks_k
from codellama.weights.blocks_k import Float32, halves, put_half, reciprocal
from codellama.weights.tensor import BLOCK_LAYOUT, Bytes, GGMLType, Tensor

__all__ = ["QUANTIZABLE", "check_finite", "dequantize", "quantize"]


def dequantize(tensor: Tensor) -> Float32:
    """All values of a tensor as float32 [shape]; of float32 itself a view."""
    if tensor.type is GGMLType.F32:
        return tensor.data.view(np.float32).reshape(tensor.shape)
    if tensor.type is GGMLType.F16:
        return tensor.data.view(np.float16).astype(np.float32).reshape(tensor.shape)
    if tensor.type is GGMLType.BF16:
        wide = tensor.data.view(np.uint16).astype(np.uint32) << 16
        return wide.view(np.float32).reshape(tensor.shape)
    _, size = BLOCK_LAYOUT[tensor.type]
    return _DECODERS[tensor.type](tensor.data.reshape(-1, size)).reshape(tensor.shape)


def quantize(values: Float32, type: GGMLType) -> Bytes:
    """The bytes of finite `values` [rows, columns] as `type`.

    Raises ModelFileError for NaN or Inf and for types that this project reads but does not write;
    ValueError when the columns do not divide into blocks.
    """
    if not np.isfinite(values).all():
        raise ModelFileError("the weights contain NaN or infinite values: they cannot be quantized")
    values = np.ascontiguousarray(values, np.float32)
    if type is GGMLType.F32:
        return values.reshape(-1).view(np.uint8)
    if type is GGMLType.F16:
        return values.astype(np.float16).reshape(-1).view(np.uint8)
    if type is GGMLType.BF16:
        return _to_bfloat16(values).reshape(-1).view(np.uint8)
    if type not in _ENCODERS:
        known = ", ".join(t.name for t in QUANTIZABLE)
        raise ModelFileError(f"{type.name} is read but not written; types to quantize to: {known}")
    elements, size = BLOCK_LAYOUT[type]
    if values.shape[-1] % elements:
        raise ValueError(f"{values.shape[-1]} columns do not divide into blocks of {elements}")
    x = values.reshape(-1, elements)
    out = np.empty((len(x), size), np.uint8)
    _ENCODERS[type](x, out)
    return out.reshape(-1)


def check_finite(tensor: Tensor) -> None:
    """Raise ModelFileError when a scale (or, in float formats, a value) is NaN or infinite.

    Looks at exponents only, so the cost is that of reading the bytes.
    """
    if tensor.type is GGMLType.F32:
        bad = bool(((tensor.data.view(np.uint32) & 0x7F800000) == 0x7F800000).any())
    elif tensor.type in _EXPONENT:
        mask = _EXPONENT[tensor.type]
        bad = bool(((tensor.data.view(np.uint16) & mask) == mask).any())
    else:
        _, size = BLOCK_LAYOUT[tensor.type]
        rows = tensor.data.reshape(-1, size)
        bad = any(
            bool(((rows[:, at + 1] & 0x7C) == 0x7C).any())  # little-endian: the exponent is on top
            for at in _SCALES_AT[tensor.type]
        )
    if bad:
        raise ModelFileError(f"{tensor.name}: the weights contain NaN or infinite values")


_EXPONENT = {GGMLType.F16: 0x7C00, GGMLType.BF16: 0x7F80}
_SCALES_AT: dict[GGMLType, tuple[int, ...]] = {
    GGMLType.Q4_0: (0,),
    GGMLType.Q4_1: (0, 2),
    GGMLType.Q5_0: (0,),
    GGMLType.Q5_1: (0, 2),
    GGMLType.Q8_0: (0,),
    GGMLType.Q2_K: (80, 82),
    GGMLType.Q3_K: (108,),
    GGMLType.Q4_K: (0, 2),
    GGMLType.Q5_K: (0, 2),
    GGMLType.Q6_K: (208,),
}


def _to_bfloat16(values: Float32) -> npt.NDArray[np.uint16]:
    """The upper half of the float32, rounded to nearest even."""
    bits = values.view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


# ---- from blocks to values -----------------------------------------------------------------------


def _nibbles(codes: Bytes) -> Bytes:
    return np.concatenate([codes & 0x0F, codes >> 4], axis=1)


def _bits(words: Bytes) -> Bytes:
    """4 bytes → 32 codes of one bit."""
    return np.unpackbits(words, axis=1, bitorder="little")


def _q4_0(b: Bytes) -> Float32:
    return halves(b, 0) * (_nibbles(b[:, 2:]).astype(np.float32) - 8)


def _q4_1(b: Bytes) -> Float32:
    return halves(b, 0) * _nibbles(b[:, 4:]).astype(np.float32) + halves(b, 2)


def _q5_0(b: Bytes) -> Float32:
    codes = _nibbles(b[:, 6:]) | _bits(b[:, 2:6]) << 4
    return halves(b, 0) * (codes.astype(np.float32) - 16)


def _q5_1(b: Bytes) -> Float32:
    codes = _nibbles(b[:, 8:]) | _bits(b[:, 4:8]) << 4
    return halves(b, 0) * codes.astype(np.float32) + halves(b, 2)


def _q8_0(b: Bytes) -> Float32:
    return halves(b, 0) * b[:, 2:].view(np.int8).astype(np.float32)


# ---- from values to blocks -----------------------------------------------------------------------


def _codes(scaled: Float32, rounding: float, largest: int) -> Bytes:
    codes: Bytes = np.trunc(scaled + np.float32(rounding)).clip(0, largest).astype(np.uint8)
    return codes


def _signed_scale(x: Float32, levels: int) -> Float32:
    """The value farthest from zero, sign included, becomes code 0: d = value / −levels."""
    largest = np.take_along_axis(x, np.abs(x).argmax(axis=1, keepdims=True), axis=1)
    return largest / np.float32(-levels)


def _pack_nibbles(codes: Bytes) -> Bytes:
    return np.asarray((codes[:, :16] & 0x0F) | codes[:, 16:] << 4, np.uint8)


def _pack_bits(codes: Bytes) -> Bytes:
    return np.packbits(codes >> 4 & 1, axis=1, bitorder="little")


def _to_q4_0(x: Float32, out: Bytes) -> None:
    d = _signed_scale(x, 8)
    put_half(out, 0, d)
    out[:, 2:] = _pack_nibbles(_codes(x * reciprocal(d), 8.5, 15))


def _to_q4_1(x: Float32, out: Bytes) -> None:
    low = x.min(axis=1, keepdims=True)
    d = (x.max(axis=1, keepdims=True) - low) / np.float32(15)
    put_half(out, 0, d)
    put_half(out, 2, low)
    out[:, 4:] = _pack_nibbles(_codes((x - low) * reciprocal(d), 0.5, 15))


def _to_q5_0(x: Float32, out: Bytes) -> None:
    d = _signed_scale(x, 16)
    codes = _codes(x * reciprocal(d), 16.5, 31)
    put_half(out, 0, d)
    out[:, 2:6] = _pack_bits(codes)
    out[:, 6:] = _pack_nibbles(codes)


def _to_q5_1(x: Float32, out: Bytes) -> None:
    low = x.min(axis=1, keepdims=True)
    d = (x.max(axis=1, keepdims=True) - low) / np.float32(31)
    codes = _codes((x - low) * reciprocal(d), 0.5, 31)
    put_half(out, 0, d)
    put_half(out, 2, low)
    out[:, 4:8] = _pack_bits(codes)
    out[:, 8:] = _pack_nibbles(codes)


def _to_q8_0(x: Float32, out: Bytes) -> None:
    d = np.abs(x).max(axis=1, keepdims=True) / np.float32(127)
    scaled = x * reciprocal(d)
    away = np.trunc(np.abs(scaled) + np.float32(0.5)) * np.sign(scaled)  # C's roundf
    put_half(out, 0, d)
    out[:, 2:] = away.astype(np.int8).view(np.uint8)


_DECODERS: dict[GGMLType, Callable[[Bytes], Float32]] = {
    GGMLType.Q4_0: _q4_0,
    GGMLType.Q4_1: _q4_1,
    GGMLType.Q5_0: _q5_0,
    GGMLType.Q5_1: _q5_1,
    GGMLType.Q8_0: _q8_0,
    **blocks_k.DECODERS,
}
_ENCODERS: dict[GGMLType, Callable[[Float32, Bytes], None]] = {
    GGMLType.Q4_0: _to_q4_0,
    GGMLType.Q4_1: _to_q4_1,
    GGMLType.Q5_0: _to_q5_0,
    GGMLType.Q5_1: _to_q5_1,
    GGMLType.Q8_0: _to_q8_0,
    **blocks_k.ENCODERS,
}
QUANTIZABLE: tuple[GGMLType, ...] = (GGMLType.F32, GGMLType.F16, GGMLType.BF16, *_ENCODERS)
"""Types that `quantize` writes."""
