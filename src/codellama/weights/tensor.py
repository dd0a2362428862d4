"""A tensor where it lies: name, shape, storage type and the bytes of a memory map.

The one thing every reader (GGUF, safetensors, .pth) produces and every consumer (native engine,
PyTorch, export, quantize) takes. Names are Meta's: tok_embeddings.weight,
layers.N.attention.{wq,wk,wv,wo}.weight, layers.N.feed_forward.{w1,w2,w3}.weight,
layers.N.{attention_norm,ffn_norm}.weight, norm.weight, output.weight. Rows of wq and wk are in
Meta's order (interleaved RoPE pairs). Shapes are row-major: (out, in). Does not dequantize
(weights/blocks.py does) and does not check values.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from enum import IntEnum
from math import prod

import numpy as np
import numpy.typing as npt

__all__ = ["BLOCK_LAYOUT", "Bytes", "GGMLType", "Tensor", "drop_pages", "row_bytes"]

Bytes = npt.NDArray[np.uint8]


class GGMLType(IntEnum):
    """Storage types by ggml's own numbers, as written in GGUF files."""

    F32 = 0
    F16 = 1
    Q4_0 = 2
    Q4_1 = 3
    Q5_0 = 6
    Q5_1 = 7
    Q8_0 = 8
    Q2_K = 10
    Q3_K = 11
    Q4_K = 12
    Q5_K = 13
    Q6_K = 14
    BF16 = 30


BLOCK_LAYOUT: dict[GGMLType, tuple[int, int]] = {
    GGMLType.F32: (1, 4),
    GGMLType.F16: (1, 2),
    GGMLType.BF16: (1, 2),
    GGMLType.Q4_0: (32, 18),
    GGMLType.Q4_1: (32, 20),
    GGMLType.Q5_0: (32, 22),
    GGMLType.Q5_1: (32, 24),
    GGMLType.Q8_0: (32, 34),
    GGMLType.Q2_K: (256, 84),
    GGMLType.Q3_K: (256, 110),
    GGMLType.Q4_K: (256, 144),
    GGMLType.Q5_K: (256, 176),
    GGMLType.Q6_K: (256, 210),
}
"""Type → (elements, bytes) of one block."""


def row_bytes(type: GGMLType, columns: int) -> int:
    """Bytes of one row. Raises ValueError when `columns` is no multiple of the type's block."""
    elements, size = BLOCK_LAYOUT[type]
    if columns % elements:
        raise ValueError(
            f"a row of {columns} does not divide into {type.name} blocks of {elements}"
        )
    return columns // elements * size


@dataclass(frozen=True, slots=True)
class Tensor:
    """`data` is a flat uint8 view of rows × row_bytes(type, columns), usually a memory map."""

    name: str
    shape: tuple[int, ...]
    type: GGMLType
    data: Bytes

    def __post_init__(self) -> None:
        expected = prod(self.shape[:-1]) * row_bytes(self.type, self.shape[-1])
        if self.data.ndim != 1 or self.data.dtype != np.uint8 or self.data.size != expected:
            raise ValueError(f"{self.name}: {self.data.size} bytes given, {expected} expected")

    @property
    def n_elements(self) -> int:
        return prod(self.shape)


def drop_pages(data: Bytes) -> None:
    """Give the memory map's pages under `data` back to the system; they are read again if touched
    again.

    For whoever has copied the bytes elsewhere. Does nothing for bytes that lie in ordinary
    memory, or where the system has no such call.
    """
    base: object = data
    while isinstance(base, np.ndarray | memoryview):
        base = base.base if isinstance(base, np.ndarray) else base.obj
    if not isinstance(base, mmap.mmap) or not hasattr(base, "madvise"):
        return
    offset = data.ctypes.data - np.frombuffer(base, np.uint8).ctypes.data
    first = -(-offset // mmap.PAGESIZE) * mmap.PAGESIZE
    length = (offset + data.size) // mmap.PAGESIZE * mmap.PAGESIZE - first
    if length > 0:
        base.madvise(mmap.MADV_DONTNEED, first, length)
