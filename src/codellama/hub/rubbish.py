"""What crashes and changed minds leave in a store, and from what age it is rubbish.

Touches `blobs` and `manifests` only: the store's folder itself may hold files of the user's own.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from codellama.hub.files import TEMPORARY

__all__ = ["TEMPORARY_AGE_S", "clear_rubbish"]

TEMPORARY_AGE_S = 3600.0  # no atomic write takes an hour
UNUSED_AGE_S = 30 * 86400.0  # a 131 GB pull on a slow line takes weeks before its manifest is there


def clear_rubbish(root: Path, used: set[str] | None, now: float) -> None:
    """Delete temporary files after an hour, and after a month blobs and partial downloads that are
    not `used` (digests that manifests name; None if nobody knows: then those stay).
    """
    for path in (*root.glob("blobs/*"), *root.glob("manifests/*/*/*/*")):
        with contextlib.suppress(OSError):  # gone meanwhile
            age = now - path.lstat().st_mtime
            if _is_rubbish(path, age, used):
                path.unlink()


def _is_rubbish(path: Path, age: float, used: set[str] | None) -> bool:
    if path.name.endswith(TEMPORARY):
        return age > TEMPORARY_AGE_S
    is_blob = path.name.startswith("sha256-")
    unused = used is not None and path.name.replace("-", ":", 1) not in used
    return is_blob and unused and age > UNUSED_AGE_S
