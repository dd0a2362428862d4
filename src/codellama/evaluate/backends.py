"""Which tool builds the boxes here: bubblewrap where it works, else util-linux's unshare."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from typing import Literal

from codellama.evaluate import bubblewrap, unshare
from codellama.evaluate.isolation import Limits

__all__ = ["BACKENDS", "Backend", "command_line", "find_backend", "problem", "version"]

Backend = Literal["bwrap", "unshare"]
BACKENDS: tuple[Backend, ...] = ("bwrap", "unshare")

_BUILDERS = {"bwrap": bubblewrap.bubblewrap, "unshare": unshare.unshare}
_TOOLS = {"bwrap": bubblewrap.TOOLS, "unshare": unshare.TOOLS}
_PROBE_S = 20


def command_line(
    backend: Backend,
    limits: Limits,
    files: Mapping[str, str | bytes],
    binds: Mapping[str, str],
    held: list[int],
) -> list[str]:
    """The command up to the program's own. Descriptors that it names are added to `held`."""
    return _BUILDERS[backend](limits, files, binds, held)


def find_backend(wanted: Backend | None = None) -> tuple[Backend | None, str]:
    """The wanted one or the first that works; with None, why not, of each."""
    problems = []
    for backend in BACKENDS if wanted is None else (wanted,):
        why = problem(backend)
        if why is None:
            return backend, ""
        problems.append(why)
    return None, "; ".join(problems)


@cache
def problem(backend: Backend) -> str | None:
    """Why programs cannot be confined by this tool here, or None. Starts one empty box."""
    if sys.platform != "linux":
        return f"{backend} needs Linux, this is {sys.platform}"
    for tool in _TOOLS[backend]:
        if shutil.which(tool) is None and not os.path.exists(f"/usr/sbin/{tool}"):
            return f"{tool} is not installed"
    held: list[int] = []
    arguments = command_line(backend, Limits(), {}, {}, held)
    try:
        done = subprocess.run(
            [*arguments, "true"], capture_output=True, text=True, pass_fds=held, timeout=_PROBE_S
        )
    except subprocess.TimeoutExpired:
        return f"{backend} hangs"
    finally:
        for fd in held:
            os.close(fd)
    if done.returncode:
        return f"{backend} does not work here ({done.stderr.strip()[:200]})"
    return None


def version(backend: Backend) -> str:
    done = subprocess.run([backend, "--version"], capture_output=True, text=True, check=False)
    return done.stdout.strip()
