"""Live servers for real clients: `codellama serve` as a process of its own, on a free port, over a
store of its own that holds the embedded default and a tiny random model that infills.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from serve.support import INFILLS, TALKS, make_store


@dataclass(frozen=True)
class Live:
    """A running server: its URL, its store, its process and what it logs."""

    url: str
    store: Path
    process: subprocess.Popen[str]
    log: Path


def start(folder: Path, store: Path, *arguments: str, **env: str) -> Live:
    """Start a server and wait until it says where it listens."""
    log = folder / "server.log"
    kept = {
        k: v for k, v in os.environ.items() if not k.startswith(("OLLAMA_", "CODELLAMA_", "HF_"))
    }
    environment = {
        **kept,
        "CODELLAMA_MODELS": str(store),
        "OLLAMA_MODELS": str(folder / "ollama"),
        "HF_HOME": str(folder / "hf"),
        "XDG_CACHE_HOME": str(folder / "cache"),
        **env,
    }
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "codellama", "serve", "--port", "0", *arguments],
            stdout=subprocess.PIPE,
            stderr=file,
            env=environment,
            cwd=folder,
            text=True,
        )
    assert process.stdout is not None
    line = process.stdout.readline()
    assert "serves at" in line, f"{line}{log.read_text()}"
    return Live(line.split(" serves at ")[1].split()[0], store, process, log)


def stop(live: Live) -> int:
    """Ask it to stop, as Ctrl-C does; its exit status."""
    live.process.send_signal(signal.SIGINT)
    try:
        return live.process.wait(60)
    finally:
        live.process.kill()
        assert live.process.stdout is not None
        live.process.stdout.close()


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory, smollm2_path: Path) -> Path:
    """SmolLM2 as `smollm2:135m`, and a random model that infills."""
    return make_store(tmp_path_factory.mktemp("store"), smollm2_path)


@pytest.fixture(scope="session")
def live(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A server whose `codellama` is the model that talks (SmolLM2)."""
    running = start(tmp_path_factory.mktemp("live"), store, "--model", TALKS, "--context", "1024")
    yield running
    assert stop(running) == 0, running.log.read_text()


@pytest.fixture(scope="session")
def infilling(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A server whose `codellama` is the model that infills (random weights)."""
    running = start(tmp_path_factory.mktemp("infilling"), store, "--model", INFILLS)
    yield running
    assert stop(running) == 0, running.log.read_text()
