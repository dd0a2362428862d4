"""Ollama's API, the routes that generate: /api/generate, /api/chat, /api/embed, /api/embeddings.

NDJSON streams by default, timings in nanoseconds, errors as {"error": text}; after a stream has
begun an error is one more line. Routes about models are in ollama_models.py. Source of shapes:
ollama/ollama api/types.go, server/routes.go.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from codellama.api.answers import Prompt
from codellama.engine.params import SamplingParams
from codellama.engine.request import TokenLogprob
from codellama.errors import CodeLlamaError
from codellama.serve import asking
from codellama.serve.clock import created_at
from codellama.serve.context import Dialect, State, header_notes
from codellama.serve.embedding import embed_texts
from codellama.serve.errors import Problem, StatusError, problem_of
from codellama.serve.formats import format_constraint
from codellama.serve.jobs import CHAT, INFILL, Finish
from codellama.serve.models import Lease
from codellama.serve.ollama_types import (
    ChatRequest,
    EmbeddingsRequest,
    EmbedRequest,
    GenerateRequest,
    OllamaMessage,
)
from codellama.serve.prompting import Conversation, chat_prompt, generate_prompt
from codellama.serve.replies import Streaming, json_reply, read_json, unless_gone
from codellama.serve.sampling import Options, merged_options, ollama_params
from codellama.serve.settings import duration
from codellama.serve.stream import JobStream
from codellama.serve.tools import ToolSet, tools_of

__all__ = ["OLLAMA", "routes"]

NDJSON = "application/x-ndjson"


def _shape(problem: Problem) -> dict[str, Any]:
    body: dict[str, Any] = {"error": problem.message}
    if problem.counts:
        body["n_prompt_tokens"], body["n_ctx"] = problem.counts
    return body


OLLAMA = Dialect("ollama", _shape)


def routes(state: State) -> list[Route]:
    return [
        OLLAMA.route("/api/generate", _generate, state=state),
        OLLAMA.route("/api/chat", _chat, state=state),
        OLLAMA.route("/api/embed", _embed, state=state),
        OLLAMA.route("/api/embeddings", _embeddings, state=state),
    ]


async def _generate(state: State, request: Request) -> Response:
    body = await read_json(request, GenerateRequest, state.settings.max_body)
    lease = await take(state, body.model, body.options, body.keep_alive)
    try:
        if not body.prompt and not body.suffix:
            return await _load_only(state, lease, body.keep_alive, {"response": ""})
        _refuse_unsupported(lease, body.images, body.think)
        if body.raw and (body.template or body.system or body.context):
            raise StatusError(400, "raw mode does not support template, system, or context")
        infills = bool(body.suffix)
        if infills and not lease.loaded.prompts.infills:
            raise StatusError(400, f"{lease.resolved.name} does not support insert")
        constraint = await format_constraint(lease.loaded, body.format)
        prompt = generate_prompt(lease.loaded, body, heal=constraint is None)
        params = _params(state, lease, body, infills)
        prompt = asking.constrained(prompt, constraint)
        prompt, cut = _fitted(lease, prompt, params, body.truncate)
    except BaseException:
        lease.release()
        raise
    stream = asking.start(
        lease,
        prompt,
        params,
        priority=INFILL if infills else CHAT,
        editor=request.headers.get("x-editor-session"),
        observe=state.metrics.observe,
    )

    def last(finish: Finish) -> dict[str, Any]:
        tail: dict[str, Any] = {}
        if not body.raw:
            tail["context"] = [*prompt.ids, *finish.completion.tokens]
        return tail | ({"prompt_truncated": cut} if cut else {})

    shape = _Shape(lease, body.model, lambda text: {"response": text}, last)
    return await _answer(request, stream, shape, streams=body.stream is not False)


async def _chat(state: State, request: Request) -> Response:
    body = await read_json(request, ChatRequest, state.settings.max_body)
    lease = await take(state, body.model, body.options, body.keep_alive)
    try:
        if not body.messages:
            empty = {"message": {"role": "assistant", "content": ""}}
            return await _load_only(state, lease, body.keep_alive, empty)
        _refuse_unsupported(lease, [i for m in body.messages for i in m.images or []], body.think)
        tools = tools_of(body.tools, "auto")
        conversation = Conversation([_message(m) for m in body.messages], tools)
        prompt = chat_prompt(lease.loaded, conversation)
        params = _params(state, lease, body, infills=False)
        constraint = await format_constraint(lease.loaded, body.format, tools)
        prompt = asking.constrained(prompt, constraint)
        prompt, cut = _fitted(lease, prompt, params, body.truncate)
    except BaseException:
        lease.release()
        raise
    stream = asking.start(lease, prompt, params, observe=state.metrics.observe)
    shape = _Shape(
        lease,
        body.model,
        lambda text: {"message": {"role": "assistant", "content": text}},
        lambda finish: {"prompt_truncated": cut} if cut else {},
        tools,
    )
    return await _answer(request, stream, shape, streams=body.stream is not False)


async def _embed(state: State, request: Request) -> Response:
    body = await read_json(request, EmbedRequest, state.settings.max_body)
    texts = [body.input] if isinstance(body.input, str) else body.input or []
    begin = time.perf_counter()
    lease = await take(state, body.model, body.options, body.keep_alive)
    try:
        work = embed_texts(lease, texts, truncate=bool(body.truncate), dimensions=body.dimensions)
        vectors, count = await unless_gone(request, work)
    finally:
        lease.release()
    reply = {
        "model": body.model or lease.resolved.name,
        "embeddings": vectors,
        "total_duration": _ns(time.perf_counter() - begin),
        "load_duration": _ns(lease.load_s),
        "prompt_eval_count": count,
    }
    return json_reply(reply, headers=header_notes(lease.notes))


async def _embeddings(state: State, request: Request) -> Response:
    body = await read_json(request, EmbeddingsRequest, state.settings.max_body)
    lease = await take(state, body.model, body.options, body.keep_alive)
    try:
        work = embed_texts(lease, [body.prompt] if body.prompt else [])
        vectors, _count = await unless_gone(request, work)
    finally:
        lease.release()
    return json_reply(
        {"embedding": vectors[0] if vectors else []}, headers=header_notes(lease.notes)
    )


# Parts.


async def take(
    state: State, model: str | None, options: Options | None, keep_alive: str | float | None
) -> Lease:
    """A lease by Ollama's fields. A name is required, as there."""
    if not model:
        raise StatusError(400, "model is required")
    keep = None if keep_alive is None else duration(keep_alive)
    num_ctx = options.num_ctx if options is not None else None
    return await state.models.lease(model, num_ctx=num_ctx, keep_alive=keep)


