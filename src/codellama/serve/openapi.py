"""An OpenAPI description of every route, made from the structs that requests are read into.

Served at /openapi.json; the tests throw requests at it. Replies are described by their kinds only:
their shapes belong to the dialects' own documentation.
"""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from codellama.serve import llamacpp_types, ollama_types, openai_types
from codellama.serve.context import State
from codellama.serve.ollama import OLLAMA
from codellama.serve.replies import json_reply

__all__ = ["description", "routes"]

BODIES: dict[str, type[msgspec.Struct]] = {
    "/api/generate": ollama_types.GenerateRequest,
    "/api/chat": ollama_types.ChatRequest,
    "/api/embed": ollama_types.EmbedRequest,
    "/api/embeddings": ollama_types.EmbeddingsRequest,
    "/api/show": ollama_types.ShowRequest,
    "/api/pull": ollama_types.TransferRequest,
    "/api/push": ollama_types.TransferRequest,
    "/api/create": ollama_types.CreateRequest,
    "/api/copy": ollama_types.CopyRequest,
    "/v1/chat/completions": openai_types.ChatCompletionRequest,
    "/v1/completions": openai_types.CompletionRequest,
    "/v1/fim/completions": openai_types.FimRequest,
    "/v1/embeddings": openai_types.EmbeddingRequest,
    "/completion": llamacpp_types.CompletionOptions,
    "/infill": llamacpp_types.InfillOptions,
    "/tokenize": llamacpp_types.TokenizeRequest,
    "/detokenize": llamacpp_types.DetokenizeRequest,
    "/apply-template": llamacpp_types.ApplyTemplateRequest,
    "/embedding": llamacpp_types.EmbeddingOptions,
    "/slots/{id}": llamacpp_types.SlotFile,
}
_SLOT = [
    {"name": "id", "in": "path", "required": True, "schema": {"type": "integer", "minimum": 0}},
    {
        "name": "action",
        "in": "query",
        "required": True,
        "schema": {"enum": ["save", "restore", "erase"]},
    },
]
READS = (
    "/", "/api/version", "/api/tags", "/api/ps", "/v1/models", "/health", "/props", "/slots",
    "/metrics", "/lora-adapters",
)  # fmt: skip


def routes(state: State) -> list[Route]:
    return [OLLAMA.route("/openapi.json", _openapi, "GET", state=state)]


async def _openapi(state: State, request: Request) -> Response:
    return json_reply(description())


def description() -> dict[str, Any]:
    """The document."""
    from codellama import __version__

    kinds = [*BODIES.values(), ollama_types.NameRequest]
    schemas, components = msgspec.json.schema_components(
        kinds, ref_template="#/components/schemas/{name}"
    )
    bodies = dict(zip([*BODIES, "/api/delete"], schemas, strict=True))
    answers = {"default": {"description": "An answer, or an error in the dialect's shape."}}
    paths: dict[str, Any] = {}
    for path, schema in bodies.items():
        content = {"application/json": {"schema": schema}}
        verb = "delete" if path == "/api/delete" else "post"
        paths[path] = {verb: {"requestBody": {"content": content}, "responses": answers}}
    paths["/slots/{id}"]["post"]["parameters"] = _SLOT
    for path in READS:
        paths[path] = {"get": {"responses": answers}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "codellama serve", "version": __version__},
        "paths": paths,
        "components": {"schemas": components},
    }
