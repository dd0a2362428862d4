"""What the machine's matrix products reach, so that training can be told as a share of it, and the
type that they are quick in.
"""

from __future__ import annotations

import time

import torch

from codellama.specialize.recipe import Profile

__all__ = ["compute_dtype", "matmul_peak"]

_SIDE = 1024  # a product of this size takes 1 ms on two AMX cores, 8 ms in float32
_SECONDS = 0.2


def compute_dtype(profile: Profile) -> torch.dtype:
    """The type of a profile's products.

    Where a processor has no instructions for bfloat16, PyTorch does without: 5.7 GFLOP/s beside
    50.6 in float32, on one core of a Zen 3.
    """
    if profile.dtype != "auto":
        return torch.float32 if profile.dtype == "float32" else torch.bfloat16
    if profile.device.partition(":")[0] != "cpu":
        return torch.bfloat16
    present = torch.cpu.get_capabilities()
    quick = any(present.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return torch.bfloat16 if quick else torch.float32


def matmul_peak(dtype: torch.dtype, device: str = "cpu") -> float:
    """FLOP a second of square products: the best of as many as 0.2 seconds hold."""
    a = torch.randn(_SIDE, _SIDE, device=device).to(dtype)
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
