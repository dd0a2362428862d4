"""The K-quants: blocks of 256 values whose smaller groups have scales that are quantized too.

    Q2_K  16 groups of 16: byte = scale (low nibble) | minimum << 4; 2-bit codes; d, dmin f16
    Q3_K  16 groups of 16: 6-bit scales less 32; 2-bit codes, a plane of third bits; d f16; zero 4
    Q4_K  8 groups of 32: 6-bit scale and minimum; 4-bit codes; d, dmin f16
    Q5_K  the same with a plane of fifth bits
    Q6_K  16 groups of 16: signed 8-bit scales; 4-bit codes, a plane of bit pairs; d f16; zero 32

value = d·scale·(code − zero) − dmin·minimum. Codes lie in chunks: the nibbles of 32 bytes are 64
values (the low ones first), the bit pairs of 32 bytes are 128 values. Scales are searched as ggml's
reference does, so that the error is its error (ggml/src/ggml-quants.c, make_qkx2_quants and
make_qx_quants).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from codellama.weights.tensor import Bytes, GGMLType

__all__ = ["DECODERS", "ENCODERS", "Float32", "halves", "put_half", "reciprocal"]

Float32 = npt.NDArray[np.float32]

_F = np.float32


def halves(blocks: Bytes, at: int) -> Float32:
    """The float16 at byte `at` of every block, as float32 [blocks, 1]."""
    return np.ascontiguousarray(blocks[:, at : at + 2]).view(np.float16).astype(np.float32)


def put_half(out: Bytes, at: int, values: Float32) -> None:
    """Store values [blocks, 1] as float16 at byte `at` of every block."""
    with np.errstate(over="ignore"):
        out[:, at : at + 2] = values.astype(np.float16).view(np.uint8)


def reciprocal(x: Float32) -> Float32:
    """1 / x, and 0 where x is 0 or so small that its reciprocal is infinite."""
    with np.errstate(divide="ignore", over="ignore"):
        inverse = _F(1) / x
    return np.where(np.isfinite(inverse), inverse, _F(0))


# ---- from blocks to values -----------------------------------------------------------------------


def _pairs(codes: Bytes) -> Bytes:
    """64 bytes of bit pairs → [blocks, 8, 32] codes."""
    halves_ = codes.reshape(-1, 2, 1, 32) >> np.array([0, 2, 4, 6], np.uint8).reshape(1, 1, 4, 1)
    return np.asarray(halves_ & 3, np.uint8).reshape(-1, 8, 32)


def _nibbles(codes: Bytes) -> Bytes:
    """128 bytes → [blocks, 8, 32] codes, low nibbles of each 32 bytes first."""
    both = codes.reshape(-1, 4, 1, 32) >> np.array([0, 4], np.uint8).reshape(1, 1, 2, 1)
    return np.asarray(both & 15, np.uint8).reshape(-1, 8, 32)


def _plane(bits: Bytes) -> Bytes:
    """32 bytes → [blocks, 8, 32]: bit s of byte i is value i of group s."""
    shifts = np.arange(8, dtype=np.uint8).reshape(1, 8, 1)
    return np.asarray(bits.reshape(-1, 1, 32) >> shifts & 1, np.uint8)


def _scales_k4(packed: Bytes) -> tuple[Bytes, Bytes]:
    """12 bytes → 8 scales and 8 minima of 6 bits."""
    a, b, c = packed[:, 0:4], packed[:, 4:8], packed[:, 8:12]
    scales = np.concatenate([a & 63, c & 15 | a >> 6 << 4], axis=1)
    return scales, np.concatenate([b & 63, c >> 4 | b >> 6 << 4], axis=1)


def _q2_k(b: Bytes) -> Float32:
    scales = b[:, :16].astype(np.uint8)
    d = halves(b, 80) * (scales & 15).astype(_F)
    m = halves(b, 82) * (scales >> 4).astype(_F)
    codes = _pairs(b[:, 16:80]).reshape(-1, 16, 16).astype(_F)
    return d[:, :, None] * codes - m[:, :, None]


def _q3_k(b: Bytes) -> Float32:
    packed = b[:, 96:108]
    low = np.concatenate([packed[:, :8] & 15, packed[:, :8] >> 4], axis=1)
    shifts = np.array([0, 2, 4, 6], np.uint8).reshape(1, 4, 1)
    high = (packed[:, None, 8:12] >> shifts & 3).reshape(-1, 16)
    scales = (low | high << 4).astype(np.int8) - np.int8(32)
    codes = (_pairs(b[:, 32:96]) | _plane(b[:, :32]) << 2).astype(np.int8) - np.int8(4)
    d = halves(b, 108) * scales.astype(_F)
    values: Float32 = d[:, :, None] * codes.reshape(-1, 16, 16).astype(_F)
    return values


def _with_minima(b: Bytes, codes: Bytes) -> Float32:
    scales, minima = _scales_k4(b[:, 4:16])
    d = halves(b, 0) * scales.astype(_F)
    m = halves(b, 2) * minima.astype(_F)
    return d[:, :, None] * codes.astype(_F) - m[:, :, None]


def _q4_k(b: Bytes) -> Float32:
    return _with_minima(b, _nibbles(b[:, 16:144]))


def _q5_k(b: Bytes) -> Float32:
    codes = np.asarray(_nibbles(b[:, 48:176]) | _plane(b[:, 16:48]) << 4, np.uint8)
    return _with_minima(b, codes)


def _q6_k(b: Bytes) -> Float32:
    low = b[:, :128].reshape(-1, 2, 1, 64) >> np.array([0, 4], np.uint8).reshape(1, 1, 2, 1)
    codes = (low & 15).reshape(-1, 8, 32) | _pairs(b[:, 128:192]) << 4
    d = halves(b, 208) * b[:, 192:208].view(np.int8).astype(_F)
    signed = codes.astype(np.int8) - np.int8(32)
    return d[:, :, None] * signed.reshape(-1, 16, 16).astype(_F)


# ---- from values to blocks -----------------------------------------------------------------------


def _scale_and_minimum(
    x_NGE: Float32, levels: int, first: float, steps: int
) -> tuple[Float32, Float32, Float32]:
    """Scale, −minimum and codes of each group [N, G, E] with the least weighted square error.

    Starts from the range of the group and tries `steps` + 1 slightly different scales; each gives
    codes, and these the best scale and minimum by least squares. Weights are |x| + rms(x).
    """
    weight = np.sqrt((x_NGE * x_NGE).sum(-1, keepdims=True) / _F(x_NGE.shape[-1])) + np.abs(x_NGE)
    low = np.minimum(x_NGE.min(-1, keepdims=True), _F(0))
    span = x_NGE.max(-1, keepdims=True) - low
    inverse = reciprocal(span)
    codes = np.rint(levels * inverse * (x_NGE - low)).clip(0, levels)
    scale = span / _F(levels)
    minimum = low
    best = (weight * (scale * codes + minimum - x_NGE) ** 2).sum(-1, keepdims=True)
    sum_w, sum_x = weight.sum(-1, keepdims=True), (weight * x_NGE).sum(-1, keepdims=True)
    for step in range(steps + 1):
        tried = np.rint(_F(first + 0.1 * step + levels) * inverse * (x_NGE - low)).clip(0, levels)
        sum_l = (weight * tried).sum(-1, keepdims=True)
        sum_l2 = (weight * tried * tried).sum(-1, keepdims=True)
        sum_xl = (weight * tried * x_NGE).sum(-1, keepdims=True)
        determinant = sum_w * sum_l2 - sum_l * sum_l
        usable = determinant > 0
        safe = np.where(usable, determinant, _F(1))
        new_scale = (sum_w * sum_xl - sum_x * sum_l) / safe
        new_minimum = (sum_l2 * sum_x - sum_l * sum_xl) / safe
        positive = new_minimum > 0
        new_scale = np.where(positive, sum_xl * reciprocal(sum_l2), new_scale)
        new_minimum = np.where(positive, _F(0), new_minimum)
        error = (weight * (new_scale * tried + new_minimum - x_NGE) ** 2).sum(-1, keepdims=True)
        better = usable & (error < best)
        scale, minimum = np.where(better, new_scale, scale), np.where(better, new_minimum, minimum)
        codes, best = np.where(better, tried, codes), np.where(better, error, best)
    flat = span == 0
    return np.where(flat, _F(0), scale)[..., 0], -minimum[..., 0], np.where(flat, _F(0), codes)


def _encode_k4(x: Float32, out: Bytes, levels: int, first: float, steps: int) -> Bytes:
    """Header of a Q4_K or Q5_K block; returns the codes [N, 8, 32]."""
    x_NGE = x.reshape(-1, 8, 32)
    scale, minimum, codes = _scale_and_minimum(x_NGE, levels, first, steps)
    top_scale, top_minimum = scale.max(1, keepdims=True), minimum.max(1, keepdims=True)
    six_scale = np.rint(63 * reciprocal(top_scale) * scale).clip(0, 63).astype(np.uint8)
    six_minimum = np.rint(63 * reciprocal(top_minimum) * minimum).clip(0, 63).astype(np.uint8)
    put_half(out, 0, top_scale / _F(63))
    put_half(out, 2, top_minimum / _F(63))
    out[:, 4:8] = six_scale[:, :4] | six_scale[:, 4:] >> 4 << 6
    out[:, 8:12] = six_minimum[:, :4] | six_minimum[:, 4:] >> 4 << 6
    out[:, 12:16] = six_scale[:, 4:] & 15 | (six_minimum[:, 4:] & 15) << 4
    d = (halves(out, 0) * six_scale.astype(_F))[:, :, None]
    m = (halves(out, 2) * six_minimum.astype(_F))[:, :, None]
    again = np.rint((x_NGE + m) * reciprocal(d)).clip(0, levels)
    return np.where(d == 0, codes, again).astype(np.uint8)


def _pack_nibbles(codes: Bytes) -> Bytes:
    pairs = codes.reshape(-1, 4, 2, 32) & 15
    return np.asarray(pairs[:, :, 0] | pairs[:, :, 1] << 4, np.uint8).reshape(-1, 128)


def _to_q4_k(x: Float32, out: Bytes) -> None:
    out[:, 16:] = _pack_nibbles(_encode_k4(x, out, 15, -1.0, 20))


def _to_q5_k(x: Float32, out: Bytes) -> None:
    codes = _encode_k4(x, out, 31, -0.5, 15)
    shifts = np.arange(8, dtype=np.uint8).reshape(1, 8, 1)
    out[:, 16:48] = np.bitwise_or.reduce((codes >> 4 & 1) << shifts, axis=1)
    out[:, 48:] = _pack_nibbles(codes)


def _symmetric_scale(x_NGE: Float32, levels: int) -> tuple[Float32, Float32]:
    """Scale and codes (−levels … levels − 1) of each group with the least error weighted by x²."""
    largest = np.take_along_axis(x_NGE, np.abs(x_NGE).argmax(-1)[..., None], -1)
    weight = x_NGE * x_NGE
    scale = codes = best = np.zeros((1, 1, 1), np.float32)
    for step in (0, *range(-9, 0), *range(1, 10)):
        inverse = _F(-(levels + 0.1 * step)) * reciprocal(largest)
        tried = np.rint(inverse * x_NGE).clip(-levels, levels - 1)
        sum_lx = (weight * x_NGE * tried).sum(-1, keepdims=True)
        sum_l2 = (weight * tried * tried).sum(-1, keepdims=True)
        fit = sum_lx * reciprocal(sum_l2)
        better = (sum_l2 > 0) & (sum_lx * sum_lx > best * sum_l2)
        if step == 0:
            scale, codes, best = fit, tried, fit * sum_lx
            continue
        scale, codes = np.where(better, fit, scale), np.where(better, tried, codes)
        best = np.where(better, fit * sum_lx, best)
    tiny = np.abs(largest) < 1e-15
    return np.where(tiny, _F(0), scale)[..., 0], np.where(tiny, _F(0), codes)


def _to_q6_k(x: Float32, out: Bytes) -> None:
    x_NGE = x.reshape(-1, 16, 16)
    scale, codes = _symmetric_scale(x_NGE, 32)
    largest = np.take_along_axis(scale, np.abs(scale).argmax(1)[:, None], 1)
    empty = np.abs(largest) < 1e-15
    inverse = np.where(empty, _F(0), _F(-128) * reciprocal(largest))
    put_half(out, 208, reciprocal(inverse))
    eight = np.rint(inverse * scale).clip(-128, 127).astype(np.int8)
    out[:, 192:208] = eight.view(np.uint8)
    d = (halves(out, 208) * eight.astype(_F))[:, :, None]
    again = np.rint(x_NGE * reciprocal(d)).clip(-32, 31)
    biased = (np.where(d == 0, codes, again) + 32).astype(np.uint8)
    final = np.where(empty[:, :, None], np.uint8(0), biased).reshape(-1, 2, 4, 32)
    low, high = final & 15, final >> 4
    out[:, :64] = (low[:, 0, :2] | low[:, 0, 2:] << 4).reshape(-1, 64)
    out[:, 64:128] = (low[:, 1, :2] | low[:, 1, 2:] << 4).reshape(-1, 64)
    shifts = np.array([0, 2, 4, 6], np.uint8).reshape(1, 1, 4, 1)
    out[:, 128:192] = np.bitwise_or.reduce(high << shifts, axis=2).reshape(-1, 64)


DECODERS: dict[GGMLType, Callable[[Bytes], Float32]] = {
    GGMLType.Q2_K: _q2_k,
    GGMLType.Q3_K: _q3_k,
    GGMLType.Q4_K: _q4_k,
    GGMLType.Q5_K: _q5_k,
    GGMLType.Q6_K: _q6_k,
}
ENCODERS: dict[GGMLType, Callable[[Float32, Bytes], None]] = {
    GGMLType.Q4_K: _to_q4_k,
    GGMLType.Q5_K: _to_q5_k,
    GGMLType.Q6_K: _to_q6_k,
}
