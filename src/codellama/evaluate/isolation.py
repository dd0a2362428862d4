"""What every box has, whichever tool builds it: limits, what of the system it shows, a user of its
own. bubblewrap.py and unshare.py turn this into command lines; nothing is started here.
"""

from __future__ import annotations

import os
import random
import sys
import sysconfig
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple

__all__ = ["Limits", "Shown", "as_free_user", "memory_file", "prlimit", "raw_files", "system"]

# What compilers and interpreters of Debian read; no passwords, hosts or certificates.
ETC = (
    *("alternatives", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "localtime"),
    *("java-17-openjdk", "java-21-openjdk", "mono", "php", "perl", "R", "lua"),
)
NOBODY = 65534


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one box may use.

    Attributes:
        cpu_s: CPU seconds of each process: a loaded machine changes no verdict.
        wall_s: seconds until the box is killed, whatever it does.
        memory_mb: of each process, and resident of all together.
        reserves: the runtime reserves more address space than it uses (Java, Node, Go, Mono): its
            data segment is limited instead.
    """

    cpu_s: float = 3.0
    wall_s: float = 12.0
    memory_mb: int = 1024
    processes: int = 64
    file_mb: int = 16
    disk_mb: int = 64
    output_kb: int = 256
    reserves: bool = False

    def scaled(self, factor: float) -> Limits:
        """The same limits, times `factor` for a slower machine."""
        return replace(self, cpu_s=self.cpu_s * factor, wall_s=self.wall_s * factor)


class Shown(NamedTuple):
    """One thing of the system in a box's tree.

    kind: "bind" (read-only), "link" (`source` is its text), "folder" (empty), or "hide" (an empty,
    read-only folder over what `inside` showed).
    """

    kind: Literal["bind", "link", "folder", "hide"]
    inside: str
    source: str = ""


def prlimit(limits: Limits) -> list[str]:
    memory = limits.memory_mb << 20
    cpu = max(1, round(limits.cpu_s + 0.49))
    space = f"--data={memory}" if limits.reserves else f"--as={memory}"
    return [
        "prlimit",
        space,
        f"--cpu={cpu}:{cpu + 1}",
        f"--fsize={limits.file_mb << 20}",
        f"--nproc={limits.processes}",
        "--core=0",
        "--",
    ]


@cache
def system() -> tuple[Shown, ...]:
    """The system read-only, without installed Python packages (some of which hold the benchmarks'
    answers). In order: later entries lie in or over earlier ones.
    """
    shown = [Shown("bind", "/usr", "/usr"), Shown("folder", "/etc")]
    for name in ("bin", "sbin", "lib", "lib32", "lib64"):
        path = Path("/", name)
        if path.is_symlink():
            shown.append(Shown("link", str(path), os.readlink(path)))
        elif path.is_dir():
            shown.append(Shown("bind", str(path), str(path)))
    etc = [f"/etc/{name}" for name in ETC]
    shown += [Shown("bind", path, path) for path in etc if os.path.exists(path)]
    shown.append(Shown("bind", "/python", sys.base_prefix))
    hidden = {path for path in _package_folders() if path.startswith("/usr/")}
    relative = [os.path.relpath(path, sys.base_prefix) for path in _package_folders()]
    hidden |= {f"/python/{path}" for path in relative if not path.startswith("..")}
    return (*shown, *(Shown("hide", folder) for folder in sorted(hidden)))


def _package_folders() -> list[str]:
    """Existing site-packages and dist-packages of the base interpreter and of Debian's."""
    scheme = sysconfig.get_paths(vars={"base": sys.base_prefix, "platbase": sys.base_prefix})
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    folders = {scheme["purelib"], scheme["platlib"], "/usr/lib/python3/dist-packages"}
    for base in (sys.base_prefix, "/usr/local", "/usr"):
        for name in ("site-packages", "dist-packages"):
            folders.add(f"{base}/lib/{version}/{name}")
    for path in Path("/usr/local/lib").glob("python3*/*-packages"):
        folders.add(str(path))
    return sorted(path for path in folders if os.path.isdir(path))


def as_free_user() -> list[str]:
    """Words before root's program that make it a user whom nobody else is, without capabilities.
    Root's own limit on processes does nothing: another user's does.
    """
    user = str(_free_user())
    words = ["setpriv", "--reuid", user, "--regid", user, "--clear-groups", "--no-new-privs"]
    return [*words, "--inh-caps=-all", "--bounding-set=-all"]


def _free_user() -> int:
    """A user id that nobody has: random, so that boxes of several runs do not meet."""
    with suppress(OSError, ValueError, IndexError):
        count = int(Path("/proc/self/uid_map").read_text().split()[2])
        if count < 2**31:
            return random.SystemRandom().randrange(min(20_000, count // 2), min(count, 65_000))
    return random.SystemRandom().randrange(10**9, 2 * 10**9)


def raw_files(files: Mapping[str, str | bytes]) -> dict[str, bytes]:
    return {
        name: content.encode("utf-8", "replace") if isinstance(content, str) else content
        for name, content in files.items()
    }


def memory_file(content: bytes) -> int:
    fd = os.memfd_create("box")
    view = memoryview(content)
    while view:
        view = view[os.write(fd, view) :]
    os.lseek(fd, 0, os.SEEK_SET)
    return fd
