"""Files as bytes: read-only memory maps, bounded reads, strict JSON, and writing that is whole or
absent.

What the readers and writers of every format share. Knows no format. Errors are ModelFileError with
one line that names the file. Does not promise anything about a file that another program changes
or truncates while it is mapped.
"""

from __future__ import annotations

import contextlib
import errno
import json
import mmap
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from codellama.errors import ModelFileError, NotFoundError
from codellama.weights.tensor import Bytes

__all__ = [
    "atomic_file",
    "atomic_folder",
    "map_file",
    "parse_json",
    "read_bounded",
    "read_json",
    "sync_folder",
    "synced_write",
]

_JSON_LIMIT = 64 << 20  # tokenizer.json of a 256k vocabulary is 34 MB; everything else is far less


def map_file(path: Path) -> Bytes:
    """The whole file as a read-only uint8 array over a memory map; an empty array if it is empty.

    Raises:
        NotFoundError: no such file.
        ModelFileError: it cannot be read or mapped.
    """
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                return np.empty(0, np.uint8)
            return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
    except OSError as error:
        _cannot_read(path, error)


def read_bounded(path: Path, limit: int = _JSON_LIMIT) -> bytes:
    """All bytes of a file that must not be larger than `limit`. Raises as `map_file`."""
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        _cannot_read(path, error)
    if len(data) > limit:
        raise ModelFileError(f"{path}: larger than {limit:,} bytes, which this file never is")
    return data


def read_json(path: Path, limit: int = _JSON_LIMIT) -> dict[str, Any]:
    """A JSON object from a file. Raises as `map_file`, and ModelFileError if it is none."""
    return parse_json(read_bounded(path, limit), path)


def parse_json(data: bytes, path: Path) -> dict[str, Any]:
    """A JSON object, read strictly: UTF-8, no duplicate keys, no NaN; `path` names it in errors."""
    try:
        document = json.loads(
            data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant
        )
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise ModelFileError(f"{path}: not valid JSON: {reason}") from None
    if not isinstance(document, dict):
        raise ModelFileError(f"{path}: holds no JSON object")
    return document


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document: dict[str, Any] = {}
    for key, value in pairs:
        if key in document:
            raise ValueError(f"the key {key[:80]!r} appears twice")
        document[key] = value
    return document


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON number")


def _cannot_read(path: Path, error: OSError) -> NoReturn:
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        raise NotFoundError(f"{path}: no such file") from None
    raise ModelFileError(f"{path}: cannot be read: {error.strerror or error}") from None


@contextlib.contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """A new folder that becomes `target` when the block ends well and vanishes when it does not.

    Yields a temporary folder beside `target`. `target` must not exist, or be an empty folder.

    Raises:
        ModelFileError: `target` is taken, or the disk is full or cannot be written.
    """
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise ModelFileError(f"{target}: already exists: choose another folder or remove it")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = target.parent / f".{target.name}.{os.urandom(4).hex()}.partial"
        draft.mkdir()
    except OSError as error:
        raise ModelFileError(f"{target}: cannot be written: {error.strerror}") from None
    try:
        yield draft
        draft.replace(target)
        sync_folder(target.parent)
    except OSError as error:
        raise ModelFileError(f"{target}: cannot be written: {error.strerror or error}") from None
    finally:
        import shutil  # 4 ms with its compression libraries, and readers need none

        shutil.rmtree(draft, ignore_errors=True)


def atomic_file(path: Path, data: bytes) -> None:
    """Write a file that appears under its name only when it is whole and on the disk.

    Raises ModelFileError when it cannot be written; nothing is left behind then.
    """
    draft = path.with_name(f".{path.name}.{os.urandom(4).hex()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        synced_write(draft, data)
        draft.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be written: {error.strerror or error}") from None
    finally:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)


def synced_write(path: Path, data: bytes) -> None:
    """Write a small file and bring it to the disk. For use inside `atomic_folder`."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Make a rename durable, where the system lets folders be synced."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
