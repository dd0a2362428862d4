"""A short soak of both models; scripts/soak.py alone runs the long one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from serve.conftest import Live

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "soak.py"


def soak(live: Live, requests: int) -> None:
    command = [sys.executable, str(SCRIPT), "--url", live.url, "--requests", str(requests)]
    done = subprocess.run(
        [*command, "--pid", str(live.process.pid)], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_model_that_infills(infilling: Live) -> None:
    soak(infilling, 1500)


@pytest.mark.slow
@pytest.mark.weights
def test_a_model_that_talks(live: Live) -> None:
    soak(live, 300)
