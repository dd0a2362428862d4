"""llama.cpp's API, the routes that generate: /completion and /infill.

/infill is what llama.vscode, llama.vim and llama.qtcreator send: extra chunks of other files,
several completions at once, time limits, cache warming with n_predict 0. Where upstream and Meta's
reference differ (BOS first, the order of extras) the reference wins. Source: ggml-org/llama.cpp
tools/server/README.md.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from codellama.api.answers import Prompt
from codellama.api.prompting import Order
from codellama.engine.params import SamplingParams
from codellama.engine.request import Constraint, TokenLogprob
from codellama.errors import CodeLlamaError
from codellama.model.templates import encode_marked
from codellama.model.tokenizer import Tokenizer
from codellama.serve import asking
from codellama.serve.context import Dialect, State, header_notes
from codellama.serve.errors import Problem, StatusError, problem_of
from codellama.serve.formats import grammar_constraint, python_constraint
from codellama.serve.jobs import CHAT, INFILL, WARM, Budget, Delta, Finish
from codellama.serve.llamacpp_types import CompletionOptions, InfillOptions
from codellama.serve.models import Lease, Loaded
from codellama.serve.replies import Streaming, json_reply, read_json, unless_gone
from codellama.serve.sampling import llamacpp_bias, sampling_params
from codellama.serve.stream import JobStream, collect

__all__ = ["LLAMACPP", "routes"]

SNIPPET = "\n\n--- snippet ---\n\n"
MOST_COMPLETIONS = 64


def _shape(problem: Problem) -> dict[str, Any]:
    error: dict[str, Any] = {
        "code": problem.status,
        "message": problem.message,
        "type": problem.kind,
    }
    if problem.counts:
        error["n_prompt_tokens"], error["n_ctx"] = problem.counts
    return {"error": error}


LLAMACPP = Dialect("llama.cpp", _shape)


def routes(state: State) -> list[Route]:
    return [
        LLAMACPP.route("/completion", _completion, state=state),
        LLAMACPP.route("/completions", _completion, state=state),
        LLAMACPP.route("/infill", _infill, state=state),
    ]


async def _completion(state: State, request: Request) -> Response:
    body = await read_json(request, CompletionOptions, state.settings.max_body)
    if body.prompt is None:
        raise StatusError(400, '"prompt" is required')
    lease = await state.models.lease(body.model, num_ctx=body.num_ctx)
    try:
        prompt = _prompt(lease.loaded, body.prompt)
        prompt = asking.constrained(prompt, await _constraint(lease, body))
    except BaseException:
        lease.release()
        raise
    return await _answer(state, request, lease, body, prompt, priority=CHAT)


async def _infill(state: State, request: Request) -> Response:
    body = await read_json(request, InfillOptions, state.settings.max_body)
    for name in ("input_prefix", "input_suffix"):
        if getattr(body, name) is None:
            raise StatusError(400, f'"{name}" is required')
    if body.prompt is not None and not isinstance(body.prompt, str):
        raise StatusError(400, '"prompt" must be a text')
    lease = await state.models.lease(body.model, num_ctx=body.num_ctx)
    try:
        if not lease.loaded.prompts.infills:
            raise StatusError(
                501,
                "Infill is not supported by this model: prefix token is missing. "
                "suffix token is missing. middle token is missing. ",
                "not_supported_error",
            )
        constraint = await _constraint(lease, body)
        if body.parses:
            parts = (body.input_prefix or "") + (body.prompt or ""), body.input_suffix or ""
            constraint = python_constraint(lease.loaded, body.parses, *parts, constraint)
        heals = constraint is None and not body.logit_bias
        prompt, cut = _gap(lease, body, heals=heals)
        prompt = asking.constrained(prompt, constraint)
    except BaseException:
        lease.release()
        raise
    warms = body.n_predict == 0
    editor = request.headers.get("x-editor-session")
    if editor is None and body.id_slot is not None and body.id_slot >= 0 and not warms:
        host = request.client.host if request.client else ""
        editor = f"slot {body.id_slot} of {host}"
    return await _answer(
        state,
        request,
        lease,
        body,
        prompt,
        priority=WARM if warms else INFILL,
        editor=editor,
        truncated=bool(cut),
    )


def _prompt(loaded: Loaded, prompt: Any) -> Prompt:
    """A text, ids, or both mixed. Control tokens written out in a text are such, as upstream: what
    /apply-template gives can be sent back.
    """
    parts = prompt if isinstance(prompt, list) else [prompt]
    if isinstance(prompt, str):
        made = loaded.prompts.completion(prompt)
        tokenizer = loaded.prompts.tokenizer
        if tokenizer.kind != "gpt2" or not tokenizer.special_pattern().search(prompt):
            return made
        return Prompt(encode_marked(tokenizer, prompt, []))
    ids: list[int] = []
    for part in parts:
        if isinstance(part, str):
            ids += loaded.prompts.tokenizer.encode(part, bos=not ids)
        elif isinstance(part, int) and not isinstance(part, bool):
            ids.append(part)
        else:
            raise StatusError(400, '"prompt" must be a text, or a list of token ids and texts')
    return Prompt(ids)


def _gap(lease: Lease, body: InfillOptions, *, heals: bool) -> tuple[Prompt, int]:
    """The gap's prompt, with as many of the extra chunks as fit, newest last; how many did not."""
    prompts = lease.loaded.prompts
    prefix = (body.input_prefix or "") + (body.prompt or "")
    suffix = body.input_suffix or ""
    order = body.order or "auto"
    if order not in ("auto", "psm", "spm"):
        raise StatusError(400, f"order is {order[:20]!r}: it must be auto, psm or spm")

    def fill(before: str) -> Prompt:
        wish: Order = order  # type: ignore[assignment]
        return prompts.infilling(
            before, suffix, order=wish, heal=heals, until_suffix=heals, nonempty=bool(body.nonempty)
        )

    made = fill(prefix)
    chunks = [SNIPPET + extra.text for extra in body.input_extra or [] if extra.text]
    if not chunks:
        return made, 0
    room = lease.context - len(made.ids) - max(body.n_predict or 256, 64)
    kept: list[str] = []
    for chunk in reversed(chunks):
        room -= len(prompts.tokenizer.encode(chunk))
        if room < 0:
            break
        kept.insert(0, chunk)
    if not kept:
        return made, len(chunks)
    return fill("".join(kept) + SNIPPET + prefix), len(chunks) - len(kept)