async def _load_only(
    state: State, lease: Lease, keep_alive: str | float | None, fields: dict[str, Any]
) -> Response:
    unloads = keep_alive is not None and duration(keep_alive) == 0.0
    lease.release()
    if unloads:
        await state.models.unload(lease.loaded)
    reply = {
        "model": lease.resolved.name,
        "created_at": created_at(),
        **fields,
        "done": True,
        "done_reason": "unload" if unloads else "load",
    }
    if lease.load_s and not unloads:
        reply["load_duration"] = reply["total_duration"] = _ns(lease.load_s)
    return json_reply(reply, headers=header_notes(lease.notes))


def _refuse_unsupported(lease: Lease, images: list[str] | None, think: bool | str | None) -> None:
    if images:
        raise StatusError(400, f"{lease.resolved.name} does not support images")
    if think:
        raise StatusError(400, f'"{lease.resolved.name}" does not support thinking')


def _params(
    state: State, lease: Lease, body: GenerateRequest | ChatRequest, infills: bool
) -> SamplingParams:
    options = merged_options(lease.loaded.defaults.parameters, body.options)
    top = min(20, max(0, body.top_logprobs or 0))
    return ollama_params(
        options, logprobs=top if body.logprobs else None, speculate=state.settings.speculate
    )


def _fitted(
    lease: Lease, prompt: Prompt, params: SamplingParams, truncate: bool | None
) -> tuple[Prompt, int]:
    if not truncate:
        return prompt, 0
    prompt, cut = asking.truncated(lease, prompt, params)
    if cut:
        lease.notes.append(f"the prompt was truncated: {cut} tokens were cut")
    return prompt, cut


def _message(message: OllamaMessage) -> dict[str, Any]:
    return {
        "role": message.role,
        "content": message.content or "",
        "tool_calls": message.tool_calls,
        "tool_name": message.tool_name,
    }


