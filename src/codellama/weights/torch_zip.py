"""A PyTorch checkpoint file (.pth, zip format): its tensors where they lie in the memory map.

torch.save writes a zip archive whose members are stored, not compressed: NAME/data.pkl describes
the tensors, NAME/data/KEY holds each storage. Only that is read: the central directory (zip64
too), the pickle through pickle_reader.py, the storages as views. Other archives, compression,
encryption, overlapping or overhanging members and PyTorch's format before 1.6 are refused. Knows
nothing of models; checksums are not verified.

Source: PKWARE APPNOTE 6.3.10, sections 4.3 and 4.5.3; caffe2/serialize/inline_container.cc.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

from codellama.errors import ModelFileError
from codellama.weights.files import map_file
from codellama.weights.pickle_reader import TensorRecord, read_state_dict
from codellama.weights.tensor import Bytes, GGMLType

__all__ = ["TorchFile", "read_torch_file"]

STORAGE_TYPES: dict[str, GGMLType] = {
    "FloatStorage": GGMLType.F32,
    "HalfStorage": GGMLType.F16,
    "BFloat16Storage": GGMLType.BF16,
}

_END = struct.Struct("<4s4H2LH")  # end of central directory, 22 bytes
_END64_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_MAX_MEMBERS = 1 << 16
_DIRECTORY_LIMIT = 16 << 20
_UNKNOWN_32 = 0xFFFFFFFF
_UNKNOWN_16 = 0xFFFF
_LEGACY = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # the pickled magic number, torch < 1.6


@dataclass(frozen=True, slots=True)
class TorchFile:
    """An open checkpoint: tensors by the file's own names."""

    path: Path
    records: Mapping[str, TensorRecord]
    _members: Mapping[str, Bytes]  # storage key → bytes

    def type(self, name: str) -> GGMLType:
        """Storage type of a tensor. Raises ModelFileError for one that weights never have."""
        kind = self.records[name].storage.kind
        if kind not in STORAGE_TYPES:
            raise ModelFileError(
                f"{self.path}: {name[:100]!r} is stored as {kind.removesuffix('Storage')}; "
                "float32, float16 and bfloat16 can be read"
            )
        return STORAGE_TYPES[kind]

    def data(self, name: str) -> Bytes:
        """A tensor's bytes, in place. Raises ModelFileError for gaps, or outside its storage."""
        record = self.records[name]
        member = self._members.get(record.storage.key)
        size = record.storage.element_bytes
        if member is None or member.size < record.storage.length * size:
            raise ModelFileError(f"{self.path}: the data of {name[:100]!r} is missing or too short")
        if not record.is_contiguous():
            raise ModelFileError(
                f"{self.path}: {name[:100]!r} is stored with gaps: save it contiguous"
            )
        end = record.offset + prod(record.shape)
        if end > record.storage.length:
            raise ModelFileError(f"{self.path}: {name[:100]!r} reaches beyond its storage")
        return member[record.offset * size : end * size]