async def _constraint(lease: Lease, body: CompletionOptions) -> Constraint | None:
    return await grammar_constraint(
        lease.loaded, grammar=body.grammar, json_schema=body.json_schema, regex=body.regex
    )


def _params(state: State, lease: Lease, body: CompletionOptions) -> SamplingParams:
    """llama.cpp's defaults; its negative temperature and top_k are none."""
    predict = body.max_tokens if body.n_predict is None else body.n_predict
    if body.temperature is not None:
        body.temperature = max(0.0, body.temperature)
    if body.top_k is not None:
        body.top_k = max(0, body.top_k)
    return sampling_params(
        body,
        temperature=0.8,
        top_k=40,
        top_p=0.95,
        min_p=0.05,
        max_tokens=None if predict is None or predict < 0 else predict,
        ignore_eos=bool(body.ignore_eos),
        logprobs=min(100, body.n_probs) if body.n_probs else None,
        speculate=state.settings.speculate,
        logit_bias=llamacpp_bias(body.logit_bias, lease.loaded.prompts.tokenizer.encode),
    )


async def _answer(
    state: State,
    request: Request,
    lease: Lease,
    body: CompletionOptions,
    prompt: Prompt,
    *,
    priority: int,
    editor: str | None = None,
    truncated: bool = False,
) -> Response:
    try:
        params = _params(state, lease, body)
        n = body.n_cmpl if body.n_cmpl is not None else body.n or 1
        if not 1 <= n <= MOST_COMPLETIONS:
            raise StatusError(400, f"n_cmpl is {n}: it must be from 1 to {MOST_COMPLETIONS}")
        if body.truncate:
            prompt, cut = asking.truncated(lease, prompt, params)
            truncated = truncated or bool(cut)
    except BaseException:
        lease.release()
        raise
    stream = asking.start(
        lease,
        prompt,
        params,
        n=n,
        priority=priority,
        budget=Budget(_seconds(body.t_max_prompt_ms), _seconds(body.t_max_predict_ms)),
        editor=editor,
        indent=max(0, body.n_indent or 0),
        observe=state.metrics.observe,
    )
    shape = _Shape(lease, body, params, truncated)
    headers = header_notes(lease.notes)
    if body.stream:
        return Streaming(_events(stream, shape), "text/event-stream", headers)
    samples = await unless_gone(request, collect(stream))
    replies = [shape.end(i, sample.text, sample.finish) for i, sample in enumerate(samples)]
    # As upstream: one object for one completion, an array for several.
    return json_reply(replies if n > 1 else replies[0], headers=headers)


