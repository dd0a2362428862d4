"""The machine's best, measured on the spot: nothing here is looked up or assumed.

Bandwidth is measured twice: over 1 GiB, which no cache holds, and over as many bytes as the model
has, which one may. Each figure is the best of a few short measurements, since a limit is what is
possible. Shared machines vary from minute to minute, so each round of a session has its own.
"""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from codellama.native.probe import peak_instructions, peak_rate, read_bandwidth

__all__ = ["Machine", "int8_instruction", "measure_machine", "processor", "typical"]

GIB = 1 << 30
_TRIES = 3


@dataclass(frozen=True, slots=True)
class Machine:
    """What was measured with `threads` threads; rates a second.

    Attributes:
        processor, cores, memory: as the system tells.
        bandwidth: bytes read from 1 GiB.
        cached_bandwidth: bytes read from `working_set` bytes.
        peaks: operations by instruction.
    """

    processor: str
    cores: int
    memory: int
    threads: int
    bandwidth: float
    working_set: int
    cached_bandwidth: float
    peaks: dict[str, float]


def measure_machine(
    threads: int,
    working_set: int,
    *,
    seconds: float = 0.3,
    progress: Callable[[str], None] | None = None,
) -> Machine:
    """Measure with so many threads, `seconds` a try; takes some ten times as long in all."""
    tell = progress or (lambda _: None)
    tell("memory bandwidth")
    bandwidth = _best(lambda: read_bandwidth(GIB, threads, seconds))
    cached = bandwidth
    if working_set < GIB:
        cached = max(bandwidth, _best(lambda: read_bandwidth(working_set, threads, seconds)))
    peaks = {}
    for name in peak_instructions():
        tell(name)
        peaks[name] = _best(partial(peak_rate, name, threads, seconds / 3))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Machine(
        processor(), os.cpu_count() or 1, memory, threads, bandwidth, working_set, cached, peaks
    )


def typical(machines: Sequence[Machine]) -> Machine:
    """The medians of what was measured of one machine at several times, at least once."""
    first = machines[0]
    return replace(
        first,
        bandwidth=statistics.median(each.bandwidth for each in machines),
        cached_bandwidth=statistics.median(each.cached_bandwidth for each in machines),
        peaks={
            name: statistics.median(each.peaks[name] for each in machines) for name in first.peaks
        },
    )


def int8_instruction(isa: str, known: dict[str, float]) -> str | None:
    """The fastest known instruction that kernels named `isa` may use for int8 products."""
    family = {
        "amx": "amx_int8", "avx512bf16": "avx512_vnni", "avx512": "avx512_vnni",
        "avxvnni": "avx_vnni", "avx2": "avx2_int8", "i8mm": "neon_i8mm", "neon": "neon_dotprod",
    }  # fmt: skip
    wanted = family.get(isa.split("_")[0])
    return wanted if wanted in known else None


def processor() -> str:
    """Its name, as far as the system knows it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _best(measure: Callable[[], float]) -> float:
    return max(measure() for _ in range(_TRIES))
