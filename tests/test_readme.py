"""Every command and program of README.md runs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"<!-- test: weights -->\n```(console|python)\n(.*?)```", re.DOTALL)
BLOCKS = BLOCK.findall((ROOT / "README.md").read_text())
SERVED = "<!-- test: serve -->\n```console"  # run by tests/serve/test_readme_serving.py


def test_every_block_is_marked() -> None:
    """Only the two make commands are run by others: by whoever runs this test, and by CI."""
    text = (ROOT / "README.md").read_text()
    marked = len(BLOCKS) + text.count(SERVED)
    unmarked = text.count("```console") + text.count("```python") - marked
    assert unmarked == 1
    assert "make run " in text
    assert "make test " in text


@pytest.mark.weights
@pytest.mark.parametrize("kind, text", BLOCKS, ids=[f"block{i}" for i in range(len(BLOCKS))])
def test_block(kind: str, text: str, smollm2_path: Path, tmp_path: Path) -> None:
    """Blocks share a store of their own, so that cp and rm touch nobody's models."""
    store = tmp_path / "models"
    store.mkdir()
    (store / smollm2_path.name).symlink_to(smollm2_path)
    shutil.copy(ROOT / "README.md", tmp_path)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "CODELLAMA_MODELS": str(store), "HF_HOME": str(tmp_path)}
    if kind == "python":
        commands = [[sys.executable, "-c", text]]
    else:
        lines = [line[2:] for line in text.splitlines() if line.startswith("$ ")]
        assert len(lines) == len(text.splitlines())
        commands = [["bash", "-c", f"set -eo pipefail; {line}"] for line in lines]
    for command in commands:
        done = subprocess.run(
            command,
            cwd=tmp_path,
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=120,
        )
        assert done.returncode == 0, f"{command[-1]}: {done.stderr.decode()}"
        assert done.stdout