async def _events(stream: JobStream, shape: _Shape) -> AsyncGenerator[bytes]:
    try:
        async with stream as deltas:
            async for delta in deltas:
                if delta.text:
                    yield _event(shape.part(delta))
                if delta.finish is not None:
                    yield _event(shape.end(delta.index, "", delta.finish))
    except CodeLlamaError as error:
        yield _event(LLAMACPP.shape(problem_of(error)))


class _Shape:
    """Deltas as llama.cpp's objects."""

    def __init__(
        self, lease: Lease, body: CompletionOptions, params: SamplingParams, truncated: bool
    ) -> None:
        self._lease = lease
        self._body = body
        self._params = params
        self._truncated = truncated

    def part(self, delta: Delta) -> dict[str, Any]:
        made: dict[str, Any] = {
            "index": delta.index,
            "content": delta.text,
            "tokens": list(delta.tokens),
            "stop": False,
            "id_slot": self._body.id_slot or 0,
        }
        if delta.logprobs:
            made["completion_probabilities"] = [self._probability(p) for p in delta.logprobs]
        return made

    def end(self, index: int, text: str, finish: Finish) -> dict[str, Any]:
        done, usage = finish.completion, finish.completion.usage
        made: dict[str, Any] = {
            "index": index,
            "content": text,
            "tokens": done.tokens if self._body.return_tokens else [],
            "id_slot": self._body.id_slot or 0,
            "stop": True,
            "model": self._lease.resolved.info.name,
            "tokens_predicted": usage.completion_tokens,
            "tokens_evaluated": usage.prompt_tokens,
            "generation_settings": self._settings(done.seed),
            "has_new_line": "\n" in done.text,
            "truncated": self._truncated,
            "stop_type": _stop_type(finish),
            "stopping_word": finish.stop_text,
            "tokens_cached": usage.cached_tokens,
            "timings": _timings(finish),
        }
        if done.logprobs and text:
            made["completion_probabilities"] = [self._probability(p) for p in done.logprobs]
        return made

    def _settings(self, seed: int) -> dict[str, Any]:
        params = self._params
        return {
            "n_ctx": self._lease.context,
            "n_predict": -1 if params.max_tokens is None else params.max_tokens,
            "temperature": params.temperature,
            "top_k": params.top_k,
            "top_p": params.top_p,
            "min_p": params.min_p,
            "repeat_penalty": params.repetition_penalty,
            "dry_multiplier": params.dry_multiplier,
            "dry_base": params.dry_base,
            "dry_allowed_length": params.dry_allowed_length,
            "dry_penalty_last_n": params.dry_penalty_last_n,
            "dry_sequence_breakers": list(params.dry_sequence_breakers),
            "seed": seed,
            "stop": list(params.stop),
        }

    def _probability(self, each: TokenLogprob) -> dict[str, Any]:
        tokenizer = self._lease.loaded.prompts.tokenizer
        top = [_token(tokenizer, token, value) for token, value in each.top]
        return _token(tokenizer, each.token, each.logprob) | {"top_logprobs": top}


def _token(tokenizer: Tokenizer, token: int, logprob: float) -> dict[str, Any]:
    raw = tokenizer.piece(token) if token < tokenizer.vocab_size else b""
    text = raw.decode("utf-8", "replace")
    return {"id": token, "token": text, "bytes": list(raw), "logprob": logprob}


def _stop_type(finish: Finish) -> str:
    if finish.limit or finish.completion.finish_reason == "length":
        return "limit"
    if finish.stop_text:
        return "word"
    return "eos" if finish.completion.finish_reason == "stop" else "none"


def _timings(finish: Finish) -> dict[str, Any]:
    usage, timings = finish.completion.usage, finish.timings
    prompt_n = usage.prompt_tokens - usage.cached_tokens
    predicted_n = usage.completion_tokens
    made: dict[str, Any] = {"cache_n": usage.cached_tokens}
    for name, n, seconds in (
        ("prompt", prompt_n, timings.prompt_s),
        ("predicted", predicted_n, timings.predict_s),
    ):
        made[f"{name}_n"] = n
        made[f"{name}_ms"] = seconds * 1e3
        made[f"{name}_per_token_ms"] = seconds * 1e3 / n if n else 0.0
        made[f"{name}_per_second"] = n / seconds if seconds else 0.0
    if finish.drafted:
        made |= {"draft_n": finish.drafted, "draft_n_accepted": finish.accepted}
    return made


def _seconds(milliseconds: float | None) -> float | None:
    if milliseconds is None or milliseconds <= 0:
        return None
    return milliseconds / 1e3


def _event(value: dict[str, Any]) -> bytes:
    return b"data: " + msgspec.json.encode(value) + b"\n\n"
