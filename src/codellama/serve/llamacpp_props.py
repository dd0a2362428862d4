"""llama.cpp's API, the routes beside generation: /tokenize, /detokenize, /apply-template, /props,
/health, /metrics, /embedding, /lora-adapters.
"""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from codellama.engine.engine import Engine
from codellama.model.templates import encode_marked
from codellama.model.tokenizer import Tokenizer
from codellama.serve.context import State, header_notes
from codellama.serve.embedding import embed_texts
from codellama.serve.errors import StatusError
from codellama.serve.llamacpp import LLAMACPP
from codellama.serve.llamacpp_slots import SLOTS
from codellama.serve.llamacpp_types import (
    ApplyTemplateRequest,
    DetokenizeRequest,
    EmbeddingOptions,
    TokenizeRequest,
)
from codellama.serve.models import Loaded
from codellama.serve.openai_parts import prompts_of
from codellama.serve.prompting import Conversation, chat_prompt
from codellama.serve.replies import json_reply, read_json, unless_gone

__all__ = ["routes"]


def routes(state: State) -> list[Route]:
    route = LLAMACPP.route
    return [
        route("/health", _health, "GET", "HEAD", state=state),
        route("/v1/health", _health, "GET", "HEAD", state=state),
        route("/tokenize", _tokenize, state=state),
        route("/detokenize", _detokenize, state=state),
        route("/apply-template", _apply_template, state=state),
        route("/props", _props, "GET", state=state),
        route("/metrics", _metrics, "GET", state=state),
        route("/embedding", _embedding, state=state),
        route("/lora-adapters", _adapters, "GET", state=state),
    ]


async def _health(state: State, request: Request) -> Response:
    return json_reply({"status": "ok"})


async def _tokenize(state: State, request: Request) -> Response:
    body = await read_json(request, TokenizeRequest, state.settings.max_body)
    text = body.content or ""
    lease = await state.models.lease(body.model)
    lease.release()
    tokenizer = lease.loaded.prompts.tokenizer
    if body.parse_special is False or tokenizer.kind != "gpt2":
        ids = tokenizer.encode(text)
    else:
        ids = encode_marked(tokenizer, text, [])
    if body.add_special and tokenizer.add_bos and tokenizer.bos_id is not None:
        ids = [tokenizer.bos_id, *ids]
    shown: list[Any] = list(ids)
    if body.with_pieces:
        shown = [{"id": id, "piece": _piece(tokenizer, id)} for id in ids]
    return json_reply({"tokens": shown}, headers=header_notes(lease.notes))


async def _detokenize(state: State, request: Request) -> Response:
    body = await read_json(request, DetokenizeRequest, state.settings.max_body)
    lease = await state.models.lease(body.model)
    lease.release()
    tokenizer, ids = lease.loaded.prompts.tokenizer, body.tokens or []
    if any(not 0 <= id < tokenizer.vocab_size for id in ids):
        raise StatusError(400, f"token ids go from 0 to {tokenizer.vocab_size - 1}")
    return json_reply({"content": written(tokenizer, ids)}, headers=header_notes(lease.notes))


async def _apply_template(state: State, request: Request) -> Response:
    body = await read_json(request, ApplyTemplateRequest, state.settings.max_body)
    if not body.messages:
        raise StatusError(400, '"messages" is required')
    for message in body.messages:
        if not isinstance(message.get("role"), str) or not isinstance(message.get("content"), str):
            raise StatusError(400, "every message needs a role and a content, both text")
    lease = await state.models.lease(body.model)
    lease.release()
    tokenizer = lease.loaded.prompts.tokenizer
    ids = chat_prompt(lease.loaded, Conversation(body.messages)).ids
    if ids[:1] == [tokenizer.bos_id] and tokenizer.add_bos:
        ids = ids[1:]  # /completion puts it in front
    return json_reply({"prompt": written(tokenizer, ids)}, headers=header_notes(lease.notes))


async def _props(state: State, request: Request) -> Response:
    from codellama import __version__

    lease = await state.models.lease(request.query_params.get("model"))
    lease.release()
    loaded = lease.loaded
    tokenizer = loaded.prompts.tokenizer
    reply = {
        "default_generation_settings": {
            "id": 0,
            "n_ctx": loaded.context,
            "cache_type_k": loaded.kv_type,
            "cache_type_v": loaded.kv_type,
            "speculative": state.settings.speculate,
            "is_processing": loaded.worker.jobs > 0,
            "params": {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.05},
        },
        "total_slots": SLOTS,
        "model_path": loaded.resolved.info.name,
        "model_alias": loaded.resolved.info.name,
        "chat_template": loaded.prompts.chat_template or "",
        "modalities": {"vision": False, "audio": False},
        "bos_token": tokenizer.text_of(tokenizer.bos_id),
        "eos_token": tokenizer.text_of(tokenizer.eos_id),
        "build_info": f"codellama {__version__}",
        "infill": loaded.prompts.infills,
        "is_sleeping": False,
    }
    return json_reply(reply, headers=header_notes(lease.notes))


async def _metrics(state: State, request: Request) -> Response:
    gauges: dict[str, float] = {
        "vllm:num_requests_running": 0,
        "vllm:num_requests_waiting": 0,
        "vllm:kv_cache_usage_perc": 0,
        "vllm:num_preemptions_total": 0,
        "llamacpp:requests_processing": 0,
        "llamacpp:requests_deferred": 0,
        "llamacpp:kv_cache_tokens": 0,
        "codellama:loaded_models": len(state.models.loaded),
        "codellama:memory_bytes": sum(loaded.memory_bytes for loaded in state.models.loaded),
    }
    for loaded in state.models.loaded:
        await _add(gauges, loaded)
    text = state.metrics.text(gauges)
    return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")


async def _add(gauges: dict[str, float], loaded: Loaded) -> None:
    status = await asyncio.wrap_future(loaded.worker.call(Engine.status))
    gauges["vllm:num_requests_running"] += status.running
    gauges["llamacpp:requests_processing"] += status.running
    gauges["vllm:num_requests_waiting"] += status.waiting
    gauges["llamacpp:requests_deferred"] += status.waiting
    gauges["vllm:num_preemptions_total"] += status.preemptions
    gauges["llamacpp:kv_cache_tokens"] += status.cached_tokens
    used = 1 - status.free_blocks / status.blocks
    gauges["vllm:kv_cache_usage_perc"] = max(gauges["vllm:kv_cache_usage_perc"], used)


async def _embedding(state: State, request: Request) -> Response:
    body = await read_json(request, EmbeddingOptions, state.settings.max_body)
    texts = prompts_of(body.content if body.content is not None else body.input)
    lease = await state.models.lease(body.model)
    try:
        vectors, _count = await unless_gone(
            request,
            embed_texts(lease, texts),
        )
    finally:
        lease.release()
    reply = [{"index": i, "embedding": [vector]} for i, vector in enumerate(vectors)]
    return json_reply(reply, headers=header_notes(lease.notes))


async def _adapters(state: State, request: Request) -> Response:
    return json_reply([])


def written(tokenizer: Tokenizer, ids: list[int]) -> str:
    """Text of ids in which control tokens are written out, as /completion reads them."""
    raw = b"".join(tokenizer.piece(id) or tokenizer.text_of(id).encode() for id in ids)
    text = raw.decode("utf-8", "replace")
    return text.removeprefix(" ") if tokenizer.kind == "llama" else text


def _piece(tokenizer: Tokenizer, id: int) -> str | list[int]:
    """Text, or bytes where the piece is a part of a character."""
    raw = tokenizer.piece(id) or tokenizer.text_of(id).encode()
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return list(raw)
