"""Files that survive a crash: atomic writes, locks between processes, hashing, room on the disk.

Knows nothing about models or networks. A name that ends in `.partial` is a download that may be
resumed, one that ends in `.tmp` is rubbish once its writer is gone; anything else is whole.

Locks are advisory (flock, or msvcrt on Windows). On a file system without locks they do nothing:
two processes may then do the same work twice, and the atomic rename still keeps every file whole.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from codellama.errors import DownloadError

__all__ = [
    "BINARY",
    "PARTIAL",
    "TEMPORARY",
    "bytes_below",
    "check_room",
    "human",
    "lock",
    "read_bounded",
    "replace",
    "sha256_of",
    "write_all",
    "write_atomic",
]

PARTIAL = ".partial"
TEMPORARY = ".tmp"
BINARY = getattr(os, "OBINARY", 0)  # Windows alone has it, and would turn newlines into two
_LOCK_POLL_S = 0.1  # short enough for a person, long enough to cost nothing
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EINVAL, errno.ENOSYS)
_FULL = (errno.ENOSPC, errno.EDQUOT)


def write_all(file: int, data: bytes | memoryview) -> None:
    """Write every byte to a file descriptor. The one place where downloads meet the disk."""
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]


def write_atomic(path: Path, data: bytes) -> None:
    """Put `data` at `path`, whole or not at all, also through a power cut. Makes the folder if need
    be.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}-{os.urandom(4).hex()}{TEMPORARY}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | BINARY, 0o644)
        try:
            write_all(file, data)
            os.fsync(file)
        finally:
            os.close(file)
        replace(temporary, path)
    except OSError as error:
        raise disk_error(error, path.parent) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def replace(source: Path, target: Path) -> None:
    """Rename over `target` and make the rename itself durable."""
    os.replace(source, target)
    if sys.platform != "win32":  # a folder cannot be opened there, and NTFS journals the rename
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def read_bounded(path: Path, limit: int) -> bytes:
    """The bytes of a file that should be small. Raises ValueError beyond `limit`, OSError as `open`
    does.
    """
    with path.open("rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise ValueError(f"{path.name} has more than {limit} bytes")
    return data


def sha256_of(path: Path) -> str:
    """64 hex digits. About 1 GB/s with SHA instructions, 0.4 without."""
    import hashlib

    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_room(folder: Path, needed: int) -> None:
    """Raise DownloadError unless the disk of `folder` has `needed` bytes free, before a byte is
    fetched.
    """
    import shutil

    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DownloadError(
            f"{human(needed)} are needed in {folder} and {human(free)} are free: "
            f"free {human(needed - free)} or set CODELLAMA_MODELS to a folder on a larger disk"
        )


def disk_error(error: OSError, folder: Path) -> DownloadError:
    """A DownloadError that says what the disk said."""
    if error.errno in _FULL:
        return DownloadError(
            f"the disk that holds {folder} is full: free some room and run the same command again, "
            "or set CODELLAMA_MODELS to a folder on another disk"
        )
    return DownloadError(f"cannot write in {folder}: {error.strerror or error}")


def bytes_below(folder: Path) -> int:
    """What a folder takes on the disk; a file with several links counts once."""
    files: dict[tuple[int, int], int] = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):  # gone meanwhile
                stat = os.lstat(os.path.join(parent, name))
                files[stat.st_dev, stat.st_ino or len(files)] = stat.st_size
    return sum(files.values())


def human(size: int) -> str:
    """Decimal units, as disks are sold. `human(98_362_432) == '98.4 MB'`."""
    value, unit = float(size), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 999.95 or unit == "TB":
            break
        value /= 1000
    return f"{size} B" if unit == "B" else f"{value:.1f} {unit}"


@contextlib.contextmanager
def lock(path: Path, waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold an exclusive lock between threads and processes. `waiting` is called once if another
    holds it.

    The lock file stays behind, empty: removing it would let two holders in. The kernel frees the
    lock of a process that dies, so none is ever stale.

    Raises DownloadError where the lock file cannot be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise disk_error(error, path.parent) from error
    try:
        told = False
        while not _try_lock(file):
            if waiting and not told:
                waiting()
                told = True
            time.sleep(_LOCK_POLL_S)
        yield
    finally:
        os.close(file)  # frees the lock


def _try_lock(file: int) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in _NO_LOCKS
    return True
