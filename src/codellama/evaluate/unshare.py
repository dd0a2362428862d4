"""The same box by util-linux's `unshare` and `mount`, for machines without bubblewrap. Starts
nothing: sandbox.py does.

Differences from bubblewrap's box, none of which shows anything more: loopback is down, /dev has no
terminals, and the outermost process holds the box's descriptors until its end, so that a candidate
which closes its socket and lives on is judged at its time limit instead of at once. Some twenty
mounts by processes of their own take 80 ms where bubblewrap takes 3 (CPU time, one box).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from shlex import quote

from codellama.evaluate.isolation import (
    NOBODY,
    Limits,
    Shown,
    as_free_user,
    memory_file,
    raw_files,
    system,
)

__all__ = ["TOOLS", "unshare"]

TOOLS = ("unshare", "mount", "umount", "pivot_root", "prlimit", "setpriv", "bash")
DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
# nosuid and nodev always: a mount that has them may not lose them in a user namespace.
READ_ONLY = "bind,ro,nosuid,nodev"


def unshare(
    limits: Limits,
    files: Mapping[str, str | bytes],
    binds: Mapping[str, str],
    held: list[int],
) -> list[str]:
    """The command up to the program's own. Descriptors that it names are added to `held`."""
    words = ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--net", "--ipc"]
    words += ["--uts", "--cgroup", "--fork", "--kill-child"]
    if os.getuid() == 0:
        drop = as_free_user()
    else:
        # The mounts need the namespace's root; a namespace within takes it away again.
        words += ["--user", "--map-root-user"]
        drop = ["unshare", "--user", f"--map-user={NOBODY}", f"--map-group={NOBODY}"]
        drop += ["setpriv", "--no-new-privs"]
    lines = _tree(limits, binds)
    for name, raw in raw_files(files).items():
        fd = memory_file(raw)
        held.append(fd)
        path = quote(f"$box/{name}").replace("$box", "'\"$box\"'")
        lines.append(f"cat <&{fd} >{path}; exec {fd}<&-; chmod 444 {path}")
    lines += _enter()
    # The box's init: it stays, since what it becomes would lose the signal of its parent's death;
    # when it ends, all processes do. What bash says about a killed child is not the program's.
    lines += ["exec {own}>&2 2>/dev/null", '"$@" 2>&$own {own}>&-', "exit $?"]
    return [*words, "bash", "-c", "\n".join(lines), "box", *drop]


def _tree(limits: Limits, binds: Mapping[str, str]) -> list[str]:
    """Shell lines that build the new root under $root, and leave its writable folder in $box."""
    sources = [shown.source for shown in system() if shown.kind == "bind"]
    disk = f"size={limits.disk_mb << 20},mode=1777,nosuid,nodev"
    lines = [
        "set -e; umask 022; PATH=$PATH:/usr/sbin:/sbin",
        f"root={quote(_mount_point([*sources, *binds]))}; box=$root/tmp/box",
        "mount -t tmpfs -o size=1m,mode=755,nosuid,nodev box $root",
    ]
    for shown in system():
        lines.append(_line(shown))
    lines += ["mkdir $root/proc $root/dev $root/tmp", "mount -t proc proc $root/proc"]
    for name in DEVICES:
        lines.append(f": >$root/dev/{name}; mount --bind /dev/{name} $root/dev/{name}")
    links = ("fd", ""), ("stdin", "/0"), ("stdout", "/1"), ("stderr", "/2")
    lines += [f"ln -s /proc/self/fd{tail} $root/dev/{name}" for name, tail in links]
    for host, inside in binds.items():
        lines.append(_line(Shown("bind", inside, host)))
    lines.append(f"mount -t tmpfs -o {disk} box $root/tmp")
    lines.append(f"mkdir $root/dev/shm; mount -t tmpfs -o {disk} box $root/dev/shm")
    lines.append("mkdir -m 777 $box; chmod 777 $box")
    return lines


def _line(shown: Shown) -> str:
    inside, source = quote(shown.inside), quote(shown.source)
    match shown.kind:
        case "bind":
            make = f"mkdir -p $root{inside}"
            if os.path.isfile(shown.source):
                make = f"mkdir -p $root{quote(os.path.dirname(shown.inside))}; : >$root{inside}"
            return f"{make}; mount -o {READ_ONLY} {source} $root{inside}"
        case "link":
            return f"ln -s {source} $root{inside}"
        case "folder":
            return f"mkdir -p $root{inside}"
        case "hide":
            return f"mount -t tmpfs -o ro,size=4k,mode=755,nosuid,nodev box $root{inside}"


def _enter() -> list[str]:
    """Make the tree the root, read-only, and let go of the old one."""
    return [
        "hostname box 2>/dev/null || true",
        "cd $root; pivot_root . .; umount -l .",
        "cd /; mount -o remount,bind,ro,nosuid,nodev /",
        "cd /tmp/box",
    ]


def _mount_point(sources: Sequence[str]) -> str:
    """A folder that no source lies in: the tree covers it, in the box's own namespace only."""
    for folder in ("/mnt", "/media", "/srv", "/opt", "/home", "/var"):
        inside = any(Path(source).resolve().is_relative_to(folder) for source in sources)
        if os.path.isdir(folder) and not inside:
            return folder
    return "/tmp"
