"""README's commands for a running server run."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from serve.conftest import Live

README = Path(__file__).resolve().parents[2] / "README.md"
BLOCK = re.compile(r"<!-- test: serve -->\n```console\n(.*?)```", re.DOTALL)


@pytest.mark.weights
def test_commands(live: Live) -> None:
    if not shutil.which("curl"):
        pytest.skip("curl is not installed")
    (block,) = BLOCK.findall(README.read_text())
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "OLLAMA_HOST": live.url, "PATH": path}
    for line in block.splitlines():
        command = line.removeprefix("$ ").replace("http://127.0.0.1:11434", live.url)
        done = subprocess.run(
            ["bash", "-c", command], env=env, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0 and done.stdout, command
        assert "error" not in done.stdout, done.stdout
