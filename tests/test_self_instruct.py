"""`codellama self-instruct` end to end: a scripted server, the real sandbox, a kill, a corpus."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from codellama.evaluate.sandbox import Sandbox, SandboxError

GOOD = "def times_{0}(x):\n    return x * {0}"
BAD = "def times_{0}(x):\n    return x + {0}"
EVIL = "import os, sys\nprint('passed')\nsys.stdout.flush()\nos._exit(0)"
COUNT = 6


class Scripted(BaseHTTPRequestHandler):
    """OpenAI's chat, by rule. Problem i multiplies by i + 2; of three solutions the second is
    right; problem 3 has no tests, and problem 4's solutions end the program before its tests.
    """

    asked: ClassVar[list[str]] = []
    pause: ClassVar[list[float]] = [0.0]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt = body["messages"][0]["content"]
        self.asked.append(prompt)
        time.sleep(self.pause[0])
        choices = [{"message": {"content": text}} for text in self.answers(prompt, body["n"])]
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({"choices": choices}).encode())

    def answers(self, prompt: str, n: int) -> list[str]:
        if "exercises" in prompt:
            lines = [f"Write a Python function that multiplies by {i + 2}." for i in range(COUNT)]
            return ["\n".join(f"{i}. {line}" for i, line in enumerate([*lines, lines[0]], 1))]
        factor = int(re.findall(r"multiplies by (\d+)", prompt)[-1])
        name = f"times_{factor}"
        if "Test: assert" not in prompt:
            tests = f"[TESTS]\nassert {name}(3) == {3 * factor}\nassert {name}(0) == 0\n[/TESTS]"
            return ["I cannot test this." if factor == 5 else tests]
        codes = [EVIL] * 3 if factor == 6 else [BAD.format(factor), GOOD.format(factor), "no code"]
        return [f"[PYTHON]\n{code}\n[/PYTHON]" for code in codes][:n]

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    http = ThreadingHTTPServer(("127.0.0.1", 0), Scripted)
    thread = threading.Thread(target=http.serve_forever)
    thread.start()
    Scripted.asked.clear()
    Scripted.pause[:] = [0.0]
    yield f"http://127.0.0.1:{http.server_port}/v1"
    http.shutdown()
    http.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def _isolated() -> None:
    try:
        Sandbox()
    except SandboxError as error:
        pytest.skip(str(error))


def command(folder: Path, server: str, *more: str) -> list[str]:
    words = [sys.executable, "-m", "codellama", "self-instruct", str(folder), "--url", server]
    words += ["--model", "scripted", "--questions", "7", "--solutions", "3", "--license", "MIT"]
    return [*words, *more]


def run(words: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, capture_output=True, text=True, timeout=120)


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_from_questions_to_a_corpus(server: str, tmp_path: Path) -> None:
    folder = tmp_path / "made"
    done = run(command(folder, server, "--json"))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found == {
        "questions": 7, "unique": 6, "with_tests": 5, "solutions": 4 * 2 + 3, "solved": 4,
        "output": str(folder / "instructions.jsonl"),
    }  # fmt: skip
    kept = rows(folder / "instructions.jsonl")
    assert len(kept) == 4
    assert [m["role"] for m in kept[0]["messages"]] == ["user", "assistant"]
    assert kept[0]["messages"][1]["content"] == f"[PYTHON]\n{GOOD.format(2)}\n[/PYTHON]"
    # Again: nothing is asked, the table says the same as the JSON.
    count = len(Scripted.asked)
    again = run(command(folder, server))
    assert len(Scripted.asked) == count
    assert re.search(r"questions with a solution that passes +4 +66.7% +14,000", again.stdout)
    built = run(
        [sys.executable, "-m", "codellama", "corpus", "build", str(tmp_path / "corpus"),
         str(folder / "instructions.jsonl")]
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    manifest = json.loads((tmp_path / "corpus" / "manifest.json").read_text())
    assert manifest["sets"]["instruct"]["documents"] == 4


def test_killed_and_run_again(server: str, tmp_path: Path) -> None:
    whole = run(command(tmp_path / "whole", server, "--json"))
    Scripted.pause[:] = [0.15]
    folder = tmp_path / "killed"
    process = subprocess.Popen(command(folder, server), stderr=subprocess.DEVNULL)
    log = folder / "attempts.jsonl"
    end = time.monotonic() + 60
    while not (log.exists() and log.stat().st_size) and time.monotonic() < end:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (folder / "instructions.jsonl").exists()
    before = {entry["question"] for entry in rows(log)}
    Scripted.pause[:] = [0.0]
    Scripted.asked.clear()
    done = run(command(folder, server, "--json"))
    assert done.returncode == 0, done.stderr
    counts = ({**json.loads(each.stdout), "output": ""} for each in (whole, done))
    assert next(counts) == next(counts)
    assert rows(folder / "instructions.jsonl") == rows(tmp_path / "whole" / "instructions.jsonl")
    assert not any(f"Problem: {q}" in prompt for q in before for prompt in Scripted.asked)


def test_other_settings_and_missing_names_are_one_line(server: str, tmp_path: Path) -> None:
    assert run(command(tmp_path / "a", server)).returncode == 0
    other = run(command(tmp_path / "a", server, "--seed", "1"))
    assert other.returncode == 1
    assert other.stderr.strip().splitlines()[-1].endswith("(seed): take another folder")
    nameless = run(
        [sys.executable, "-m", "codellama", "self-instruct", str(tmp_path / "b"), "--url", server]
    )
    assert "a URL needs the model's name" in nameless.stderr
    assert not (tmp_path / "b").exists()
