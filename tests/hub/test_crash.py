"""Processes that are killed, and processes that race: the next pull completes and the store is
whole.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import codellama.errors
from codellama import hub
from codellama.errors import NotFoundError
from codellama.hub.store import Store
from codellama.hub.transport import Transport
from hub.servers import Fault, Server, digest

GGUF = b"GGUF" + os.urandom(400_000)


def start(*arguments: str) -> subprocess.Popen[bytes]:
    path = str(Path(codellama.errors.__file__).parents[1])
    return subprocess.Popen(
        [sys.executable, "-m", "codellama.hub", *arguments],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


@pytest.fixture
def name(server: Server) -> str:
    server.publish_ollama("library/m", {"model": GGUF, "license": b"free"})
    return f"{server.host}/library/m"


def test_a_pull_killed_in_the_middle_is_completed_by_the_next(
    server: Server, store: Store, transport: Transport, name: str
) -> None:
    blob = f"/v2/library/m/blobs/{digest(GGUF)}"
    server.resources[blob].plan = [Fault("drip", 10_000)]
    process = start("pull", name)
    partial = store.partial(digest(GGUF))
    deadline = time.monotonic() + 20
    while not (partial.exists() and partial.stat().st_size > 50_000):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    done = partial.stat().st_size
    assert 50_000 < done < len(GGUF)
    assert hub.list_models() == []
    with pytest.raises(NotFoundError):
        hub.resolve(name)
    assert hub.pull(name, transport=transport).read_bytes() == GGUF
    assert server.seen[-1].path != blob or server.seen[-1].headers["Range"] == f"bytes={done}-"
    assert f"bytes={done}-" in [seen.headers.get("Range") for seen in server.seen]
    assert sorted(path.suffix for path in store.root.glob("blobs/*")) == ["", "", ""]


def test_two_processes_pull_one_model_once(server: Server, store: Store, name: str) -> None:
    blob = f"/v2/library/m/blobs/{digest(GGUF)}"
    server.resources[blob].plan = [Fault("drip", 20_000)]
    processes = [start("pull", name) for _ in range(2)]
    outputs = [process.communicate(timeout=30) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert server.count(blob) == 1
    assert hub.resolve(name).read_bytes() == GGUF


def test_the_command_reports_failure_in_one_line(server: Server) -> None:
    process = start("pull", f"{server.host}/library/nothing")
    errors = process.communicate(timeout=30)[1]
    assert process.returncode == 1
    assert errors.decode().count("\n") == 1 and b"has no model" in errors
    process = start("push", "x")
    assert process.communicate(timeout=30)[1].startswith(b"usage:") and process.returncode == 2
