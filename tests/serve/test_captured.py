"""Requests captured from real clients, replayed: each gets the answer that its client needs."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest

from serve.conftest import Live

HEAD = re.compile(r"^(GET|POST|DELETE) (\S+)  ua=(.*?) (\{.*\})$")


def captured(folder: Path) -> list[tuple[str, str, str, Any]]:
    """(method, path, user agent, body), each request once."""
    lines = (folder / "captured_requests.txt").read_text().splitlines()
    found: dict[str, tuple[str, str, str, Any]] = {}
    for head, body in pairwise(lines):
        if match := HEAD.match(head):
            text = body.strip()
            value = text[1:-1].encode() if text.startswith("'") else json.loads(text)
            found[f"{match[1]} {match[2]} {text}"] = (match[1], match[2], match[3], value)
    return list(found.values())


@pytest.fixture(scope="module")
def requests(shared_data: Path) -> list[tuple[str, str, str, Any]]:
    found = captured(shared_data)
    assert len(found) > 40
    return found


@pytest.fixture
def prepared(infilling: Live) -> Iterator[httpx.Client]:
    """A server whose `codellama` infills; model `a` is there to be copied, `b` to be deleted."""
    client = httpx.Client(base_url=infilling.url, timeout=60)
    for name in ("a", "b"):
        client.post("/api/copy", json={"source": "tiny-code", "destination": name})
    yield client
    client.close()


def bounded(path: str, body: Any) -> Any:
    """Random weights rarely end by themselves."""
    if (
        isinstance(body, dict)
        and path.startswith("/api/")
        and ("prompt" in body or "messages" in body)
    ):
        options = {k: v for k, v in (body.get("options") or {}).items()}
        return body | {"options": options | {"num_predict": 24}}
    if isinstance(body, dict) and path.startswith("/v1/") and "max_tokens" not in body:
        return body | ({"max_tokens": 24} if "input" not in body else {})
    return body


def test_every_request_is_answered(
    prepared: httpx.Client, requests: list[tuple[str, str, str, Any]]
) -> None:
    for method, path, agent, body in requests:
        if path == "/api/pull":
            continue  # needs a registry: test_pull.py has one
        headers = {"user-agent": agent}
        content = body if isinstance(body, bytes) else json.dumps(bounded(path, body)).encode()
        reply = prepared.request(
            method, path, content=None if body is None else content, headers=headers
        )
        what = f"{method} {path} {str(body)[:200]} → {reply.status_code} {reply.text[:300]}"
        if path == "/api/delete":
            assert reply.status_code in (200, 404), what  # both spellings delete `b`
            prepared.post("/api/copy", json={"source": "tiny-code", "destination": "b"})
            continue
        assert reply.status_code in (200, 201), what
        check(path, body, reply)


def check(path: str, body: Any, reply: httpx.Response) -> None:
    path = path.rstrip("/")
    if path in ("/api/generate", "/api/chat"):
        lines = [json.loads(line) for line in reply.text.splitlines()]
        assert lines[-1]["done"] and lines[-1]["done_reason"] in ("stop", "length")
        assert {"total_duration", "prompt_eval_count", "model", "created_at"} <= set(lines[-1])
        whole = body.get("stream") is False
        assert (len(lines) == 1) == whole or not whole
        kind = "application/json" if whole else "application/x-ndjson"
        assert reply.headers["content-type"].startswith(kind)
        key = "response" if path == "/api/generate" else "message"
        assert all(key in line for line in lines)
        if isinstance(body.get("format"), dict) and lines[-1]["done_reason"] == "stop":
            text = "".join(line["message"]["content"] for line in lines)
            assert "answer" in json.loads(text)
    elif path.startswith("/api/blobs/"):
        assert path.endswith(hashlib.sha256(b"abc").hexdigest())
    elif path == "/v1/fim/completions":
        assert "[DONE]" in reply.text and '"delta"' in reply.text
    elif path == "/v1/embeddings":
        assert isinstance(reply.json()["data"][0]["embedding"], str)
    elif path == "/infill":
        assert "content" in reply.json()


def test_a_preflight_of_the_web_extension(prepared: httpx.Client) -> None:
    headers = {
        "origin": "http://localhost:3123",
        "access-control-request-method": "POST",
        "access-control-request-headers": "content-type",
    }
    reply = prepared.options("/infill", headers=headers)
    assert reply.status_code == 204
    assert reply.headers["access-control-allow-origin"] == "http://localhost:3123"
    assert "Content-Type" in reply.headers["access-control-allow-headers"]


NOTEBOOK = {  # notebook-intelligence 6.2.0: a hard-coded model, a raw template, literal backslash-n
    "model": "codellama:7b-code",
    "prompt": "<PRE> def f(x):\r\n     <SUF>\r\n    return y <MID>",
    "raw": True,
    "stream": False,
    "options": {"num_predict": 8, "temperature": 0, "stop": ["<PRE>", "\\n\\n", "<EOT>"]},
}


def test_the_textual_template_is_infilling(prepared: httpx.Client) -> None:
    textual = prepared.post("/api/generate", json=NOTEBOOK).json()
    body = {"prompt": "def f(x):\r\n    ", "suffix": "\r\n    return y", "model": "codellama"}
    psm = prepared.post(
        "/v1/completions", json=body | {"infill_order": "psm", "max_tokens": 8, "temperature": 0}
    )
    assert textual["response"] == psm.json()["choices"][0]["text"]
    assert textual["prompt_eval_count"] == psm.json()["usage"]["prompt_tokens"]
