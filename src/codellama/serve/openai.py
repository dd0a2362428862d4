"""OpenAI's API: /v1/chat/completions, /v1/models, /v1/embeddings; completions and FIM are in
openai_completions.py.

Server-sent events, errors as {"error": {message, type, param, code}}.
"""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
from collections.abc import AsyncGenerator
from typing import Any

import numpy as np
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from codellama.errors import CodeLlamaError
from codellama.serve import asking, openai_completions
from codellama.serve.context import State, header_notes
from codellama.serve.embedding import embed_texts
from codellama.serve.errors import StatusError, problem_of
from codellama.serve.formats import grammar_constraint, response_constraint
from codellama.serve.jobs import Delta
from codellama.serve.models import Lease
from codellama.serve.ollama_describe import summaries
from codellama.serve.openai_parts import (
    OPENAI,
    chat_logprobs,
    event,
    params_of,
    prompts_of,
    samples_of,
    stamp,
    usage_of,
)
from codellama.serve.openai_types import ChatCompletionRequest, ChatMessage, EmbeddingRequest
from codellama.serve.prompting import Conversation, chat_prompt
from codellama.serve.replies import Streaming, json_reply, read_json, unless_gone
from codellama.serve.stream import JobStream, collect
from codellama.serve.tools import ToolSet, tools_of

__all__ = ["OPENAI", "routes"]

SSE = "text/event-stream"


def routes(state: State) -> list[Route]:
    return [
        OPENAI.route("/v1/chat/completions", _chat, state=state),
        OPENAI.route("/v1/embeddings", _embeddings, state=state),
        OPENAI.route("/v1/models", _models, "GET", state=state),
        OPENAI.route("/v1/models/{id:path}", _model, "GET", state=state),
        *openai_completions.routes(state),
    ]


async def _chat(state: State, request: Request) -> Response:
    body = await read_json(request, ChatCompletionRequest, state.settings.max_body)
    if not body.messages:
        raise StatusError(400, "messages is required")
    if body.max_completion_tokens is not None:
        body.max_tokens = body.max_completion_tokens
    n = samples_of(body.n)
    tools = tools_of(body.tools, body.tool_choice)
    messages = [_message(message) for message in body.messages]
    top = min(20, max(0, body.top_logprobs or 0)) if body.logprobs else None
    params = params_of(
        body, max_tokens=body.max_tokens, logprobs=top, speculate=state.settings.speculate
    )
    lease = await state.models.lease(body.model, num_ctx=body.num_ctx)
    try:
        prompt = chat_prompt(lease.loaded, Conversation(messages, tools))
        constraint = await grammar_constraint(
            lease.loaded,
            grammar=body.grammar or body.guided_grammar,
            json_schema=body.json_schema or body.guided_json,
            regex=body.guided_regex,
        )
        if constraint is None:
            constraint = await response_constraint(lease.loaded, body.response_format, tools)
        prompt = asking.constrained(prompt, constraint)
        if body.truncate:
            prompt, cut = asking.truncated(lease, prompt, params)
            if cut:
                lease.notes.append(f"the prompt was truncated: {cut} tokens were cut")
    except BaseException:
        lease.release()
        raise
    stream = asking.start(lease, prompt, params, n=n, observe=state.metrics.observe)
    headers = header_notes(lease.notes)
    if body.stream:
        return Streaming(_events(stream, lease, body, tools), SSE, headers)
    reply = await unless_gone(request, _whole(stream, lease, body, tools))
    return json_reply(reply, headers=headers)


async def _whole(
    stream: JobStream, lease: Lease, body: ChatCompletionRequest, tools: ToolSet | None
) -> dict[str, Any]:
    samples = await collect(stream)
    tokenizer = lease.loaded.prompts.tokenizer
    choices = []
    for index, sample in enumerate(samples):
        done = sample.finish.completion
        message: dict[str, Any] = {"role": "assistant", "content": sample.text, "refusal": None}
        reason = "length" if done.finish_reason == "length" else "stop"
        calls = _calls(tools, sample.text)
        if calls:
            message |= {"content": None, "tool_calls": calls}
            reason = "tool_calls"
        logprobs = chat_logprobs(tokenizer, done.logprobs) if done.logprobs is not None else None
        choices.append(
            {"index": index, "message": message, "logprobs": logprobs, "finish_reason": reason}
        )
    reply = stamp("chatcmpl", body.model, "chat.completion")
    usage = usage_of([sample.finish.completion.usage for sample in samples])
    return reply | {"choices": choices, "usage": usage}


