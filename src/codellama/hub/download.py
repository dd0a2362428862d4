"""One file over HTTP, resumed, verified and put in place whole. Used for every registry.

The bytes go to `TARGET.partial` beside the target, so that a partial file is a prefix of the whole
one and its length is all the state there is (plus the server's ETag in `TARGET.partial.json`). The
sha256 is over every byte, those of earlier runs included: what a power cut or another server did to
the prefix is found at the end, and the download then starts over.

Knows neither names nor manifests. The caller holds the lock that keeps two processes from one
target.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from codellama.errors import DownloadError
from codellama.hub.files import (
    BINARY,
    PARTIAL,
    check_room,
    disk_error,
    human,
    read_bounded,
    replace,
    write_all,
    write_atomic,
)
from codellama.hub.transport import Retryable, Transport

if TYPE_CHECKING:
    import httpx

__all__ = ["Label", "Progress", "download", "quiet"]

Progress = Callable[[int, int, str], None]
"""`progress(bytes_done, bytes_total, label)`; a total of 0 is a step without bytes. An exception it
raises stops the download and leaves the partial file for the next run.
"""

_REPORT_S = 0.05
_CHUNK = 1 << 20
_CONTENT_RANGE = re.compile(r"bytes (\d{1,16})-(\d{1,16})/(\d{1,16}|\*)")


class Label(str):
    """What a progress callback shows; programs that report digests (Ollama's API does) find the
    whole one here.
    """

    __slots__ = ("digest",)
    digest: str

    def __new__(cls, text: str, digest: str = "") -> Label:
        label = super().__new__(cls, text)
        label.digest = digest
        return label


def quiet(done: int, total: int, label: str) -> None:
    """The progress callback that shows nothing."""


def download(
    transport: Transport,
    url: str,
    target: Path,
    *,
    size: int,
    sha256: str,
    label: str,
    progress: Progress = quiet,
) -> None:
    """Bring `url` to `target`, or raise DownloadError and leave whatever was at `target` as it was.

    Args:
        size, sha256: of the whole file, from a manifest; both are enforced.
        label: handed to `progress`.
    """
    with _Partial(target, size, label, progress) as partial:
        check_room(target.parent, size - partial.done)
        resumed = partial.done > 0
        _fetch(transport, url, partial)
        if partial.sha256 != sha256 and resumed:
            partial.restart()  # the old prefix may be to blame: once more, all of it
            _fetch(transport, url, partial)
        if partial.sha256 != sha256:
            partial.discard()
            raise DownloadError(
                f"the bytes of {label} are not those promised (sha256 {partial.sha256[:12]}… "
                f"instead of {sha256[:12]}…) and were thrown away: pull again"
            )
        partial.finish()


def _fetch(transport: Transport, url: str, partial: _Partial) -> None:
    """Fill the partial file to its size, over as many connections as it takes."""
    backoff = transport.backoff()
    while partial.done < partial.size:
        before = partial.done
        try:
            with transport.stream(url, partial.request_headers()) as response:
                _receive(response, partial)
        except Retryable as error:
            if partial.done > before + _CHUNK:
                backoff.progressed()
            backoff.failed(error)


def _receive(response: httpx.Response, partial: _Partial) -> None:
    """Append one response to the partial file. Raises Retryable if it ends early."""
    if response.status_code == 416 or not _continues(response, partial):
        partial.restart()
        if response.status_code != 200:
            raise Retryable("the server could not continue the partial file")
    left = partial.size - partial.done
    promised = response.headers.get("Content-Length", "")
    if promised.isdecimal() and len(promised) < 20 and int(promised) > left:
        raise DownloadError(
            f"the server wants to send {human(int(promised))} for {partial.label} "
            f"instead of {human(left)}: refused"
        )
    partial.remember(response.headers.get("ETag", ""))
    for chunk in response.iter_raw():
        if len(chunk) > partial.size - partial.done:
            partial.discard()
            raise DownloadError(
                f"the server sent more bytes for {partial.label} than promised: thrown away"
            )
        partial.append(chunk)
    if partial.done < partial.size:
        raise Retryable(
            f"{partial.label} ended after {human(partial.done)} of {human(partial.size)}"
        )


def _continues(response: httpx.Response, partial: _Partial) -> bool:
    """Whether the body begins where the partial file ends."""
    if response.status_code != 206:
        return partial.done == 0
    match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    return (
        match is not None
        and int(match[1]) == partial.done
        and (match[3] == "*" or int(match[3]) == partial.size)
    )


class _Partial:
    """The growing file and its running hash. Invariant: `done` bytes are in the file and in the
    hash.
    """

    def __init__(self, target: Path, size: int, label: str, progress: Progress) -> None:
        self.target = target
        self.size = size
        self.label = label
        self.done = 0
        self._path = target.with_name(target.name + PARTIAL)
        self._state = target.with_name(target.name + PARTIAL + ".json")
        self._progress = progress
        self._reported = 0.0
        self._hash = hashlib.sha256()
        self._file = -1
        self._etag = ""

    def __enter__(self) -> _Partial:
        try:
            flags = os.O_RDWR | os.O_CREAT | BINARY
            self._file = os.open(self._path, flags, 0o644)
            self._adopt()
        except OSError as error:
            self.__exit__()
            raise disk_error(error, self.target.parent) from error
        return self

    def __exit__(self, *_: object) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    def request_headers(self) -> dict[str, str]:
        """Ask for the rest, and for all of it if the file has changed since (a strong ETag says
        so).
        """
        if not self.done:
            return {}
        headers = {"Range": f"bytes={self.done}-"}
        if self._etag:
            headers["If-Range"] = self._etag
        return headers

    def remember(self, etag: str) -> None:
        """Keep the ETag for runs to come; weak ones (`W/…`) cannot be used with ranges."""
        etag = etag if etag.startswith('"') and len(etag) < 512 and etag.isascii() else ""
        if etag != self._etag:
            self._etag = etag
            write_atomic(self._state, json.dumps({"etag": etag}).encode())

    def append(self, chunk: bytes) -> None:
        try:
            write_all(self._file, chunk)
        except OSError as error:
            raise disk_error(error, self.target.parent) from error
        self._hash.update(chunk)
        self.done += len(chunk)
        self._report()

    def restart(self) -> None:
        """Forget every byte."""
        os.ftruncate(self._file, 0)
        os.lseek(self._file, 0, os.SEEK_SET)
        self._hash = hashlib.sha256()
        self._etag = ""
        self.done = 0

    def finish(self) -> None:
        """Make the bytes durable, then give them their name."""
        try:
            os.fsync(self._file)
            self.__exit__()
            replace(self._path, self.target)
        except OSError as error:
            raise disk_error(error, self.target.parent) from error
        self._state.unlink(missing_ok=True)
        self._progress(self.size, self.size, self.label)

    def discard(self) -> None:
        self.__exit__()
        self._path.unlink(missing_ok=True)
        self._state.unlink(missing_ok=True)

    def _adopt(self) -> None:
        """Take over what an earlier run left: hash it, and know its ETag."""
        if os.fstat(self._file).st_size > self.size:
            self.restart()
        while chunk := os.read(self._file, _CHUNK):
            self._hash.update(chunk)
            self.done += len(chunk)
            self._report()
        with contextlib.suppress(OSError, ValueError, AttributeError, RecursionError):
            etag = json.loads(read_bounded(self._state, 4096)).get("etag")
            self._etag = (
                etag if isinstance(etag, str) and etag.isascii() and etag.isprintable() else ""
            )

    def _report(self) -> None:
        now = time.monotonic()
        if now - self._reported >= _REPORT_S:
            self._reported = now
            self._progress(self.done, self.size, self.label)
