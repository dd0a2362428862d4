"""What glibc does with freed memory while a model is trained: it keeps it, and gives it back now
and then. Other C libraries are left alone.

Activations of tens of megabytes are allocated anew in every layer; fresh pages from the system cost
as much as what is computed in them (SmolLM2-135M on one core: 7.2 to 8.0 s a step with glibc's own
thresholds, 6.6 with memory kept). But rows are cut into other pieces in every step, so that holes
of a kept heap seldom fit: 4.1 GB after 5 steps became 6.3 after 25 and 8.2 after 450. Given back
every 5 steps, it stays below 5 GB, and takes no time that could be measured.
"""

from __future__ import annotations

import ctypes

__all__ = ["TRIM_STEPS", "keep_memory", "trim_memory"]

TRIM_STEPS = 5
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # of mallopt(3)


def keep_memory() -> None:
    """Have freed memory stay with the process."""
    libc = _glibc()
    if libc is not None:
        libc.mallopt(_MMAP_MAX, 0)
        libc.mallopt(_TRIM_THRESHOLD, 2**31 - 1)


def trim_memory() -> None:
    """Give back every page that holds nothing."""
    libc = _glibc()
    if libc is not None:
        libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    try:
        libc = ctypes.CDLL("libc.so.6")
        return libc if libc.mallopt and libc.malloc_trim else None
    except (OSError, AttributeError):
        return None
