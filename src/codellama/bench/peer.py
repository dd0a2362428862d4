"""The same cases by a peer's own benchmark: llama.cpp's llama-bench, or a fork's of the same face.

`pp` and `tg` cases go to llama-bench; those of several sequences to the llama-batched-bench beside
it, where there is one. Settings that are the peer's best on a machine are the caller's to find and
pass (`extra`); nothing is switched off here. Versions differ in what they understand: a peer that
knows no depths is asked for none.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codellama.bench.cases import Case
from codellama.bench.worker import Run
from codellama.errors import NotFoundError, RequestError

__all__ = ["Peer", "run_peer"]


LLAMA_CPP = "llama.cpp"


@dataclass(frozen=True, slots=True)
class Peer:
    """A llama-bench.

    Attributes:
        path: the program.
        name: what tables call it.
        extra: arguments added to every call, e.g. ("-fa", "1").
    """

    path: Path
    name: str = LLAMA_CPP
    extra: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Peer:
        """ "[NAME=]PATH [ARGUMENTS]", as on a command line. NotFoundError where PATH is no program.

        >>> Peer.parse("sh=/bin/sh -fa 1")
        Peer(path=PosixPath('/bin/sh'), name='sh', extra=('-fa', '1'))
        """
        words = shlex.split(text) or [""]
        name, sign, path = words[0].rpartition("=")
        peer = cls(Path(path), name if sign else LLAMA_CPP, tuple(words[1:]))
        peer.check()
        return peer

    def check(self) -> None:
        """NotFoundError where the path is no program."""
        if not self.path.is_file() or not os.access(self.path, os.X_OK):
            raise NotFoundError(f"{self.path} is no program: give the path of a llama-bench")

    def knows(self, case: Case) -> bool:
        """Whether the peer has a benchmark for the case."""
        if case.kind == "answer":
            return False
        return case.sequences == 1 or self.batched.is_file()

    @property
    def batched(self) -> Path:
        """Its program for several sequences."""
        return self.path.with_name(self.path.name.replace("llama-bench", "llama-batched-bench"))


def run_peer(peer: Peer, model: Path, cases: list[Case], threads: int) -> Run:
    """Measure those cases that the peer knows; one process per depth and kind, one for batches."""
    known = [case for case in cases if peer.knows(case)]
    rates: dict[str, float] = {}
    peaks: list[float] = []
    groups: dict[tuple[str, int, int], list[Case]] = {}
    for case in known:
        batched = case.sequences > 1
        key = ("batch", case.depth, case.tokens) if batched else (case.kind, case.depth, 0)
        groups.setdefault(key, []).append(case)
    for (kind, depth, _), group in groups.items():
        run = _batched if kind == "batch" else _single
        found, peak = run(peer, model, group, depth, threads)
        rates |= found
        peaks.append(peak)
    return Run(rates, None, max(peaks, default=None), {"threads": threads})


def _single(
    peer: Peer, model: Path, cases: list[Case], depth: int, threads: int
) -> tuple[dict[str, float], float]:
    sizes = ",".join(str(case.tokens) for case in cases)
    wanted = ["-p", sizes, "-n", "0"] if cases[0].kind == "pp" else ["-p", "0", "-n", sizes]
    command = [str(peer.path), "-m", str(model), "-t", str(threads), "-r", "1", "-o", "json"]
    command += [*wanted, *(["-d", str(depth)] if depth else []), *peer.extra]
    text, peak = _call(command)
    found: dict[str, float] = {}
    for test in _json(text, command):
        n_prompt, n_gen = test.get("n_prompt", 0), test.get("n_gen", 0)
        for case in cases:
            if case.tokens == (n_prompt if case.kind == "pp" else n_gen):
                found[case.label] = float(test["avg_ts"])
    return found, peak


def _batched(
    peer: Peer, model: Path, cases: list[Case], depth: int, threads: int
) -> tuple[dict[str, float], float]:
    """By llama-batched-bench: `-npp` tokens of prompt each (it wants one), then `-ntg` together."""
    prompt = max(depth, 1)
    tokens, widest = cases[0].tokens, max(case.sequences for case in cases)
    command = [str(peer.batched), "-m", str(model), "-t", str(threads)]
    command += [
        "-npp",
        str(prompt),
        "-ntg",
        str(tokens),
        "-npl",
        ",".join(str(case.sequences) for case in cases),
    ]
    command += ["-c", str(widest * (prompt + tokens + 1)), "--output-format", "jsonl", *peer.extra]
    text, peak = _call(command)
    found: dict[str, float] = {}
    for line in text.splitlines():
        if not line.startswith("{"):
            continue
        test = json.loads(line)
        for case in cases:
            if case.sequences == test["pl"]:
                found[case.label] = float(test["speed_tg"])
    return found, peak


def _json(text: str, command: list[str]) -> list[dict[str, Any]]:
    """The list that a llama-bench printed, whatever stands before it."""
    try:
        found = json.loads(text[text.index("[\n") :])
        assert isinstance(found, list)
    except (ValueError, AssertionError):
        raise RequestError(f"{command[0]} printed no results: {text.strip()[-200:]!r}") from None
    return found


def _call(command: list[str]) -> tuple[str, float]:
    """Standard output, and the peak resident memory in MB. RequestError where the peer fails."""
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
        assert process.stdout is not None
        with process.stdout as pipe:
            text = pipe.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            errors.seek(0)
            words = errors.read().strip().splitlines() or ["no message"]
            raise RequestError(f"{command[0]} ended with {process.returncode}: {words[-1]}")
    unit = 1e6 if sys.platform == "darwin" else 1e3  # bytes there, kilobytes elsewhere
    return text, usage.ru_maxrss / unit
