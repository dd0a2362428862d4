"""The machine's limits, measured by the extension: memory read bandwidth and multiply-adds.

Shares nothing with the kernels that are judged by these limits, and imports nothing of ours.
"""

from __future__ import annotations

import codellama.native._native as _native

__all__ = ["peak_instructions", "peak_rate", "read_bandwidth"]


def read_bandwidth(n_bytes: int, n_threads: int, seconds: float) -> float:
    """Bytes a second that n_threads read together from n_bytes of memory, over and over.

    Raises ValueError for no threads, or fewer bytes than a few cache lines for each.
    """
    return _native.read_bandwidth(n_bytes, n_threads, seconds)


def peak_instructions() -> list[str]:
    """Multiply-add instructions of this machine that `peak_rate` measures, widest first."""
    return list(_native.peak_instructions())


def peak_rate(instruction: str, n_threads: int, seconds: float) -> float:
    """Operations a second (a multiply and an add are two), on registers alone.

    Raises ValueError for an instruction that is not here, or no threads.
    """
    return _native.peak_rate(instruction, n_threads, seconds)
