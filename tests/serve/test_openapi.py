"""Requests made from the OpenAPI description, right and wrong: never a 500."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from codellama.serve.openapi import BODIES, description
from codellama.serve.settings import Settings
from serve.inprocess import drive, fake_app

WORDS = st.sampled_from(["", "a", "fake", "codellama", "x\ny", "json", "é", "user", "\x00", "0"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**65), 2**65) | st.floats(-1e9, 1e9) | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=6,
)


def from_schema(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Values of a schema, as far as the structs' schemas go."""
    if "anyOf" in schema:
        return st.one_of(*map(from_schema, schema["anyOf"]))
    match schema.get("type"):
        case "object" if "properties" in schema:
            fields = {name: from_schema(each) for name, each in schema["properties"].items()}
            required = {name: fields.pop(name) for name in schema.get("required", ())}
            return st.fixed_dictionaries(required, optional=fields)
        case "object":
            return st.dictionaries(
                WORDS, from_schema(schema.get("additionalProperties") or {}), max_size=2
            )
        case "array":
            return st.lists(from_schema(schema.get("items", {})), max_size=3)
        case "string":
            return WORDS
        case "integer":
            return st.sampled_from([0, 1, 3, -1, 40, 10**6, -(10**18)])
        case "number":
            return st.sampled_from([0, 0.5, 1, 2, -1, 1e9])
        case "boolean":
            return st.booleans()
        case "null":
            return st.none()
    return VALUES


def body_schema(path: str) -> dict[str, Any]:
    """The schema of a route's body, references put in place."""
    document = description()
    components = document["components"]["schemas"]

    def whole(value: Any) -> Any:
        if isinstance(value, dict):
            if "$ref" in value:
                return whole(components[value["$ref"].rsplit("/", 1)[1]])
            return {key: whole(each) for key, each in value.items() if key != "default"}
        return [whole(each) for each in value] if isinstance(value, list) else value

    return whole(
        document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
    )


MESSAGES = [{"role": "user", "content": "x"}]
VALID: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": MESSAGES, "tools": None},
    "/v1/completions": {"prompt": ["x", [1, 2]], "suffix": None},
    "/completion": {"prompt": "x"},
    "/infill": {"input_prefix": "a", "input_suffix": "b", "prompt": None},
    "/v1/fim/completions": {"prompt": "a", "suffix": "b"},
    "/embedding": {"content": "a"},
    "/v1/embeddings": {"input": "a", "encoding_format": None, "dimensions": None},
    "/apply-template": {"messages": MESSAGES},
}
REFUSED = ("/api/push", "/api/copy", "/api/create", "/api/show")  # no store here
REFUSED += ("/slots/{id}",)  # nothing is cached that could be saved
ADDRESS = {"/slots/{id}": "/slots/0?action=save"}
# Work that random requests may ask for is bounded by the fake's context of 512 tokens.
HARMLESS = [path for path in BODIES if path not in ("/api/pull", "/slots/{id}")]


@pytest.mark.parametrize("path", HARMLESS)
def test_no_500(path: str, tmp_path: Path) -> None:
    fields = list(body_schema(path)["properties"])
    app = fake_app(Settings(max_seconds=2, slot_folder=tmp_path))
    statuses: set[int] = set()
    loop = asyncio.new_event_loop()
    http = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost")

    @settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
    @given(
        st.one_of(
            from_schema(body_schema(path)),
            st.dictionaries(st.sampled_from(fields), VALUES, max_size=8),
            VALUES,
        ),
        st.booleans(),
    )
    def fuzz(body: Any, names_a_model: bool) -> None:
        if names_a_model and isinstance(body, dict):
            body = body | {"model": "fake"} | VALID.get(path, {})
        try:
            raw = json.dumps(body).encode()
        except (ValueError, UnicodeEncodeError):
            return
        reply = loop.run_until_complete(http.post(ADDRESS.get(path, path), content=raw))
        statuses.add(reply.status_code)
        assert reply.status_code != 500, (body, reply.text)
        if reply.status_code >= 400 and reply.status_code != 405:
            assert "error" in reply.json()

    try:
        fuzz()
        assert 400 in statuses and (200 in statuses or path in REFUSED), statuses
    finally:
        loop.run_until_complete(app.state_parts.models.close())
        loop.run_until_complete(http.aclose())
        loop.close()


def test_the_description_is_served() -> None:
    async def work(http: httpx.AsyncClient) -> None:
        document = (await http.get("/openapi.json")).json()
        assert set(BODIES) <= set(document["paths"])
        assert document["components"]["schemas"]["GenerateRequest"]["properties"]["prompt"]

    drive(work)


def test_every_route_is_described() -> None:
    """But for those whose path holds a name, and aliases."""
    app = fake_app()._app
    described = set(description()["paths"]) | {"/openapi.json"}
    aliases = {"/completions", "/v1/health"}
    paths = {route.path for route in app.routes if "{" not in route.path}
    assert paths - described == aliases
