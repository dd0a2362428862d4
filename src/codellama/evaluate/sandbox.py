"""Untrusted programs, confined: one box per program, by bubblewrap or else by util-linux's unshare.

Contained: no network; a read-only system without the user's files, site-packages or this project;
a private /tmp of bounded size; a user id of its own (as root: a random one, with every capability
dropped); its own processes only, all of which die with the box. Limited: CPU time of each process,
wall time, address space of each process and resident memory of all together, number of processes,
size of files and of output.

Not contained: the kernel is shared, so a kernel exploit escapes; a program learns the machine's
architecture, clock and /usr. Nothing here judges an answer: see python_judge.py and languages.py.

Raises SandboxError where there is no isolation, and says so in the result where a box could not be
started: that is never the program's fault.
"""

from __future__ import annotations

import os
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from codellama.errors import CodeLlamaError
from codellama.evaluate.backends import Backend, command_line, find_backend
from codellama.evaluate.isolation import Limits, memory_file, prlimit, raw_files

__all__ = ["Box", "Ended", "Limits", "Sandbox", "SandboxError", "Status", "watch"]

Status = Literal["exited", "cpu", "wall", "memory", "output", "not started"]

PYTHON = f"/python/bin/python{sys.version_info[0]}.{sys.version_info[1]}"
"""The interpreter inside a box: the one that runs us, without its site-packages. By the name that
every installation has: Debian's own has no `python`.
"""

POLL_S = 0.05  # 64 processes that fill memory at 10 GB/s add 0.5 GB between two looks
STARTED = b"started"


class SandboxError(CodeLlamaError):
    """There is no isolation on this machine, or it stopped working."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a box ended. `code` is the exit status, 128 + signal where one killed the program."""

    status: Status
    code: int
    stdout: str
    stderr: str
    wall_s: float


