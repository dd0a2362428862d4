"""The texts of evaluation suites, for the decontaminator: every string of some length in their
files, whatever the fields are called (JSON, JSON lines, CSV, gzipped or not).
"""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from codellama.errors import RequestError

__all__ = ["evaluation_texts"]

_SHORTEST = 40  # characters; ten words are longer
_ENDINGS = (".jsonl", ".json", ".csv", ".txt")


def evaluation_texts(paths: Iterable[Path]) -> set[str]:
    """All texts of files and folders. Raises RequestError for what cannot be read."""
    found: set[str] = set()
    for path in paths:
        if not path.exists():
            raise RequestError(f"{path}: no such file or folder of evaluations")
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        for file in files:
            name = file.name.removesuffix(".gz")
            if name.endswith(_ENDINGS):
                found.update(_texts(file, name))
    return {text for text in found if len(text) >= _SHORTEST}


def _texts(file: Path, name: str) -> Iterator[str]:
    try:
        raw = file.read_bytes()
        text = (gzip.decompress(raw) if file.name.endswith(".gz") else raw).decode("utf-8")
        if name.endswith(".csv"):
            for row in csv.reader(io.StringIO(text)):
                yield from row
        elif name.endswith(".txt"):
            yield from text.splitlines()
        elif name.endswith(".json"):
            yield from _strings(json.loads(text))
        else:
            for line in text.splitlines():
                if line.strip():
                    yield from _strings(json.loads(line))
    except (OSError, EOFError, ValueError, csv.Error, RecursionError) as error:
        raise RequestError(f"{file}: cannot be read as an evaluation: {error}") from None


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _strings(inner)
    elif isinstance(value, list):
        if value and all(isinstance(v, str) for v in value):
            yield "\n".join(value)
        for inner in value:
            yield from _strings(inner)
