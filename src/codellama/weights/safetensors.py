"""One safetensors file: its header, read as hostile, and its tensors where they lie.

Format (github.com/huggingface/safetensors): 8 bytes little-endian header length N, N bytes of JSON
{name: {"dtype", "shape", "data_offsets": [begin, end]}} with an optional "__metadata__", then the
data. Offsets count from the end of the header; ranges cover the data without gaps or overlaps.
Knows nothing of models or of names; does not look at values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from codellama.errors import ModelFileError
from codellama.weights.files import map_file, parse_json
from codellama.weights.tensor import Bytes, GGMLType

__all__ = ["DTYPES", "Entry", "SafetensorsFile", "read_safetensors"]

DTYPES: dict[str, GGMLType] = {"F32": GGMLType.F32, "F16": GGMLType.F16, "BF16": GGMLType.BF16}
"""What weights may be stored as; other dtypes are named in the error when a weight has one."""

_BITS = {
    "F64": 64, "I64": 64, "U64": 64, "C64": 64, "F32": 32, "I32": 32, "U32": 32, "F16": 16,
    "BF16": 16, "I16": 16, "U16": 16, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "I8": 8, "U8": 8,
    "BOOL": 8, "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4,
}  # fmt: skip
_HEADER_LIMIT = 16 << 20  # a Llama of 80 layers in one file has 0.1 MB
_MAX_DIMENSIONS = 8
_MAX_SIZE = 1 << 48


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor of the header: dtype as written, shape, and its range in the file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class SafetensorsFile:
    """An open file: `entries` by the file's own names, `metadata` its free strings."""

    path: Path
    entries: Mapping[str, Entry]
    metadata: Mapping[str, str]
    _file: Bytes

    def data(self, name: str) -> Bytes:
        """The tensor's bytes: a view of the memory map, or a copy if they lie unaligned there."""
        entry = self.entries[name]
        view = self._file[entry.begin : entry.end]
        return view if entry.begin % 4 == 0 else view.copy()


def read_safetensors(path: Path) -> SafetensorsFile:
    """Map a file and read its header.

    Raises:
        NotFoundError: no such file.
        ModelFileError: it is no safetensors file, truncated, or contradicts itself.
    """
    file = map_file(path)
    if file.size < 8:
        raise ModelFileError(f"{path}: no safetensors file: {file.size} bytes long")
    length = int.from_bytes(file[:8].tobytes(), "little")
    if length > _HEADER_LIMIT:
        raise ModelFileError(f"{path}: no safetensors file: a header of {length:,} bytes")
    if 8 + length > file.size:
        raise ModelFileError(f"{path}: truncated inside its header")
    header = parse_json(file[8 : 8 + length].tobytes(), path)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise ModelFileError(f"{path}: its __metadata__ is not a table of strings")
    start = 8 + length
    entries = {name: _entry(path, name, raw, start) for name, raw in header.items()}
    _check_cover(path, entries, start, file.size)
    return SafetensorsFile(path, entries, metadata, file)


def _entry(path: Path, name: str, raw: Any, start: int) -> Entry:
    label = f"{path}: the tensor {name[:100]!r}"
    if not isinstance(raw, dict) or raw.keys() != {"dtype", "shape", "data_offsets"}:
        raise ModelFileError(f"{label} is not described by dtype, shape and data_offsets")
    dtype, shape, offsets = raw["dtype"], raw["shape"], raw["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _BITS:
        raise ModelFileError(f"{label} has an unknown dtype {str(dtype)[:40]!r}")
    if not _sizes(shape) or len(shape) > _MAX_DIMENSIONS:
        raise ModelFileError(f"{label} has no valid shape")
    if not _sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise ModelFileError(f"{label} has no valid data_offsets")
    if prod(shape) * _BITS[dtype] != (offsets[1] - offsets[0]) * 8:
        raise ModelFileError(f"{label}: its shape and its {offsets[1] - offsets[0]:,} bytes differ")
    return Entry(dtype, tuple(shape), start + offsets[0], start + offsets[1])


def _sizes(value: Any) -> bool:
    """A list of whole numbers of sensible size; bool is an int in Python, and none here."""
    return isinstance(value, list) and all(type(n) is int and 0 <= n < _MAX_SIZE for n in value)


def _check_cover(path: Path, entries: Mapping[str, Entry], start: int, size: int) -> None:
    """The ranges must follow one another from the header to the end of the file."""
    position = start
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin != position:
            what = "overlaps the one before" if entry.begin < position else "leaves a gap before it"
            raise ModelFileError(f"{path}: the tensor {name[:100]!r} {what}")
        position = entry.end
    if position > size:
        missing = position - size
        raise ModelFileError(f"{path}: truncated: {missing:,} bytes are missing at its end")
    if position < size:
        raise ModelFileError(f"{path}: {size - position:,} bytes follow its last tensor")