@dataclass(slots=True)
class Box:
    """A program that runs. Make it with Sandbox.start, follow it with `watch`, always `kill`."""

    process: subprocess.Popen[bytes]
    limits: Limits
    marker: int
    folder: str | None = None
    begin: float = field(default_factory=time.monotonic)
    stdout: bytearray = field(default_factory=bytearray)
    stderr: bytearray = field(default_factory=bytearray)
    cause: Status | None = None
    wall_s: float = 0.0

    def kill(self, cause: Status | None = None) -> None:
        """End every process of the box; a no-op after its end."""
        if self.process.poll() is None:
            self.cause = self.cause or cause
            self.process.kill()
        self.process.wait()
        self.wall_s = self.wall_s or time.monotonic() - self.begin

    def ended(self) -> Ended:
        """The result, after the end; releases the pipes."""
        self.kill()
        marked = _read_all(self.marker)
        for pipe in (self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
        code = self.process.returncode
        texts = (bytes(each).decode("utf-8", "replace") for each in (self.stdout, self.stderr))
        out, err = texts
        return Ended(self._status(marked, code, err), code, out, err, self.wall_s)

    def _status(self, marked: bytes, code: int, err: str) -> Status:
        if self.cause is not None:
            return self.cause
        if not marked.startswith(STARTED):
            return "not started"
        if code == 128 + signal.SIGXCPU:
            return "cpu"
        if code == 128 + signal.SIGKILL and self.wall_s >= self.limits.cpu_s:
            return "cpu"
        return "exited"


class Sandbox:
    """Starts boxes.

    Args:
        confined: False runs programs with limits but without isolation. Only for machines that are
            themselves disposable.
        backend: what builds the boxes; the first that works here, by default.

    Raises:
        SandboxError: nothing that isolates works here.
    """

    def __init__(self, *, confined: bool = True, backend: Backend | None = None) -> None:
        self.confined = confined
        self.backend: Backend | None = None
        if confined:
            self.backend, problem = find_backend(backend)
            if self.backend is None:
                raise SandboxError(
                    f"{problem}: model-written programs are not run without isolation "
                    "(apt install bubblewrap; or --unsafe-run-without-isolation on a disposable "
                    "machine)"
                )

    def run(
        self,
        command: Sequence[str],
        *,
        files: Mapping[str, str | bytes] | None = None,
        stdin: bytes = b"",
        limits: Limits | None = None,
        binds: Mapping[str, str] | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Ended:
        """Run one program to its end. `files` appear in /tmp/box; `binds` maps host paths to
        read-only ones inside.
        """
        box = self.start(command, files=files, stdin=stdin, limits=limits, binds=binds, env=env)
        try:
            watch([box])
        finally:
            box.kill()
        return box.ended()

    def start(
        self,
        command: Sequence[str],
        *,
        files: Mapping[str, str | bytes] | None = None,
        stdin: bytes = b"",
        limits: Limits | None = None,
        binds: Mapping[str, str] | None = None,
        env: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
    ) -> Box:
        limits = limits or Limits()
        held: list[int] = []
        reader, writer = os.pipe()
        try:
            held.append(writer)
            arguments = prlimit(limits)
            if self.backend is not None:
                arguments += command_line(self.backend, limits, files or {}, binds or {}, held)
                folder = None
            else:
                folder = _unconfined_folder(files or {})
                command = _unconfined_command(command, folder)
            input_fd = memory_file(stdin)
            held.append(input_fd)
            # The marker tells a program that failed from a box that did.
            script = f'printf {STARTED.decode()} >&{writer}; exec {writer}>&-; exec "$@"'
            arguments += ["bash", "-c", script, "box"]
            process = subprocess.Popen(
                [*arguments, *command],
                stdin=input_fd,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=(*held, *pass_fds),
                env={**_environment(folder), **(env or {})},
                cwd=folder,
                start_new_session=True,
            )
        except BaseException:
            os.close(reader)
            raise
        finally:
            for fd in held:
                os.close(fd)
        return Box(process, limits, reader, folder)


def watch(boxes: Sequence[Box], until: Box | None = None) -> None:
    """Collect output and enforce limits until all boxes, or `until`, have ended.

    Output beyond the limit, wall time and the memory of all processes together end a box.
    """
    with selectors.DefaultSelector() as selector:
        for box in boxes:
            for pipe, kept in ((box.process.stdout, box.stdout), (box.process.stderr, box.stderr)):
                assert pipe is not None
                os.set_blocking(pipe.fileno(), False)
                selector.register(pipe, selectors.EVENT_READ, (box, kept))
        look = time.monotonic() + POLL_S
        while selector.get_map():
            for key, _ in selector.select(POLL_S):
                box, kept = key.data
                chunk = os.read(key.fd, 1 << 16)
                if not chunk:
                    selector.unregister(key.fileobj)
                    continue
                if box.cause is None:  # what is left in a killed box's pipes is not kept
                    kept += chunk
                if len(box.stdout) + len(box.stderr) > box.limits.output_kb << 10:
                    box.kill("output")
            if time.monotonic() >= look:
                for box in boxes:
                    _enforce(box)
                look = time.monotonic() + POLL_S
            if until is not None and until.process.poll() is not None:
                _drain(until)
                return
    for box in boxes:
        _reap(box)


def _reap(box: Box) -> None:
    """Pipes may be closed by a program that runs on: wait for it, within its limits."""
    while box.process.poll() is None:
        _enforce(box)
        with suppress(subprocess.TimeoutExpired):
            box.process.wait(POLL_S)
    box.wall_s = box.wall_s or time.monotonic() - box.begin


def _drain(box: Box) -> None:
    for pipe, kept in ((box.process.stdout, box.stdout), (box.process.stderr, box.stderr)):
        assert pipe is not None
        with suppress(BlockingIOError):
            kept += os.read(pipe.fileno(), 1 << 16)


def _enforce(box: Box) -> None:
    if box.process.poll() is not None:
        box.wall_s = box.wall_s or time.monotonic() - box.begin
    elif time.monotonic() - box.begin > box.limits.wall_s:
        box.kill("wall")
    elif _resident_mb(box.process.pid) > box.limits.memory_mb:
        box.kill("memory")


def _resident_mb(pid: int) -> float:
    """Resident memory of a process and all below it."""
    pages, waiting = 0, [pid]
    while waiting:
        each = waiting.pop()
        with suppress(OSError, IndexError, ValueError):
            pages += int(Path(f"/proc/{each}/statm").read_text().split()[1])
            for task in os.listdir(f"/proc/{each}/task"):
                children = Path(f"/proc/{each}/task/{task}/children").read_text()
                waiting += map(int, children.split())
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _environment(folder: str | None) -> dict[str, str]:
    home = folder or "/tmp"
    return {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": home,
        "TMPDIR": home,
        "LANG": "C.UTF-8",
        "LD_LIBRARY_PATH": "/python/lib" if folder is None else "",
        "PYTHONHASHSEED": "0",
    }


def _unconfined_command(command: Sequence[str], folder: str) -> list[str]:
    return [
        sys.executable if word == PYTHON else word.replace("/tmp/box", folder) for word in command
    ]


def _unconfined_folder(files: Mapping[str, str | bytes]) -> str:
    folder = tempfile.mkdtemp(prefix="codellama-unconfined-")
    for name, raw in raw_files(files).items():
        Path(folder, name).write_bytes(raw)
    return folder


def _read_all(fd: int) -> bytes:
    os.set_blocking(fd, False)
    try:
        return os.read(fd, 64)
    except BlockingIOError:
        return b""
    finally:
        os.close(fd)