def read_torch_file(path: Path) -> TorchFile:
    """Map a checkpoint and read what it holds; no tensor data is touched.

    Raises:
        NotFoundError: no such file.
        ModelFileError: it is no such archive, damaged, or its pickle asks for more than tensors.
    """
    file = map_file(path)
    if file[: len(_LEGACY)].tobytes() == _LEGACY:
        raise ModelFileError(
            f"{path}: written by PyTorch before 1.6 (no zip archive): load and save it once with a "
            "newer PyTorch"
        )
    members = _Archive(path, file).members()
    pickles = [name for name in members if name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise ModelFileError(f"{path}: a zip archive, but no PyTorch checkpoint (no data.pkl)")
    folder = pickles[0].removesuffix("data.pkl")
    order = members.get(folder + "byteorder")
    if order is not None and order[:6].tobytes() != b"little":
        raise ModelFileError(f"{path}: written on a big-endian machine, which is not supported")
    try:
        records = read_state_dict(members[pickles[0]].tobytes())
    except ModelFileError as error:
        raise ModelFileError(f"{path}: {error}") from None
    start = folder + "data/"
    storages = {
        name[len(start) :]: data for name, data in members.items() if name.startswith(start)
    }
    return TorchFile(path, records, storages)


class _Archive:
    """A zip file over a memory map; every offset is checked against the file before use."""

    def __init__(self, path: Path, file: Bytes) -> None:
        self._path = path
        self._file = file

    def members(self) -> dict[str, Bytes]:
        """Every stored member by name, as views."""
        directory, count = self._directory()
        found: dict[str, Bytes] = {}
        ranges: list[tuple[int, int]] = []
        position = 0
        for _ in range(count):
            name, begin, size, position = self._member(directory, position)
            if name in found:
                raise self._damaged(f"two members called {name[:80]!r}")
            found[name] = self._file[begin : begin + size]
            ranges.append((begin, begin + size))
        ranges.sort()
        if any(a_end > b for (_, a_end), (b, _) in itertools.pairwise(ranges)):
            raise self._damaged("members overlap")
        return found

    def _directory(self) -> tuple[bytes, int]:
        """The central directory and its number of entries."""
        tail_start = max(0, self._file.size - _END.size - _UNKNOWN_16)
        tail = self._file[tail_start:].tobytes()
        at = tail.rfind(b"PK\x05\x06")
        if at < 0 or len(tail) - at < _END.size:
            raise ModelFileError(
                f"{self._path}: no zip archive, so no PyTorch checkpoint; or its end is missing"
            )
        _, _, _, _, count, size, offset, _ = _END.unpack_from(tail, at)
        if _UNKNOWN_32 in (size, offset) or count == _UNKNOWN_16:
            locator = self._range(tail_start + at - _END64_LOCATOR.size, _END64_LOCATOR.size)
            magic, _, end_offset, _ = _END64_LOCATOR.unpack(locator)
            end = _END64.unpack(self._range(end_offset, _END64.size))
            if magic != b"PK\x06\x07" or end[0] != b"PK\x06\x06":
                raise self._damaged("no zip64 directory")
            count, size, offset = end[7:]
        if count > _MAX_MEMBERS or size > _DIRECTORY_LIMIT:
            raise self._damaged("a directory larger than any checkpoint's")
        return self._range(offset, size), count

    def _member(self, directory: bytes, position: int) -> tuple[str, int, int, int]:
        """One entry: (name, first byte, size, where the next entry starts)."""
        if len(directory) - position < _CENTRAL.size:
            raise self._damaged("a short directory")
        field = _CENTRAL.unpack_from(directory, position)
        magic, flags, method, packed, size = field[0], field[3], field[4], field[8], field[9]
        name_size, extra_size, comment_size, offset = field[10], field[11], field[12], field[16]
        after_name = position + _CENTRAL.size + name_size
        after = after_name + extra_size + comment_size
        if magic != b"PK\x01\x02" or after > len(directory):
            raise self._damaged("a malformed directory entry")
        name = directory[after_name - name_size : after_name].decode("utf-8", "replace")
        extra = directory[after_name : after_name + extra_size]
        size, packed, offset = self._wide(extra, [size, packed, offset])
        if method != 0 or flags & 1 or packed != size:
            raise self._damaged(f"{name[:80]!r} is compressed or encrypted; torch.save never does")
        return name, self._data_offset(offset, size), size, after

    def _wide(self, extra: bytes, fields: list[int]) -> list[int]:
        """Take 64-bit values from the zip64 extra field for those that 32 bits could not hold."""
        while len(extra) >= 4 and _UNKNOWN_32 in fields:
            kind, length = struct.unpack_from("<2H", extra)
            body, extra = extra[4 : 4 + length], extra[4 + length :]
            if kind != 1:
                continue
            for index in [i for i, value in enumerate(fields) if value == _UNKNOWN_32]:
                if len(body) < 8:
                    raise self._damaged("a short zip64 field")
                fields[index] = int.from_bytes(body[:8], "little")
                body = body[8:]
            break
        return fields

    def _data_offset(self, header: int, size: int) -> int:
        """Where a member's data begins, read from its local header."""
        fields = _LOCAL.unpack(self._range(header, _LOCAL.size))
        begin = header + _LOCAL.size + int(fields[9]) + int(fields[10])
        if fields[0] != b"PK\x03\x04" or begin + size > self._file.size:
            raise self._damaged("a member that lies outside the file: is it truncated?")
        return begin

    def _range(self, begin: int, size: int) -> bytes:
        if begin < 0 or begin + size > self._file.size:
            raise self._damaged("an offset outside the file: is it truncated?")
        return self._file[begin : begin + size].tobytes()

    def _damaged(self, what: str) -> ModelFileError:
        return ModelFileError(f"{self._path}: a damaged zip archive: {what}")
