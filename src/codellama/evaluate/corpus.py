"""Held-out code: every tenth file of a folder, by a hash of its path, so that anyone can hold the
same files out of training. Without a folder, the standard library of the Python that runs this.
"""

from __future__ import annotations

import hashlib
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from codellama.errors import NotFoundError

__all__ = ["held_out", "held_out_files"]

SHARE = 10
LONGEST = 2 << 20


def held_out(name: str) -> bool:
    """Whether a file of this relative path is held out."""
    return hashlib.sha256(name.encode()).digest()[0] % SHARE == 0


def held_out_files(folder: str | None = None) -> Iterator[tuple[str, str]]:
    """(relative path, text) of held-out Python files, in order of the hash.

    Raises:
        NotFoundError: no such folder, or nothing in it.
    """
    root = Path(folder or sysconfig.get_paths()["stdlib"])
    if not root.is_dir():
        raise NotFoundError(f"--corpus {root}: no such folder")
    names = [str(path.relative_to(root)) for path in root.rglob("*.py")]
    kept = [name for name in names if held_out(name) and "site-packages" not in name]
    if not kept:
        raise NotFoundError(f"--corpus {root}: no held-out Python files (one in {SHARE} is)")
    for name in sorted(kept, key=lambda each: hashlib.sha256(each.encode()).digest()):
        path = root / name
        try:
            if path.stat().st_size <= LONGEST:
                yield name, path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            continue
