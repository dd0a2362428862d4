"""Judges Python programs: the candidate in one box, its tests in another (inside/rpc.py).

The verdict is what the tests' box prints; the candidate's box has neither the tests nor a way to
that output. A candidate can still recognise which problem it is asked, as any program can.
"""

from __future__ import annotations

import json
import py_compile
import socket
import subprocess
import tempfile
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from pathlib import Path

from codellama.evaluate.sandbox import PYTHON, Ended, Limits, Sandbox, watch
from codellama.evaluate.verdicts import Status, Verdict

__all__ = ["PythonProgram", "judge_python"]

DETAIL = 4000
GRACE_S = 0.25


@dataclass(frozen=True, slots=True)
class PythonProgram:
    """A candidate and what it must do.

    Attributes:
        code: the candidate, untrusted.
        tests: trusted; run after `prelude`, with the names in `remote` taken from the candidate.
        remote: names that the candidate may provide.
        prelude: trusted code, run before the tests: helpers of the data set.
    """

    code: str
    tests: str
    remote: tuple[str, ...]
    prelude: str = ""


def judge_python(sandbox: Sandbox, program: PythonProgram, limits: Limits) -> Verdict:
    """Run both boxes to their end. Never raises for what the candidate does."""
    ours, theirs = socket.socketpair()
    files = {"rpc.pyc": _compiled()}
    task = {"prelude": program.prelude, "remote": program.remote, "tests": program.tests}
    command = [PYTHON, "-I", "-S", "-B", "/tmp/box/rpc.pyc"]
    boxes = []
    with ours, theirs:
        try:
            fd = theirs.fileno()
            candidate = sandbox.start(
                [*command, "candidate", str(fd)], files=files, limits=limits, pass_fds=[fd]
            )
            boxes.append(candidate)
            # The candidate's first message is its code: sent here, so that the judge never has it.
            fd = ours.fileno()
            # The tests wait for the candidate, and compute a little themselves.
            waiting = replace(limits, wall_s=limits.wall_s + 2)
            judge = sandbox.start(
                [*command, "judge", str(fd)],
                files=files,
                stdin=json.dumps(task).encode(),
                limits=waiting,
                pass_fds=[fd],
            )
            boxes.append(judge)
            theirs.close()
            message = json.dumps({"code": program.code}).encode() + b"\n"
            ours.sendall(message)
            ours.close()
            watch(boxes, until=judge)
            # It sees the end of the tests, or has just been ended by a limit: say which.
            with suppress(subprocess.TimeoutExpired):
                candidate.process.wait(GRACE_S)
        finally:
            for box in boxes:
                box.kill()
    return _verdict(candidate.ended(), judge.ended())


def _verdict(candidate: Ended, judge: Ended) -> Verdict:
    if "not started" in (candidate.status, judge.status):
        detail = (candidate.stderr + judge.stderr)[-DETAIL:]
        return Verdict("error", f"the sandbox did not start: {detail}", judge.wall_s)
    words = _last_line(judge.stdout)
    if words is not None and words.get("verdict") == "passed":
        return Verdict("passed", "", judge.wall_s)
    causes: dict[str, Status] = {
        "cpu": "timeout",
        "wall": "timeout",
        "memory": "memory",
        "output": "output",
    }
    for box in (candidate, judge):
        if box.status in causes:
            return Verdict(causes[box.status], _tail(candidate), judge.wall_s)
    if words is None:
        detail = f"the tests ended without a verdict (status {judge.code}): {judge.stderr}"
        return Verdict("error", detail[-DETAIL:], judge.wall_s)
    detail = str(words.get("detail", ""))
    status: Status = "memory" if "MemoryError" in detail else "failed"
    return Verdict(status, detail[-DETAIL:], judge.wall_s)


def _last_line(text: str) -> dict[str, str] | None:
    try:
        words = json.loads(text.rstrip("\n").rsplit("\n", 1)[-1])
    except ValueError:
        return None
    return words if isinstance(words, dict) else None


def _tail(ended: Ended) -> str:
    return ended.stderr[-DETAIL:]


@cache
def _compiled() -> bytes:
    """inside/rpc.py as bytecode: boxes run this interpreter, and compiling costs them 6 ms."""
    source = resources.files("codellama.evaluate.inside").joinpath("rpc.py")
    with resources.as_file(source) as path, tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "rpc.pyc"
        mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
        py_compile.compile(str(path), str(target), "rpc.py", True, invalidation_mode=mode)
        return target.read_bytes()
