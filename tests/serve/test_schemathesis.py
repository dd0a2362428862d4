"""Schemathesis over the OpenAPI description: what it makes of it, right and wrong, is never a 5xx.

Beside test_openapi.py, which knows what our bodies mean and so gets further into each route, this
one knows HTTP: wrong types of every part, absent and foreign bodies, paths and queries. In process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from codellama.serve.openapi import description
from codellama.serve.settings import Settings
from fakes import KeepingRunner
from serve.inprocess import fake_app

schemathesis = pytest.importorskip("schemathesis")

REFUSED = 501  # what we say to what we do not imitate; every other 5xx is a mistake of ours
OPERATIONS = [
    (path, verb)
    for path, verbs in description()["paths"].items()
    for verb in verbs
    if path != "/api/pull"  # which would ask a registry
]


@pytest.fixture
def http(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[httpx.AsyncClient, asyncio.AbstractEventLoop]]:
    """A client of an app over a scripted model and an empty store."""
    for name in ("CODELLAMA_MODELS", "OLLAMA_MODELS", "HF_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))
    (tmp_path / "slots").mkdir()
    app = fake_app(Settings(max_seconds=1, slot_folder=tmp_path / "slots"), kind=KeepingRunner)
    loop = asyncio.new_event_loop()
    client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost")
    yield client, loop
    loop.run_until_complete(app.state_parts.models.close())
    loop.run_until_complete(client.aclose())
    loop.close()


def attack(
    http: tuple[httpx.AsyncClient, asyncio.AbstractEventLoop], path: str, verb: str, examples: int
) -> None:
    client, loop = http
    operation = schemathesis.openapi.from_dict(description())[path][verb]
    sent = 0
    has_input = verb != "get"  # a plain GET can be sent in one way
    modes = [schemathesis.GenerationMode.POSITIVE]
    modes += [schemathesis.GenerationMode.NEGATIVE] if has_input else []

    @seed(1)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=st.one_of(*(operation.as_strategy(generation_mode=mode) for mode in modes)))
    def check(case: Any) -> None:
        nonlocal sent
        asked = case.as_transport_kwargs(base_url="http://localhost")
        names = ("method", "url", "headers", "params", "json", "content", "data")
        asked = {name: asked[name] for name in names if asked.get(name) is not None}
        if isinstance(asked.get("data"), str | bytes):
            asked["content"] = asked.pop("data")
        asked["headers"] = dict(asked.get("headers") or {})
        try:
            request = client.build_request(**asked)
        except (ValueError, TypeError):  # what no HTTP client can send
            return
        sent += 1
        reply = loop.run_until_complete(client.send(request))
        assert reply.status_code < 500 or reply.status_code == REFUSED, (asked, reply.text)

    check()
    assert sent >= (examples // 3 if has_input else 1), "hardly anything was sent"


@pytest.mark.parametrize(("path", "verb"), OPERATIONS)
def test_no_5xx(
    http: tuple[httpx.AsyncClient, asyncio.AbstractEventLoop], path: str, verb: str
) -> None:
    attack(http, path, verb, 50)


@pytest.mark.slow
@pytest.mark.parametrize(("path", "verb"), OPERATIONS)
def test_no_5xx_for_long(
    http: tuple[httpx.AsyncClient, asyncio.AbstractEventLoop], path: str, verb: str
) -> None:
    attack(http, path, verb, 500)
