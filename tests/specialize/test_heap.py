"""Kept memory is given back: a heap full of holes shrinks."""

from __future__ import annotations

import subprocess
import sys

import pytest

from codellama.specialize import heap

HOLES = """
from codellama.specialize.heap import keep_memory, trim_memory
import numpy as np

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

keep_memory()
blocks = [np.ones(1 << 17) for _ in range(200)]  # 1 MB each
blocks = blocks[::20]
kept = resident()
trim_memory()
print(kept - resident())
"""


@pytest.mark.skipif(heap._glibc() is None, reason="the C library is not glibc")
def test_what_is_kept_is_given_back() -> None:
    done = subprocess.run([sys.executable, "-c", HOLES], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 150e6


def test_without_glibc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heap, "_glibc", lambda: None)
    heap.keep_memory()
    heap.trim_memory()
