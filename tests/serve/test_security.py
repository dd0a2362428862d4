"""Who is let in, and what leaves: hosts, origins, keys, limits, paths in errors."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codellama.errors import RequestError
from codellama.serve.errors import public_text
from codellama.serve.keys import KeyFile
from codellama.serve.server import check_exposure
from codellama.serve.settings import Settings
from serve.inprocess import drive

BODY = {"model": "fake", "prompt": "x", "stream": False, "options": {"num_predict": 2}}


@pytest.mark.parametrize(
    "host, status",
    [
        ("localhost", 200),
        ("127.0.0.1:11434", 200),
        ("[::1]:11434", 200),
        ("192.168.1.7", 200),
        ("box.local", 200),
        ("evil.example", 403),
        ("localhost.evil.example", 403),
        ("8.8.8.8", 403),
    ],
)
def test_host_names_of_others_are_refused_on_loopback(host: str, status: int) -> None:
    async def work(http: httpx.AsyncClient) -> None:
        assert (await http.get("/api/version", headers={"host": host})).status_code == status

    drive(work)


@pytest.mark.parametrize(
    "origin, allowed",
    [
        ("http://localhost:3000", True),
        ("https://127.0.0.1", True),
        ("vscode-webview://abc", True),
        ("app://obsidian.md", True),
        ("https://evil.example", False),
        ("http://localhost.evil.example", False),
        ("null", False),
        ("https://mine.example", True),
    ],
)
def test_origins(origin: str, allowed: bool) -> None:
    async def work(http: httpx.AsyncClient) -> None:
        reply = await http.post("/api/generate", json=BODY, headers={"origin": origin})
        assert reply.status_code == (200 if allowed else 403)
        assert reply.headers.get("access-control-allow-origin") == (origin if allowed else None)

    drive(work, Settings(origins=("https://mine.*",)))


def test_api_keys_are_hashed_and_checked(tmp_path: Path) -> None:
    keys = KeyFile(tmp_path / "keys")
    key = keys.add("laptop")
    assert key not in (tmp_path / "keys").read_text()
    assert (tmp_path / "keys").stat().st_mode & 0o077 == 0
    assert (
        KeyFile(tmp_path / "keys").knows(key) and not keys.knows(key + "x") and not keys.knows("")
    )

    async def work(http: httpx.AsyncClient) -> None:
        assert (await http.get("/health")).status_code == 200
        for path in ("/api/tags", "/v1/models", "/metrics"):
            reply = await http.get(path)
            assert reply.status_code == 401 and reply.headers["www-authenticate"] == "Bearer"
        headers = {"authorization": f"Bearer {key}"}
        assert (await http.post("/api/generate", json=BODY, headers=headers)).status_code == 200
        (tmp_path / "keys").write_text("")  # revoked while the server runs
        assert (await http.get("/api/version", headers=headers)).status_code == 401

    drive(work, Settings(api_keys=tmp_path / "keys"))


def test_damaged_key_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("secret\n")
    with pytest.raises(RequestError, match="no keys"):
        KeyFile(tmp_path / "keys")


def test_public_addresses_need_a_key(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="--allow-public-without-key"):
        check_exposure(Settings(host="0.0.0.0"))
    check_exposure(Settings(host="0.0.0.0", api_keys=tmp_path / "keys"))
    check_exposure(Settings(host="0.0.0.0", allow_public=True))
    check_exposure(Settings(host="::1"))
    with pytest.raises(RequestError, match="no file"):
        check_exposure(Settings(certificate=tmp_path / "c", private_key=tmp_path / "k"))


def test_the_command_refuses_in_one_line() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "codellama", "serve", "--host", "0.0.0.0", "--port", "0"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1 and "API key" in done.stderr


def test_limits_of_size_and_rate() -> None:
    async def work(http: httpx.AsyncClient) -> None:
        reply = await http.post("/api/generate", content=b"x" * 2000)
        assert reply.status_code == 413
        statuses = [(await http.get("/api/version")).status_code for _ in range(12)]
        assert statuses.count(429) >= 2
        reply = await http.get("/v1/models")
        assert reply.json()["error"]["type"] == "rate_limit_error"
        assert int(reply.headers["retry-after"]) >= 1

    drive(work, Settings(max_body=1000, requests_per_minute=10))


def test_a_full_queue_in_each_dialect() -> None:
    async def work(http: httpx.AsyncClient) -> None:
        for path, status in (
            ("/api/generate", 503),
            ("/v1/completions", 429),
            ("/completion", 503),
        ):
            reply = await http.post(path, json=BODY)
            if reply.status_code == 200:  # the first one loads the model
                lease = http._transport.app.state_parts.models.loaded[0]  # type: ignore[attr-defined]
                lease.worker._most = 0
                reply = await http.post(path, json=BODY)
            assert reply.status_code == status
            assert reply.headers["retry-after"]

    drive(work)


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "/etc/passwd", "~/x", "a/b/c/d", "..", "x\\y", "a" * 2000, "./m"]
)
def test_names_are_never_paths(name: str) -> None:
    async def work(http: httpx.AsyncClient) -> None:
        for path in ("/api/show", "/api/generate", "/api/delete", "/api/pull"):
            reply = await http.post(path, json={"model": name, "stream": False})
            assert reply.status_code in (400, 404), (path, reply.text)
        for fields in ({"source": name, "destination": "b"}, {"source": "a", "destination": name}):
            assert (await http.post("/api/copy", json=fields)).status_code in (400, 404)
        reply = await http.post("/api/create", json={"model": name, "from": name, "stream": False})
        assert reply.status_code in (400, 404)

    drive(work)


@given(st.lists(st.text("abc.-_", min_size=1), min_size=2, max_size=5).map("/".join))
def test_errors_leak_no_folders(path: str) -> None:
    shown = public_text(f"cannot write in /{path}: disk full")
    assert "/" not in shown and shown.endswith(": disk full")


def test_words_with_slashes_stay() -> None:
    assert public_text("a prompt/answer of 3 tokens/s") == "a prompt/answer of 3 tokens/s"
    assert public_text("see https://ollama.com/x/y") == "see https://ollama.com/x/y"


@pytest.mark.parametrize("content", [b"", b"[", b"[1]", b'{"model": 1}', b"\xff", b"[" * 90000])
def test_bodies_that_are_none(content: bytes) -> None:
    async def work(http: httpx.AsyncClient) -> None:
        for path in ("/api/generate", "/v1/chat/completions", "/infill"):
            reply = await http.post(path, content=content)
            assert reply.status_code == 400 and "error" in reply.json()

    drive(work)


def test_unknown_paths_and_verbs() -> None:
    async def work(http: httpx.AsyncClient) -> None:
        assert (await http.get("/nothing")).status_code == 404
        assert (await http.get("/v1/nothing")).json()["error"]["type"] == "not_found_error"
        assert (await http.get("/api/generate")).status_code == 405
        assert (await http.get("/")).text == "Ollama is running"
        assert (await http.head("/")).status_code == 200

    drive(work)
