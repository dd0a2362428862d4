"""The memory check: figures in the message, and every limit that Linux knows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from codellama.errors import ModelTooLargeError
from codellama.model.config import PUBLISHED, ModelConfig
from codellama.weights.memory import available_memory, check_memory


@dataclass(frozen=True)
class File:
    config: ModelConfig = PUBLISHED["codellama:7b-code"]
    weight_bytes: int = 3_800_000_000
    largest_bytes: int = 100_000_000


CACHE = 524_288 * 4096  # 2.15 GB: 512 KiB a token (fact sheet of the 7B)


def test_what_fits_exactly_passes() -> None:
    check_memory(File(), 4096, available=3_900_000_000 + CACHE)


def test_the_message_says_by_how_much() -> None:
    with pytest.raises(ModelTooLargeError) as caught:
        check_memory(File(), 4096, available=4_000_000_000)
    assert str(caught.value) == (
        "codellama:7b-code needs 6.05 GB of memory (weights 3.80 GB, a context of 4,096 tokens "
        "2.15 GB), 4.00 GB is free: 2.05 GB too much; take a smaller quantization, kv_type "
        "q8_0 or a shorter context"
    )


def test_a_cache_of_8_bits_takes_less() -> None:
    half = CACHE * (128 + 4) // 256
    check_memory(File(), 4096, available=3_900_000_000 + half, kv_type="q8_0")
    with pytest.raises(ModelTooLargeError, match=r"1\.11 GB.*smaller quantization or a shorter"):
        check_memory(File(), 4096, available=3_900_000_000 + half - 1, kv_type="q8_0")


def system(root: Path, **files: str) -> Path:
    """A root folder with a few kernel files; `__` in a name stands for a slash."""
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("_DOT_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


MEMINFO = "MemTotal:       24000000 kB\nMemFree:  1 kB\nMemAvailable:   10000000 kB\n"


def test_meminfo(tmp_path: Path) -> None:
    assert available_memory(system(tmp_path, proc__meminfo=MEMINFO)) == 10_240_000_000


def test_the_tightest_group_of_version_2_counts(tmp_path: Path) -> None:
    root = system(
        tmp_path,
        proc__meminfo=MEMINFO,
        proc__self__cgroup="0::/user/job\n",
        sys__fs__cgroup__user__memory_DOT_max="5000\n",
        sys__fs__cgroup__user__memory_DOT_current="4000\n",
        sys__fs__cgroup__user__memory_DOT_stat="anon 500\ninactive_file 1000\nactive_file 2000\n",
        sys__fs__cgroup__user__job__memory_DOT_max="max\n",
        sys__fs__cgroup__user__job__memory_DOT_current="100\n",
    )
    assert available_memory(root) == 4000  # 5000 − (4000 − 3000 of file cache)


def test_version_1_and_a_path_of_the_host(tmp_path: Path) -> None:
    """Inside a container the path is often the host's: the mount itself holds the limits then."""
    root = system(
        tmp_path,
        proc__meminfo=MEMINFO,
        proc__self__cgroup="5:cpu:/\n4:memory:/docker/0123\n0::/\n",
        sys__fs__cgroup__memory__memory_DOT_limit_in_bytes="8000\n",
        sys__fs__cgroup__memory__memory_DOT_usage_in_bytes="3000\n",
        sys__fs__cgroup__memory__memory_DOT_stat="total_inactive_file 500\ninactive_file 9\n",
    )
    assert available_memory(root) == 5500


def test_a_group_over_its_limit_has_nothing_left(tmp_path: Path) -> None:
    root = system(
        tmp_path,
        proc__self__cgroup="0::/../x\n",
        sys__fs__cgroup__memory_DOT_max="10\n",
        sys__fs__cgroup__memory_DOT_current="20\n",
    )
    assert available_memory(root) == 0


def test_elsewhere_the_physical_memory_bounds(tmp_path: Path) -> None:
    physical = available_memory(tmp_path)
    here = available_memory()
    assert physical is not None and here is not None and here <= physical
