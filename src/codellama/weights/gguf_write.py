"""Write GGUF v3: metadata, tensor descriptions, then each tensor's bytes as they are produced.

The file appears under its name only when it is whole: it is written beside it, flushed to disk
and renamed. Tensors are taken one at a time, so a model is never held in memory.
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import BinaryIO

import numpy as np

from codellama.errors import ModelFileError
from codellama.weights.gguf_read import Value
from codellama.weights.tensor import Bytes, GGMLType, row_bytes

__all__ = ["LazyTensor", "write_gguf"]

_ALIGNMENT = 32
_STRING, _ARRAY = 8, 9


@dataclass(frozen=True, slots=True)
class LazyTensor:
    """A tensor to be written: `produce` yields its bytes, in pieces, when its turn comes."""

    name: str
    shape: tuple[int, ...]
    type: GGMLType
    produce: Callable[[], Iterable[Bytes]]

    @property
    def n_bytes(self) -> int:
        return prod(self.shape[:-1]) * row_bytes(self.type, self.shape[-1])


def write_gguf(
    path: Path,
    metadata: Mapping[str, Value],
    tensors: Sequence[LazyTensor],
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write a file; nothing is left behind when it fails. `progress` gets (bytes done, bytes in
    all).

    Raises ModelFileError when the disk is full or cannot be written, or when a tensor yields too
    few or many bytes.
    """
    if path.is_dir():
        raise ModelFileError(f"{path}: is a folder: name the file to write")
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            _write(file, metadata, tensors, progress)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be written: {error.strerror or error}") from None
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def _write(
    file: BinaryIO,
    metadata: Mapping[str, Value],
    tensors: Sequence[LazyTensor],
    progress: Callable[[int, int], None] | None,
) -> None:
    metadata = {k: v for k, v in metadata.items() if k != "general.alignment"}
    file.write(b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata)))
    for key, value in metadata.items():
        kind, payload = _pack(key, value)
        file.write(_text(key) + struct.pack("<I", kind) + payload)
    offset = 0
    for tensor in tensors:
        dims = tuple(reversed(tensor.shape))
        file.write(_text(tensor.name) + struct.pack(f"<I{len(dims)}Q", len(dims), *dims))
        file.write(struct.pack("<IQ", tensor.type, offset))
        offset += -(-tensor.n_bytes // _ALIGNMENT) * _ALIGNMENT
    total, done = sum(t.n_bytes for t in tensors), 0
    for tensor in tensors:
        file.write(bytes(-file.tell() % _ALIGNMENT))
        start = file.tell()
        for piece in tensor.produce():
            file.write(np.ascontiguousarray(piece).data)
            done += piece.size
            if progress is not None:
                progress(done, total)
        if file.tell() - start != tensor.n_bytes:
            raise ModelFileError(
                f"{tensor.name}: {file.tell() - start} bytes, {tensor.n_bytes} announced"
            )
    file.write(bytes(-file.tell() % _ALIGNMENT))


def _text(text: str) -> bytes:
    raw = text.encode("utf-8", "surrogateescape")
    return struct.pack("<Q", len(raw)) + raw


# Keys whose integers readers expect signed or in 64 bits are none of ours: unsigned 32 bits is
# llama.cpp's habit.
def _pack(key: str, value: Value) -> tuple[int, bytes]:
    if isinstance(value, bool):
        return 7, struct.pack("<?", value)
    if isinstance(value, int):
        return (
            (4, struct.pack("<I", value))
            if 0 <= value < 1 << 32
            else (11, struct.pack("<q", value))
        )
    if isinstance(value, float):
        return 6, struct.pack("<f", value)
    if isinstance(value, str):
        return _STRING, _text(value)
    items = list(value)
    if all(isinstance(v, str) for v in items):
        body = b"".join(_text(v) for v in items if isinstance(v, str))
        return _ARRAY, struct.pack("<IQ", _STRING, len(items)) + body
    code = "f" if any(isinstance(v, float) for v in items) else _integer_code(items)
    kind = {"f": 6, "i": 5, "q": 11, "?": 7}[code]
    return _ARRAY, struct.pack(f"<IQ{len(items)}{code}", kind, len(items), *items)


def _integer_code(items: Sequence[Value]) -> str:
    """The array's struct code: Booleans, else signed 32 bits, as token types are, else 64."""
    if all(isinstance(v, bool) for v in items):
        return "?"
    return "i" if all(-(1 << 31) <= int(v) < 1 << 31 for v in items) else "q"  # type: ignore[arg-type]
