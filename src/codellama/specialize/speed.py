"""What the machine's matrix products reach, so that training can be told as a share of it."""

from __future__ import annotations

import time

import torch

__all__ = ["matmul_peak"]

_SIDE = 1024  # a product of this size takes 1 ms on two AMX cores, 8 ms in float32
_SECONDS = 0.2


def matmul_peak(dtype: str, device: str = "cpu") -> float:
    """FLOP a second of square products: the best of as many as 0.2 seconds hold."""
    a = torch.randn(_SIDE, _SIDE, device=device).to(getattr(torch, dtype))
    best, end = float("inf"), time.perf_counter() + _SECONDS
    for _ in range(10_000):
        begin = time.perf_counter()
        a @ a
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        now = time.perf_counter()
        best = min(best, now - begin)
        if now > end:
            break
    return 2 * _SIDE**3 / best