async def _events(
    stream: JobStream, lease: Lease, body: ChatCompletionRequest, tools: ToolSet | None
) -> AsyncGenerator[bytes]:
    head = stamp("chatcmpl", body.model, "chat.completion.chunk")
    include_usage = body.stream_options is not None and body.stream_options.include_usage
    tail: dict[str, Any] = {"usage": None} if include_usage else {}
    tokenizer = lease.loaded.prompts.tokenizer
    usages = []
    held = [""] * stream.job.n

    def chunk(index: int, delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": reason}
        return head | {"choices": [choice]} | tail

    def with_text(delta: Delta, text: str) -> dict[str, Any]:
        made = chunk(delta.index, {"content": text})
        if delta.logprobs:
            made["choices"][0]["logprobs"] = chat_logprobs(tokenizer, delta.logprobs)
        return made

    try:
        for index in range(stream.job.n):
            yield event(chunk(index, {"role": "assistant", "content": ""}))
        async with stream as deltas:
            async for delta in deltas:
                text = held[delta.index] + delta.text
                holds = tools is not None and tools.may_be_call(text)
                held[delta.index] = text if holds else ""
                if text and not holds:
                    yield event(with_text(delta, text))
                if delta.finish is None:
                    continue
                done = delta.finish.completion
                usages.append(done.usage)
                reason = "length" if done.finish_reason == "length" else "stop"
                if held[delta.index]:
                    calls = _calls(tools, held[delta.index])
                    if calls:
                        reason = "tool_calls"
                        numbered = [{"index": i, **call} for i, call in enumerate(calls)]
                        yield event(chunk(delta.index, {"tool_calls": numbered}))
                    else:
                        yield event(with_text(delta, held[delta.index]))
                yield event(chunk(delta.index, {}, reason))
        if include_usage:
            yield event(head | {"choices": [], "usage": usage_of(usages)})
    except CodeLlamaError as error:
        yield event(OPENAI.shape(problem_of(error)))
    yield b"data: [DONE]\n\n"


def _calls(tools: ToolSet | None, text: str) -> list[dict[str, Any]]:
    if tools is None:
        return []
    return [
        {
            "id": f"call_{secrets.token_hex(12)}",
            "type": "function",
            "function": {"name": call.name, "arguments": json.dumps(call.arguments)},
        }
        for call in tools.parse(text)
    ]


def _message(message: ChatMessage) -> dict[str, Any]:
    content = message.content
    if isinstance(content, list):
        texts = []
        for part in content:
            if part.get("type") not in ("text", "input_text") or not isinstance(
                part.get("text"), str
            ):
                raise StatusError(400, f"content parts of type {part.get('type')!r:.40} are not "
                                       "supported: only text")  # fmt: skip
            texts.append(part["text"])
        content = "".join(texts)
    return {
        "role": message.role,
        "content": content or "",
        "tool_calls": message.tool_calls,
        "name": message.name or message.tool_call_id,
    }


async def _models(state: State, request: Request) -> Response:
    listed = await asyncio.to_thread(summaries, state)
    return json_reply({"object": "list", "data": [_entry(each) for each in listed]})


async def _model(state: State, request: Request) -> Response:
    id = request.path_params["id"]
    resolved = await asyncio.to_thread(state.models.names.resolve, id)
    entry = _entry({"name": id, "size": resolved.info.size})
    return json_reply(entry | {"created": int(resolved.info.modified)})


def _entry(summary: dict[str, Any]) -> dict[str, Any]:
    name = summary["name"].removesuffix(":latest")
    meta = {"size": summary["size"], **summary.get("details", {})}
    return {"id": name, "object": "model", "created": 0, "owned_by": "library", "meta": meta}


async def _embeddings(state: State, request: Request) -> Response:
    body = await read_json(request, EmbeddingRequest, state.settings.max_body)
    if body.encoding_format not in (None, "float", "base64"):
        raise StatusError(400, f"encoding_format is {body.encoding_format!r:.40}: float or base64")
    texts = prompts_of(body.input)
    lease = await state.models.lease(body.model)
    try:
        work = embed_texts(
            lease,
            texts,
            truncate=bool(body.truncate),
            dimensions=body.dimensions,
        )
        vectors, count = await unless_gone(request, work)
    finally:
        lease.release()
    packed = body.encoding_format == "base64"
    data = [
        {"object": "embedding", "index": i, "embedding": _packed(v) if packed else v}
        for i, v in enumerate(vectors)
    ]
    usage = {"prompt_tokens": count, "total_tokens": count}
    reply = {"object": "list", "data": data, "model": body.model or "codellama", "usage": usage}
    return json_reply(reply, headers=header_notes(lease.notes))


def _packed(vector: list[float]) -> str:
    return base64.b64encode(np.asarray(vector, "<f4").tobytes()).decode()
