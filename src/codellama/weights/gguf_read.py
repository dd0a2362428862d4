"""GGUF files: a header of metadata and tensor descriptions, then the tensors' bytes where they lie.

`read_gguf` maps the file and copies nothing but metadata. Every count, length and offset is
checked against the file's size before it is used, so a truncated or hostile file costs one clear
line and no memory. Knows the container only: what the metadata mean is in gguf_config.py.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from pathlib import Path

import numpy as np

from codellama.errors import ModelFileError
from codellama.weights.tensor import BLOCK_LAYOUT, GGMLType, Tensor, row_bytes

__all__ = ["GGUFFile", "Value", "read_gguf"]

Value = int | float | bool | str | Sequence["Value"]

_SCALARS = dict(enumerate("BbHhIif?")) | {10: "Q", 11: "q", 12: "d"}
_STRUCTS = {code: struct.Struct("<" + code) for code in _SCALARS.values()}
_STRING, _ARRAY = 8, 9
_MAX_DIMS = 4


@dataclass(frozen=True, slots=True)
class GGUFFile:
    version: int
    alignment: int
    metadata: dict[str, Value]
    tensors: dict[str, Tensor]


class _Cursor:
    """Bounded reads from the map."""

    def __init__(self, data: mmap.mmap, name: str) -> None:
        self.data, self.name, self.at, self.size = data, name, 0, len(data)

    def fail(self, what: str) -> ModelFileError:
        return ModelFileError(f"{self.name}: {what}: damaged, or no GGUF file; fetch it again")

    def take(self, n: int) -> int:
        if n > self.size - self.at:
            raise self.fail(f"ends at byte {self.size}, {n} more were announced at {self.at}")
        at = self.at
        self.at += n
        return at

    def scalar(self, code: str) -> int | float | bool:
        layout = _STRUCTS[code]
        value: int | float | bool
        (value,) = layout.unpack_from(self.data, self.take(layout.size))
        return value

    def u64(self) -> int:
        return int(self.scalar("Q"))

    def u32(self) -> int:
        return int(self.scalar("I"))

    def text(self) -> str:
        n = self.u64()
        at = self.take(n)
        try:
            return self.data[at : at + n].decode("utf-8")
        except UnicodeDecodeError:
            raise self.fail(f"text at byte {at} is not UTF-8") from None

    def value(self, kind: int) -> Value:
        if kind in _SCALARS:
            return self.scalar(_SCALARS[kind])
        if kind == _STRING:
            return self.text()
        if kind != _ARRAY:
            raise self.fail(f"unknown metadata type {kind}")
        return self.array()

    def array(self) -> list[Value]:
        kind, n = self.u32(), self.u64()
        if kind in _SCALARS:
            code = _SCALARS[kind]
            at = self.take(n * struct.calcsize("<" + code))
            return list(struct.unpack_from(f"<{n}{code}", self.data, at))
        if kind != _STRING:
            raise self.fail(f"unsupported array of type {kind}")
        if n * 8 > self.size - self.at:
            raise self.fail(f"an array of {n} strings does not fit")
        return self.usual_texts(n) or self.texts(n)

    def usual_texts(self, n: int) -> list[Value] | None:
        """What `texts` gives for strings of 1 to 255 bytes, UTF-8 without NUL; None for others.

        Two arrays of 49,000 strings take 6 ms by whole-array operations, 30 one by one.
        """
        near = np.frombuffer(self.data, np.uint8, min(n * 24, self.size - self.at), self.at)
        zero = near == 0
        # Seven NULs follow each length, and nothing else.
        seven = (
            zero[1:-6] & zero[2:-5] & zero[3:-4] & zero[4:-3] & zero[5:-2] & zero[6:-1] & zero[7:]
        )
        starts = np.flatnonzero(seven)[:n]
        if len(starts) < n or n == 0 or starts[0] != 0:
            return None
        lengths = near[starts].astype(np.int64)
        end = int(starts[-1] + 8 + lengths[-1])
        chained = (starts[1:] == starts[:-1] + 8 + lengths[:-1]).all()
        if not chained or end > len(near) or np.count_nonzero(zero[:end]) != 7 * n:
            return None
        text = near[:end].copy()
        text[starts] = 0
        try:
            out: list[Value] = [*text[8:].tobytes().decode("utf-8").split("\0" * 8)]
        except UnicodeDecodeError:
            return None
        self.at += end
        return out

    def texts(self, n: int) -> list[Value]:
        out: list[Value] = []
        data, at, size, unpack = self.data, self.at, self.size, struct.Struct("<Q").unpack_from
        for _ in range(n):
            if size - at < 8:
                raise self.fail("an array of strings runs past the end")
            (length,) = unpack(data, at)
            at += 8
            if length > size - at:
                raise self.fail("a string runs past the end")
            try:
                out.append(data[at : at + length].decode("utf-8"))
            except UnicodeDecodeError:
                out.append(data[at : at + length].decode("utf-8", "surrogateescape"))
            at += length
        self.at = at
        return out


def read_gguf(path: Path) -> GGUFFile:
    """Header and mapped tensors; ModelFileError for anything but a sound GGUF v2 or v3."""
    try:
        with path.open("rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except ValueError:
        raise ModelFileError(f"{path.name}: the file is empty") from None
    cursor = _Cursor(data, path.name)
    if data[:4] != b"GGUF":
        raise cursor.fail("does not begin with GGUF")
    cursor.at = 4
    version = cursor.u32()
    if version not in (2, 3):
        raise ModelFileError(f"{path.name}: GGUF version {version} is not supported (2 and 3 are)")
    n_tensors, n_values = cursor.u64(), cursor.u64()
    if n_tensors * 24 > cursor.size or n_values * 12 > cursor.size:
        raise cursor.fail(f"announces {n_tensors} tensors and {n_values} metadata values")
    metadata: dict[str, Value] = {}
    for _ in range(n_values):
        key = cursor.text()
        metadata[key] = cursor.value(cursor.u32())
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment <= 0 or alignment & (alignment - 1):
        raise cursor.fail(f"alignment {alignment} is no power of two")
    infos = [_info(cursor) for _ in range(n_tensors)]
    base = -(-cursor.at // alignment) * alignment
    view = np.frombuffer(data, np.uint8)
    tensors: dict[str, Tensor] = {}
    spans: list[tuple[int, int, str]] = []
    for name, shape, kind, offset in infos:
        size = prod(shape[:-1]) * row_bytes(kind, shape[-1])
        begin = base + offset
        if offset % alignment:
            raise cursor.fail(f"tensor {name[:100]!r} is not aligned to {alignment} bytes")
        if begin + size > cursor.size:
            end = begin + size
            raise cursor.fail(f"ends at byte {cursor.size}, tensor {name[:100]!r} at {end}")
        if name in tensors:
            raise cursor.fail(f"tensor {name[:100]!r} appears twice")
        spans.append((begin, begin + size, name))
        tensors[name] = Tensor(name, shape, kind, view[begin : begin + size])
    spans.sort()
    for (_, end, first), (begin, _, second) in pairwise(spans):
        if begin < end:
            raise cursor.fail(f"tensors {first[:100]!r} and {second[:100]!r} overlap")
    return GGUFFile(version, alignment, metadata, tensors)


def _info(cursor: _Cursor) -> tuple[str, tuple[int, ...], GGMLType, int]:
    name = cursor.text()
    n_dims = cursor.u32()
    if not 1 <= n_dims <= _MAX_DIMS:
        raise cursor.fail(f"tensor {name[:100]!r} has {n_dims} dimensions")
    dims = [cursor.u64() for _ in range(n_dims)]
    number, offset = cursor.u32(), cursor.u64()
    try:
        kind = GGMLType(number)
    except ValueError:
        known = ", ".join(t.name for t in GGMLType)
        raise ModelFileError(
            f"{cursor.name}: tensor {name[:100]!r} has storage type {number}; known are {known}"
        ) from None
    if any(d == 0 or d > cursor.size * 256 for d in dims) or dims[0] % BLOCK_LAYOUT[kind][0]:
        raise cursor.fail(f"tensor {name[:100]!r} has impossible dimensions {dims}")
    return name, tuple(reversed(dims)), kind, offset
