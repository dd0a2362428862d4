"""The coverage-guided fuzzing of fuzz_readers.py, a few seconds of each reader."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("atheris") is None, reason="atheris is not installed"
    ),
]


@pytest.mark.parametrize("reader", ["gguf", "pickle", "safetensors", "torch"])
def test_nothing_new_in_a_few_seconds(reader: str, tmp_path: Path) -> None:
    """Also that it is guided: inputs that reach new code are kept beside the first ones."""
    done = subprocess.run(
        [
            sys.executable, str(Path(__file__).with_name("fuzz_readers.py")), reader,
            "-max_total_time=10", "-runs=200000",
        ],
        cwd=tmp_path, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    (kept,) = re.findall(r"DONE .*corp: (\d+)/", done.stderr)
    assert int(kept) > 3
