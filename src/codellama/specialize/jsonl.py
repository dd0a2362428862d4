"""A log of JSON lines that a kill may cut off at any byte: rows are appended, and a last line that
is not whole is taken out of the file before more are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

__all__ = ["append_row", "read_rows"]


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of a log, none where there is no file. A last line that a kill cut off is taken out of
    the file, too: what is appended next would become a part of it.
    """
    if not path.exists():
        return []
    raw = path.read_bytes()
    whole = raw[: raw.rfind(b"\n") + 1]
    if len(whole) < len(raw):
        with path.open("r+b") as file:
            file.truncate(len(whole))
    return [json.loads(line) for line in whole.splitlines()]


def append_row(path: Path, row: dict[str, Any]) -> None:
    """One row more."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row, ensure_ascii=False) + "\n")
