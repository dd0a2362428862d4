"""One document of a corpus with where it came from; and shards of them as JSON lines.

    {"id", "text", "language", "set", "license", "source", "path"}

`id` is the hash of the text: equal texts are equal documents. A conversation's text is JSON.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from codellama.errors import ModelFileError

__all__ = ["CHAT", "Record", "chat_text", "read_shard", "text_id", "turns_of", "write_shard"]

CHAT = "chat"
"""The language of conversations, whose text is JSON: [[role, content], …]."""


def text_id(text: str) -> str:
    """16 hex digits of the text."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Record:
    """A document. `set` is the part of the mix it belongs to; `source` the package or folder."""

    text: str
    language: str = "text"
    set: str = "code"
    license: str = ""
    source: str = ""
    path: str = ""

    @property
    def id(self) -> str:
        return text_id(self.text)

    def with_text(self, text: str) -> Record:
        return replace(self, text=text)


def chat_text(turns: Sequence[tuple[str, str]]) -> str:
    """The text of a record that holds a conversation, (role, content) turns."""
    return json.dumps(turns, ensure_ascii=False)


def turns_of(record: Record) -> list[tuple[str, str]]:
    """The inverse of `chat_text`."""
    return [(str(role), str(content)) for role, content in json.loads(record.text)]


def write_shard(path: Path, records: Iterable[Record]) -> int:
    """Write gzipped JSON lines; returns how many. The bytes depend on the records alone."""
    count = 0
    with path.open("wb") as raw, gzip.GzipFile("", "wb", 6, raw, mtime=0) as file:
        for record in records:
            line = json.dumps({"id": record.id, **asdict(record)}, ensure_ascii=False)
            file.write(line.encode("utf-8", "surrogatepass") + b"\n")
            count += 1
    return count


def read_shard(path: Path) -> Iterator[Record]:
    """Raises ModelFileError for a damaged shard."""
    try:
        with gzip.open(path, "rt", encoding="utf-8", errors="surrogatepass") as file:
            for line in file:
                fields = json.loads(line)
                if not isinstance(fields, dict) or not all(
                    isinstance(value, str) for value in fields.values()
                ):
                    raise ValueError("a line is no document")
                fields.pop("id")
                yield Record(**fields)
    except (
        OSError,
        EOFError,
        zlib.error,
        ValueError,
        TypeError,
        KeyError,
        RecursionError,
    ) as error:
        raise ModelFileError(f"{path}: damaged shard: {error}: build the corpus again") from None
