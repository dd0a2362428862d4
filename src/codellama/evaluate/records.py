"""JSON Lines that survive a kill: whole lines are kept, a torn last one is dropped and redone."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from codellama.errors import RequestError

__all__ = ["Appender", "read_lines", "write_json", "write_lines"]

Record = dict[str, Any]
LONGEST_LINE = 64 << 20


def read_lines(path: Path, *, torn: bool = False) -> list[Record]:
    """Every record of a file; with `torn`, a damaged last line is left out.

    Raises:
        RequestError: a line is not a JSON object, by number.
    """
    return list(_parse(path, torn)) if path.exists() or not torn else []


def _parse(path: Path, torn: bool) -> Iterator[Record]:
    try:
        with path.open("rb") as file:
            number = 0
            while line := file.readline(LONGEST_LINE):
                number += 1
                if torn and not line.endswith(b"\n"):
                    return
                if line.strip():
                    yield _record(path, number, line)
    except OSError as error:
        raise RequestError(f"{path}: {error.strerror}") from None


def _record(path: Path, number: int, line: bytes) -> Record:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        raise RequestError(f"{path}, line {number}: not JSON") from None
    if not isinstance(record, dict):
        raise RequestError(f"{path}, line {number}: an object is needed, such as {{'task_id': …}}")
    return record


class Appender:
    """Appends records, each as one whole line, flushed. Drops a torn last line first."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file: IO[bytes] = path.open("ab+")
        self._file.seek(0)
        whole = sum(len(line) for line in self._file if line.endswith(b"\n"))
        self._file.truncate(whole)
        self._file.seek(0, os.SEEK_END)

    def write(self, record: Record) -> None:
        self._file.write(json.dumps(record, ensure_ascii=False).encode("utf-8", "replace") + b"\n")
        self._file.flush()

    def __enter__(self) -> Appender:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def write_lines(path: Path, records: Iterable[Record]) -> None:
    """The whole file at once, or not at all."""
    text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    _replace(path, text)


def write_json(path: Path, value: Any) -> None:
    """Indented JSON, the whole file at once, or not at all."""
    _replace(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def _replace(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    fd, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(text.encode("utf-8", "replace"))
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
