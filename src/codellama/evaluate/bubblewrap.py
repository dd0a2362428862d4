"""The command line of bubblewrap that confines a program. Starts nothing: sandbox.py does."""

from __future__ import annotations

import os
from collections.abc import Mapping

from codellama.evaluate.isolation import (
    NOBODY,
    Limits,
    Shown,
    as_free_user,
    memory_file,
    raw_files,
    system,
)

__all__ = ["TOOLS", "bubblewrap"]

TOOLS = ("bwrap", "prlimit", "setpriv", "bash")


def bubblewrap(
    limits: Limits,
    files: Mapping[str, str | bytes],
    binds: Mapping[str, str],
    held: list[int],
) -> list[str]:
    """The command up to the program's own. Descriptors that it names are added to `held`."""
    words = ["bwrap", "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts"]
    words += ["--unshare-cgroup-try", "--die-with-parent", "--new-session", "--hostname", "box"]
    root = os.getuid() == 0
    if not root:
        words += ["--unshare-user", "--uid", str(NOBODY), "--gid", str(NOBODY)]
    for shown in system():
        words += _words(shown)
    words += ["--proc", "/proc", "--dev", "/dev"]
    for host, inside in binds.items():
        words += ["--ro-bind", host, inside]
    disk = ["--size", str(limits.disk_mb << 20), "--perms", "1777", "--tmpfs"]
    words += [*disk, "/tmp", *disk, "/dev/shm", "--perms", "0777", "--dir", "/tmp/box"]
    for name, raw in raw_files(files).items():
        fd = memory_file(raw)
        held.append(fd)
        words += ["--perms", "0444", "--file", str(fd), f"/tmp/box/{name}"]
    words += ["--remount-ro", "/", "--chdir", "/tmp/box"]
    if not root:
        return words
    words += ["--cap-drop", "ALL"]
    for capability in ("CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP"):
        words += ["--cap-add", capability]
    return words + as_free_user()


def _words(shown: Shown) -> list[str]:
    match shown.kind:
        case "bind":
            return ["--ro-bind", shown.source, shown.inside]
        case "link":
            return ["--symlink", shown.source, shown.inside]
        case "folder":
            return ["--perms", "0755", "--dir", shown.inside]
        case "hide":
            return ["--tmpfs", shown.inside, "--remount-ro", shown.inside]
