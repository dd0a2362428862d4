"""API keys, hashed at rest: `codellama serve keys` makes them, requests are checked against them.

A key is 256 random bits, so one SHA-256 is enough: there is nothing to guess that a slow hash would
protect. The file holds one line per key: hash, a space, a label.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
from pathlib import Path

from codellama.errors import RequestError
from codellama.hub.files import read_bounded, write_atomic

__all__ = ["KeyFile"]

_LINE = re.compile(r"([0-9a-f]{64})(?: (.{0,100}))?")
LIMIT = 1 << 20


class KeyFile:
    """A file of hashed keys; read again when it changes, so that keys can be added and revoked
    while the server runs.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read_at = -1
        self._hashes: dict[str, str] = {}
        self._refresh()

    def add(self, label: str = "") -> str:
        """A new key; it is shown this once."""
        key = f"cl-{secrets.token_urlsafe(32)}"
        label = " ".join(label.split())[:100]
        lines = [f"{h} {name}".rstrip() for h, name in self._hashes.items()]
        lines.append(f"{_hash(key)} {label}".rstrip())
        write_atomic(self._path, ("\n".join(lines) + "\n").encode())
        os.chmod(self._path, 0o600)
        self._refresh()
        return key

    def knows(self, key: str) -> bool:
        """Whether it is one of the keys, in constant time per key."""
        self._refresh()
        wanted = _hash(key)
        return any([hmac.compare_digest(wanted, known) for known in self._hashes])

    @property
    def labels(self) -> list[str]:
        return list(self._hashes.values())

    def _refresh(self) -> None:
        try:
            changed = self._path.stat().st_mtime_ns
        except OSError:
            self._hashes, self._read_at = {}, -1
            return
        if changed == self._read_at:
            return
        try:
            text = read_bounded(self._path, LIMIT).decode()
        except (OSError, ValueError):
            raise RequestError(f"the key file {self._path.name} cannot be read") from None
        matches = [_LINE.fullmatch(line.strip()) for line in text.splitlines() if line.strip()]
        if not all(matches):
            raise RequestError(f"the key file {self._path.name} holds lines that are no keys")
        self._hashes = {m[1]: m[2] or "" for m in matches if m is not None}
        self._read_at = changed


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
