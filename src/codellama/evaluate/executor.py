"""Runs candidates in the sandbox with limits calibrated to this machine; retries what the sandbox,
not the program, got wrong, and once whatever timed out: only what is late twice is late.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, TypeVar

from codellama.evaluate.backends import version
from codellama.evaluate.python_judge import PythonProgram, judge_python
from codellama.evaluate.sandbox import PYTHON, Ended, Limits, Sandbox, SandboxError
from codellama.evaluate.verdicts import Verdict

__all__ = ["SandboxExecutor"]

# The paper's 3 s per HumanEval program are CPU seconds here, on a machine that runs this loop in
# 0.125 s (a Zen 5: the slowest reference, MBPP 123, takes 1.9 s there); a slower one gets more.
LOOP = "x = 0\nfor i in range(2_000_000): x += i * i"
LOOP_S = 0.125
TRIES = 3
T = TypeVar("T", Verdict, Ended)


class SandboxExecutor:
    """suite.Executor over boxes.

    Args:
        factor: multiplies every time limit; None measures this machine at first use, and
            again where a program runs out of time.

    Raises:
        SandboxError: no isolation here.
    """

    def __init__(self, sandbox: Sandbox | None = None, factor: float | None = None) -> None:
        self.sandbox = sandbox or Sandbox()
        self._factor = factor

    @cached_property
    def factor(self) -> float:
        """Times this machine is slower than the one the limits were set on, in steps of a half."""
        if self._factor is not None:
            return self._factor
        return _factor(min(self._loop_s() for _ in range(3)))  # a busy machine only adds

    def python(self, program: PythonProgram, limits: Limits | None = None) -> Verdict:
        """Judge a Python program; "error" only if the sandbox failed three times."""
        return self._fairly(
            lambda scaled: judge_python(self.sandbox, program, scaled), limits, "error", "timeout"
        )

    def command(
        self,
        command: Sequence[str],
        *,
        files: Mapping[str, str | bytes],
        stdin: bytes = b"",
        limits: Limits | None = None,
        binds: Mapping[str, str] | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Ended:
        """Run any command; "not started" only if the sandbox failed three times."""
        return self._fairly(
            lambda scaled: self.sandbox.run(
                command, files=files, stdin=stdin, limits=scaled, binds=binds, env=env
            ),
            limits, "not started", "cpu", "wall",
        )  # fmt: skip

    def _fairly(
        self, run: Callable[[Limits], T], limits: Limits | None, broken: str, *late: str
    ) -> T:
        """Run; again while it ends `broken`, and once where it ends `late`."""
        limits = limits or Limits()
        ended = _tried(run, limits.scaled(self.factor), broken)
        if ended.status in late and self._factor is None:
            ended = _tried(run, limits.scaled(self._factor_now()), broken)
        return ended

    def description(self) -> dict[str, Any]:
        """What a result must say about how programs were run."""
        limits = Limits().scaled(self.factor)
        return {
            "isolation": version(self.sandbox.backend) if self.sandbox.backend else "none",
            "time limit factor": self.factor,
            "default limits": {
                "cpu_s": limits.cpu_s,
                "wall_s": limits.wall_s,
                "memory_mb": limits.memory_mb,
                "processes": limits.processes,
            },
        }

    def _factor_now(self) -> float:
        """The factor of this moment, at least the calibrated one: the processor time of a shared
        machine doubles for minutes when a neighbour is busy.
        """
        return max(self.factor, _factor(self._loop_s()))

    def _loop_s(self) -> float:
        """CPU seconds of the loop."""
        script = f"import time\nb = time.process_time()\n{LOOP}\nprint(time.process_time() - b)"
        ended = self.sandbox.run(
            [PYTHON, "-I", "-S", "-c", script], limits=Limits(cpu_s=60, wall_s=120)
        )
        if ended.status != "exited" or ended.code:
            raise SandboxError(f"a program that computes does not run: {ended.stderr[-300:]}")
        return float(ended.stdout)


def _factor(loop_s: float) -> float:
    """In steps of a half, rounded up."""
    return max(1.0, round(2 * loop_s / LOOP_S + 0.49) / 2)


def _tried(run: Callable[[Limits], T], scaled: Limits, broken: str) -> T:
    for attempt in range(TRIES):
        ended = run(scaled)
        if ended.status != broken:
            break
        time.sleep(0.1 * attempt)
    return ended
