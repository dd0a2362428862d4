"""The command lines that confine a program: bubblewrap's mounts and namespaces, prlimit's limits, a
user of its own. Starts nothing but the probe of `isolation_problem`; sandbox.py does.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

__all__ = ["Limits", "bubblewrap", "isolation_problem", "memory_file", "prlimit"]

# What compilers and interpreters of Debian read; no passwords, hosts or certificates.
ETC = (
    *("alternatives", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "localtime"),
    *("java-17-openjdk", "java-21-openjdk", "mono", "php", "perl", "R", "lua"),
)


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


@cache
def isolation_problem() -> str | None:
    """Why programs cannot be confined here, or None."""
    if sys.platform != "linux":
        return f"bubblewrap needs Linux, this is {sys.platform}"
    for tool in ("bwrap", "prlimit", "setpriv", "bash"):
        if shutil.which(tool) is None:
            return f"{tool} is not installed"
    held: list[int] = []
    arguments = bubblewrap(Limits(), {}, {}, held)
    try:
        done = subprocess.run(
            [*arguments, "true"], capture_output=True, text=True, pass_fds=held, timeout=20
        )
    except subprocess.TimeoutExpired:
        return "bubblewrap hangs"
    finally:
        for fd in held:
            os.close(fd)
    if done.returncode:
        return f"bubblewrap does not work here ({done.stderr.strip()[:200]})"
    return None


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
        words += ["--unshare-user", "--uid", "65534", "--gid", "65534"]
    words += [*_system(), "--proc", "/proc", "--dev", "/dev"]
    for host, inside in binds.items():
        words += ["--ro-bind", host, inside]
    disk = ["--size", str(limits.disk_mb << 20), "--perms", "1777", "--tmpfs"]
    words += [*disk, "/tmp", *disk, "/dev/shm", "--perms", "0777", "--dir", "/tmp/box"]
    for name, content in files.items():
        raw = content.encode("utf-8", "replace") if isinstance(content, str) else content
        fd = memory_file(raw)
        held.append(fd)
        words += ["--perms", "0444", "--file", str(fd), f"/tmp/box/{name}"]
    words += ["--remount-ro", "/", "--chdir", "/tmp/box"]
    if not root:
        return words
    # Root's own limit on processes does nothing: another user's does. One user per box.
    user = str(_free_user())
    words += ["--cap-drop", "ALL"]
    for capability in ("CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP"):
        words += ["--cap-add", capability]
    words += ["setpriv", "--reuid", user, "--regid", user, "--clear-groups", "--no-new-privs"]
    return [*words, "--inh-caps=-all", "--bounding-set=-all"]


def _free_user() -> int:
    """A user id that nobody has: random, so that boxes of several runs do not meet."""
    with suppress(OSError, ValueError, IndexError):
        count = int(Path("/proc/self/uid_map").read_text().split()[2])
        if count < 2**31:
            return random.SystemRandom().randrange(min(20_000, count // 2), min(count, 65_000))
    return random.SystemRandom().randrange(10**9, 2 * 10**9)


@cache
def _system() -> tuple[str, ...]:
    """Arguments that show the system read-only, without installed Python packages (some of which
    hold the benchmarks' answers).
    """
    words = ["--ro-bind", "/usr", "/usr", "--perms", "0755", "--dir", "/etc"]
    for name in ("bin", "sbin", "lib", "lib32", "lib64"):
        path = Path("/", name)
        if path.is_symlink():
            words += ["--symlink", os.readlink(path), str(path)]
        elif path.is_dir():
            words += ["--ro-bind", str(path), str(path)]
    for name in ETC:
        if os.path.exists(f"/etc/{name}"):
            words += ["--ro-bind", f"/etc/{name}", f"/etc/{name}"]
    words += ["--ro-bind", sys.base_prefix, "/python"]
    hidden = {path for path in _package_folders() if path.startswith("/usr/")}
    relative = [os.path.relpath(path, sys.base_prefix) for path in _package_folders()]
    hidden |= {f"/python/{path}" for path in relative if not path.startswith("..")}
    for folder in sorted(hidden):
        words += ["--tmpfs", folder, "--remount-ro", folder]
    return tuple(words)


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


def memory_file(content: bytes) -> int:
    fd = os.memfd_create("box")
    view = memoryview(content)
    while view:
        view = view[os.write(fd, view) :]
    os.lseek(fd, 0, os.SEEK_SET)
    return fd