class _Shape:
    """Deltas as Ollama's lines.

    Args:
        fields: the fields that carry a text. last: further ones of the last line.
    """

    def __init__(
        self,
        lease: Lease,
        model: str | None,
        fields: Callable[[str], dict[str, Any]],
        last: Callable[[Finish], dict[str, Any]],
        tools: ToolSet | None = None,
    ) -> None:
        self._lease = lease
        self._model = model or lease.resolved.name
        self._fields = fields
        self._last = last
        self._begin = time.perf_counter()
        self.notes = lease.notes
        self.tools = tools

    def line(self, text: str, logprobs: tuple[TokenLogprob, ...] = ()) -> dict[str, Any]:
        line: dict[str, Any] = {"model": self._model, "created_at": created_at()}
        line |= self._fields(text)
        if logprobs:
            line["logprobs"] = [self._logprob(each) for each in logprobs]
        return line | {"done": False}

    def end(self, finish: Finish, text: str = "") -> dict[str, Any]:
        usage, timings = finish.completion.usage, finish.timings
        reason = finish.completion.finish_reason
        line = {"model": self._model, "created_at": created_at()} | self._fields(text)
        line |= {"done": True, "done_reason": "length" if reason == "length" else "stop"}
        line |= self._last(finish)
        times = {
            "total_duration": _ns(timings.ended - self._begin + self._lease.load_s),
            "load_duration": _ns(self._lease.load_s),
            "prompt_eval_count": usage.prompt_tokens,
            "prompt_eval_duration": _ns(timings.prompt_s),
            "eval_count": usage.completion_tokens,
            "eval_duration": _ns(timings.predict_s),
        }
        return line | {name: value for name, value in times.items() if value}

    def called(self, line: dict[str, Any], text: str) -> dict[str, Any]:
        """The line with the text's tool calls in place of the text, if it is made of such."""
        calls = self.tools.parse(text) if self.tools else None
        if calls:
            shown = [
                {"function": {"index": i, "name": call.name, "arguments": call.arguments}}
                for i, call in enumerate(calls)
            ]
            line["message"] = {"role": "assistant", "content": "", "tool_calls": shown}
        return line

    def _logprob(self, each: TokenLogprob) -> dict[str, Any]:
        piece = self._piece
        top = [piece(token) | {"logprob": value} for token, value in each.top]
        shown = piece(each.token) | {"logprob": each.logprob}
        return shown | ({"top_logprobs": top} if top else {})

    def _piece(self, token: int) -> dict[str, Any]:
        tokenizer = self._lease.loaded.prompts.tokenizer
        raw = tokenizer.piece(token) if token < tokenizer.vocab_size else b""
        return {"token": raw.decode("utf-8", "replace"), "bytes": list(raw)}


async def _answer(request: Request, stream: JobStream, shape: _Shape, *, streams: bool) -> Response:
    headers = header_notes(shape.notes)
    if streams:
        return Streaming(_lines(stream, shape), NDJSON, headers)
    return json_reply(await unless_gone(request, _whole(stream, shape)), headers=headers)


async def _lines(stream: JobStream, shape: _Shape) -> AsyncGenerator[bytes]:
    held = ""  # what may be a tool call is shown when it is known not to be one
    try:
        async with stream as deltas:
            async for delta in deltas:
                text = delta.text
                if shape.tools is not None:
                    held += text
                    holds = shape.tools.may_be_call(held)
                    text, held = ("", held) if holds else (held, "")
                if text:
                    yield _line(shape.line(text, delta.logprobs))
                if delta.finish is not None:
                    if held:
                        yield _line(shape.called(shape.line(held), held))
                    yield _line(shape.end(delta.finish))
    except CodeLlamaError as error:
        yield _line({"error": problem_of(error).message})


async def _whole(stream: JobStream, shape: _Shape) -> dict[str, Any]:
    texts: list[str] = []
    logprobs: list[TokenLogprob] = []
    end: dict[str, Any] = {}
    async with stream as deltas:
        async for delta in deltas:
            texts.append(delta.text)
            logprobs += delta.logprobs
            if delta.finish is not None:
                text = "".join(texts)
                end = shape.called(shape.end(delta.finish, text), text)
    if logprobs:
        end["logprobs"] = shape.line("", tuple(logprobs))["logprobs"]
    return end


def _line(value: dict[str, Any]) -> bytes:
    return msgspec.json.encode(value) + b"\n"


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)
