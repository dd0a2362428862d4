"""What only a live server shows: closed sockets, restarts, graceful stops, `ps`, aliases."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest

from serve.conftest import Live, start, stop
from serve.support import INFILLS, TALKS, open_files


def generate(url: str, **fields: object) -> httpx.Response:
    body = {"model": "codellama", "prompt": "x", "raw": True, "stream": False}
    return httpx.post(f"{url}/api/generate", json=body | fields, timeout=60)


def slots(url: str) -> list[dict[str, object]]:
    found: list[dict[str, object]] = httpx.get(f"{url}/slots").json()
    return found


def wait_until_idle(url: str, seconds: float = 5.0) -> float:
    begin = time.monotonic()
    while slots(url):
        assert time.monotonic() - begin < seconds, "work goes on for a client that has gone"
        time.sleep(0.005)
    return time.monotonic() - begin


@pytest.mark.parametrize("streams", [True, False])
@pytest.mark.weights
def test_a_closed_socket_stops_work(live: Live, streams: bool) -> None:
    host, port = live.url.removeprefix("http://").split(":")
    prompt = "def g(y):\n    return y\n" * 60
    body = json.dumps(
        {
            "model": "codellama",
            "prompt": prompt,
            "raw": True,
            "stream": streams,
            "options": {"num_predict": 400},
        }
    ).encode()
    generate(live.url, options={"num_predict": 1})
    with socket.create_connection((host, int(port))) as connection:
        head = (
            f"POST /api/generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        connection.sendall(head.encode() + body)
        until = time.monotonic() + 5
        while not slots(live.url) and time.monotonic() < until:
            time.sleep(0.005)
        assert slots(live.url)
    assert wait_until_idle(live.url) < 3


@pytest.mark.weights
def test_open_files_return(live: Live) -> None:
    for _ in range(3):
        generate(live.url, options={"num_predict": 2})
    time.sleep(0.2)
    before = open_files(live.process.pid)
    for _ in range(20):
        generate(live.url, options={"num_predict": 1})
    time.sleep(0.3)
    assert open_files(live.process.pid) <= before + 2


def test_a_restart_keeps_the_prefix_cache(store: Path, tmp_path: Path) -> None:
    prompt = "".join(f"line_{i} = {i}\n" for i in range(200))
    options = {"num_predict": 4, "temperature": 0}
    first = start(tmp_path, store, "--model", INFILLS)
    cold = generate(first.url, prompt=prompt, options=options).json()
    assert stop(first) == 0
    second = start(tmp_path, store, "--model", INFILLS)
    body = {"prompt": prompt, "n_predict": 4, "temperature": 0}
    warm = httpx.post(f"{second.url}/completion", json=body, timeout=60).json()
    assert stop(second) == 0
    assert warm["content"] == cold["response"]
    assert warm["tokens_cached"] >= warm["tokens_evaluated"] - 16
    assert "restored a prefix cache" in second.log.read_text()
    (saved,) = (tmp_path / "cache" / "codellama" / "prefixes").iterdir()
    saved.write_bytes(saved.read_bytes()[:-1])  # damaged: refused, and everything still works
    third = start(tmp_path, store, "--model", INFILLS)
    again = generate(third.url, prompt=prompt, options=options).json()
    assert again["response"] == cold["response"]
    assert stop(third) == 0
    assert "restored" not in third.log.read_text()


@pytest.mark.weights
def test_a_named_model_is_loaded_before_anybody_asks(store: Path, tmp_path: Path) -> None:
    server = start(tmp_path, store, "--model", INFILLS)
    begin = time.monotonic()
    while not httpx.get(f"{server.url}/api/ps").json()["models"]:
        assert time.monotonic() - begin < 30, server.log.read_text()
        time.sleep(0.02)
    assert stop(server) == 0


def test_a_named_model_that_is_not_there_is_no_reason_to_stop(tmp_path: Path) -> None:
    server = start(tmp_path, tmp_path, "--model", "./nothing.gguf")
    begin = time.monotonic()
    while "nothing.gguf is not loaded yet" not in server.log.read_text():
        assert time.monotonic() - begin < 30, server.log.read_text()
        time.sleep(0.02)
    assert generate(server.url).status_code == 404
    assert stop(server) == 0


@pytest.mark.weights
def test_a_stop_lets_streams_end(store: Path, tmp_path: Path) -> None:
    running = start(tmp_path, store, "--model", TALKS, "--context", "512")
    generate(running.url, options={"num_predict": 1})
    lines: list[str] = []
    begun = threading.Event()

    def read() -> None:
        body = {
            "model": "codellama",
            "prompt": "def f(x):",
            "raw": True,
            "options": {"num_predict": 60},
        }
        with httpx.stream("POST", f"{running.url}/api/generate", json=body, timeout=60) as reply:
            for line in reply.iter_lines():
                lines.append(line)
                begun.set()

    thread = threading.Thread(target=read)
    thread.start()
    assert begun.wait(30)
    running.process.send_signal(signal.SIGTERM)
    thread.join(60)
    assert json.loads(lines[-1])["done"] is True
    assert running.process.wait(60) == 0
    assert running.process.stdout is not None
    running.process.stdout.close()


@pytest.mark.weights
def test_ps_and_what_to_paste(live: Live) -> None:
    generate(live.url, options={"num_predict": 1})
    env = {**os.environ, "OLLAMA_HOST": live.url}
    command = [sys.executable, "-m", "codellama", "ps"]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0 and TALKS in done.stdout
    done = subprocess.run([*command, "--json"], env=env, capture_output=True, text=True)
    assert json.loads(done.stdout)[0]["context_length"] == 1024


def test_the_port_in_use_is_said(infilling: Live) -> None:
    port = infilling.url.rsplit(":", 1)[1]
    command = [sys.executable, "-m", "codellama", "serve", "--port", port]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and "cannot listen" in done.stderr


def test_codellama_means_the_users_alias_or_says_what_it_means(store: Path, tmp_path: Path) -> None:
    mine = tmp_path / "models"
    mine.mkdir()
    running = start(tmp_path, mine)
    try:
        assert generate(running.url).status_code == 404  # nothing is here
        for file in store.iterdir():
            if file.is_file():
                (mine / file.name).symlink_to(file.resolve())
        from serve.support import add_model

        add_model(mine, INFILLS, store.parent / "tiny.gguf")
        time.sleep(2.1)  # names are remembered for two seconds
        reply = generate(running.url, options={"num_predict": 1})
        assert reply.status_code == 200
        assert (
            "is not on this machine: tiny-code:latest answers"
            in reply.headers["x-codellama-notice"]
        )
        assert "tiny-code:latest answers" in running.log.read_text()
        copied = httpx.post(
            f"{running.url}/api/copy", json={"source": INFILLS, "destination": "codellama"}
        )
        assert copied.status_code == 200
        reply = generate(running.url, options={"num_predict": 1})
        assert reply.status_code == 200 and "x-codellama-notice" not in reply.headers
        assert generate(running.url, model="mistral").status_code == 404
    finally:
        assert stop(running) == 0


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[str, str]:
    if not shutil.which("openssl"):
        pytest.skip("openssl is not installed")
    pair = str(tmp_path / "cert.pem"), str(tmp_path / "key.pem")
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    subprocess.run([*command, "-out", pair[0], "-keyout", pair[1]], check=True, capture_output=True)
    return pair


def test_a_public_server_with_keys_and_tls(
    store: Path, tmp_path: Path, certificate: tuple[str, str]
) -> None:
    keys = tmp_path / "keys"
    command = [sys.executable, "-m", "codellama", "serve", "--api-keys", str(keys)]
    done = subprocess.run([*command, "--new-key", "me"], capture_output=True, text=True)
    key = done.stdout.strip()
    assert done.returncode == 0 and key.startswith("cl-") and key not in keys.read_text()
    running = start(
        tmp_path, store, "--host", "0.0.0.0", "--model", INFILLS, "--api-keys", str(keys),
        "--certificate", certificate[0], "--private-key", certificate[1],
    )  # fmt: skip
    try:
        url = running.url.replace("0.0.0.0", "localhost")
        assert url.startswith("https://")
        trust = ssl.create_default_context(cafile=certificate[0])
        assert httpx.get(f"{url}/health", verify=trust).status_code == 200
        assert httpx.get(f"{url}/api/tags", verify=trust).status_code == 401
        headers = {"authorization": f"Bearer {key}"}
        assert httpx.get(f"{url}/api/tags", verify=trust, headers=headers).status_code == 200
    finally:
        assert stop(running) == 0
