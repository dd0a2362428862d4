"""OpenAI's /v1/completions, with real infilling for `suffix`, and Mistral's /v1/fim/completions.

A request is a product: prompts × n samples, each prompt a job of its own. `best_of` makes more and
keeps the likeliest; `echo` gives the prompt back, with its log-probabilities when asked for (what
evaluation harnesses score with). Shapes as openai-python parses them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from codellama.api.answers import Prompt
from codellama.api.prompting import Order
from codellama.engine.engine import Engine
from codellama.engine.params import SamplingParams
from codellama.engine.request import TokenLogprob
from codellama.engine.sampling import token_logprob
from codellama.errors import CodeLlamaError
from codellama.serve import asking
from codellama.serve.context import State, header_notes
from codellama.serve.errors import StatusError, problem_of
from codellama.serve.formats import grammar_constraint, python_constraint, response_constraint
from codellama.serve.jobs import CHAT, INFILL, Delta
from codellama.serve.models import Lease
from codellama.serve.openai_parts import (
    OPENAI,
    completion_logprobs,
    event,
    params_of,
    prompts_of,
    samples_of,
    stamp,
    usage_of,
)
from codellama.serve.openai_types import CompletionRequest, FimRequest
from codellama.serve.replies import Streaming, json_reply, read_json, unless_gone
from codellama.serve.stream import JobStream, Sample, collect

__all__ = ["routes"]

SSE = "text/event-stream"
DEFAULT_TOKENS = 16  # OpenAI's, for completions
LONGEST_SCORED = 4096  # tokens whose logits are held at once: 800 MB for SmolLM2's vocabulary


def routes(state: State) -> list[Route]:
    return [
        OPENAI.route("/v1/completions", _completions, state=state),
        OPENAI.route("/v1/fim/completions", _fim, state=state),
    ]


@dataclass(slots=True)
class _Ask:
    """A request, read."""

    body: CompletionRequest
    prompts: list[Prompt]
    texts: list[str | list[int]]
    params: SamplingParams
    n: int
    best_of: int
    infills: bool

    def echoed(self, lease: Lease, place: int) -> str:
        text = self.texts[place]
        if isinstance(text, str):
            return text
        return lease.loaded.prompts.tokenizer.decode(text)


async def _completions(state: State, request: Request) -> Response:
    body = await read_json(request, CompletionRequest, state.settings.max_body)
    lease = await state.models.lease(body.model, num_ctx=body.num_ctx)
    try:
        ask = await _read(state, lease, body)
        if body.stream and (ask.best_of > ask.n or (body.echo and body.logprobs is not None)):
            raise StatusError(400, "best_of, and echo with logprobs, do not stream")
        scores = await _prompt_scores(lease, ask)
    except BaseException:
        lease.release()
        raise
    streams = _start(state, request, lease, ask)
    headers = header_notes(lease.notes)
    if body.stream:
        return Streaming(_events(streams, lease, ask), SSE, headers)
    reply = await unless_gone(request, _whole(streams, lease, ask, scores))
    return json_reply(reply, headers=headers)


async def _read(state: State, lease: Lease, body: CompletionRequest) -> _Ask:
    texts = prompts_of(body.prompt)
    n = samples_of(body.n)
    best_of = max(n, samples_of(body.best_of)) if body.best_of is not None else n
    infills = bool(body.suffix)
    if infills and not all(isinstance(text, str) for text in texts):
        raise StatusError(400, "a suffix needs prompts that are texts")
    order = body.infill_order or "auto"
    if order not in ("auto", "psm", "spm"):
        raise StatusError(400, f"infill_order is {order[:20]!r}: it must be auto, psm or spm")
    constraint = await grammar_constraint(
        lease.loaded,
        grammar=body.grammar or body.guided_grammar,
        json_schema=body.json_schema or body.guided_json,
        regex=body.guided_regex,
    )
    if constraint is None and body.response_format is not None:
        constraint = await response_constraint(lease.loaded, body.response_format)
    if body.parses and infills:
        if len(texts) > 1:
            raise StatusError(400, "parses takes one prompt")
        gap = str(texts[0]), body.suffix or ""
        constraint = python_constraint(lease.loaded, body.parses, *gap, constraint)
    heals = constraint is None and not body.logit_bias
    prompts = [_prompt(lease, text, body, heals) for text in texts]
    prompts = [asking.constrained(prompt, constraint) for prompt in prompts]
    if body.logprobs is not None and not 0 <= body.logprobs <= 20:
        raise StatusError(400, f"logprobs is {body.logprobs}: it must be from 0 to 20")
    wants = body.logprobs if body.logprobs is not None else 0 if best_of > n else None
    max_tokens = DEFAULT_TOKENS if body.max_tokens is None else body.max_tokens
    params = params_of(
        body,
        max_tokens=None if max_tokens < 0 else max_tokens,
        logprobs=wants,
        speculate=state.settings.speculate,
    )
    if body.truncate:
        fitted = [asking.truncated(lease, prompt, params) for prompt in prompts]
        prompts = [prompt for prompt, _cut in fitted]
        if any(cut for _prompt, cut in fitted):
            lease.notes.append(f"prompts were truncated: {[cut for _, cut in fitted]} tokens")
    return _Ask(body, prompts, texts, params, n, best_of, infills)


def _prompt(lease: Lease, text: str | list[int], body: CompletionRequest, heals: bool) -> Prompt:
    prompts = lease.loaded.prompts
    if body.suffix and isinstance(text, str):
        order: Order = body.infill_order or "auto"  # type: ignore[assignment]
        return prompts.infilling(
            text, body.suffix, order=order, heal=heals, until_suffix=heals,
            nonempty=bool(body.nonempty),
        )  # fmt: skip
    if isinstance(text, str) and not text:
        bos = prompts.tokenizer.bos_id
        return Prompt([bos if bos is not None else min(prompts.tokenizer.stop_ids)])
    return prompts.completion(text)


def _start(state: State, request: Request, lease: Lease, ask: _Ask) -> list[JobStream]:
    """One job per prompt under one lease, which the last one gives back."""
    left = len(ask.prompts)

    def release() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            lease.release()

    streams: list[JobStream] = []
    shared = replace(lease, release=release)
    try:
        for prompt in ask.prompts:
            stream = asking.start(
                shared,
                prompt,
                ask.params,
                n=ask.best_of,
                priority=INFILL if ask.infills else CHAT,
                editor=request.headers.get("x-editor-session"),
                observe=state.metrics.observe,
            )
            streams.append(stream)
    except BaseException:
        for stream in streams:
            stream.close()
        lease.release()
        raise
    return streams


async def _prompt_scores(lease: Lease, ask: _Ask) -> list[list[TokenLogprob | int]]:
    """Log-probabilities of the prompts' own tokens, for echo; empty lists otherwise."""
    if not ask.body.echo or ask.body.logprobs is None:
        return [[] for _ in ask.prompts]
    top = ask.body.logprobs
    scores = []
    for prompt in ask.prompts:
        if len(prompt.ids) > LONGEST_SCORED:
            raise StatusError(400, f"echo with logprobs takes at most {LONGEST_SCORED} tokens")
        future = lease.loaded.worker.call(
            lambda engine, ids=prompt.ids: _scored(engine, ids, top)  # type: ignore[misc]
        )
        scored = await asyncio.wrap_future(future)
        bos = lease.loaded.prompts.tokenizer.bos_id
        starts = prompt.ids[0] == bos and lease.loaded.prompts.tokenizer.add_bos
        scores.append(scored if starts else [prompt.ids[0], *scored])
    return scores


def _scored(engine: Engine, ids: list[int], top: int) -> list[TokenLogprob | int]:
    logits_TV = engine.logits(ids)
    return [token_logprob(logits_TV[i], ids[i + 1], top) for i in range(len(ids) - 1)]


async def _whole(
    streams: list[JobStream], lease: Lease, ask: _Ask, scores: list[list[TokenLogprob | int]]
) -> dict[str, Any]:
    made: list[list[Sample]] = await _gathered(streams)
    choices: list[dict[str, Any]] = []
    for place, samples in enumerate(made):
        for sample in sorted(samples, key=_badness)[: ask.n] if ask.best_of > ask.n else samples:
            choices.append(_choice(lease, ask, place, sample, scores[place], len(choices)))
    usages = [sample.finish.completion.usage for samples in made for sample in samples]
    reply = stamp("cmpl", ask.body.model, "text_completion")
    return reply | {"choices": choices, "usage": usage_of(usages, len(ask.prompts))}


async def _gathered(streams: list[JobStream]) -> list[list[Sample]]:
    try:
        return list(await asyncio.gather(*(collect(stream) for stream in streams)))
    finally:
        for stream in streams:
            stream.close()


def _badness(sample: Sample) -> float:
    logprobs = sample.finish.completion.logprobs or []
    return -sum(each.logprob for each in logprobs) / max(1, len(logprobs))


def _choice(
    lease: Lease,
    ask: _Ask,
    place: int,
    sample: Sample,
    scores: list[TokenLogprob | int],
    index: int,
) -> dict[str, Any]:
    done = sample.finish.completion
    prefix = ask.echoed(lease, place) if ask.body.echo else ""
    logprobs = None
    if ask.body.logprobs is not None:
        tokenizer = lease.loaded.prompts.tokenizer
        offset = 0 if scores else len(prefix)
        logprobs = completion_logprobs(tokenizer, [*scores, *(done.logprobs or [])], offset)
    reason = "length" if done.finish_reason == "length" else "stop"
    text = prefix + sample.text
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}


async def _events(streams: list[JobStream], lease: Lease, ask: _Ask) -> AsyncGenerator[bytes]:
    head = stamp("cmpl", ask.body.model, "text_completion")
    options = ask.body.stream_options
    include_usage = options is not None and bool(options.include_usage)
    tail: dict[str, Any] = {"usage": None} if include_usage else {}
    tokenizer = lease.loaded.prompts.tokenizer
    usages = []

    def chunk(index: int, text: str, reason: str | None = None, logprobs: Any = None) -> bytes:
        choice = {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}
        return event(head | {"choices": [choice]} | tail)

    try:
        if ask.body.echo:
            for place in range(len(streams)):
                for sample in range(ask.n):
                    yield chunk(place * ask.n + sample, ask.echoed(lease, place))
        async for place, delta in merged(streams):
            index = place * ask.n + delta.index
            logprobs = completion_logprobs(tokenizer, delta.logprobs) if delta.logprobs else None
            if delta.text:
                yield chunk(index, delta.text, logprobs=logprobs)
            if delta.finish is not None:
                done = delta.finish.completion
                usages.append(done.usage)
                yield chunk(index, "", "length" if done.finish_reason == "length" else "stop")
        if include_usage:
            yield event(head | {"choices": [], "usage": usage_of(usages, len(streams))})
    except CodeLlamaError as error:
        yield event(OPENAI.shape(problem_of(error)))
    yield b"data: [DONE]\n\n"


async def merged(streams: list[JobStream]) -> AsyncGenerator[tuple[int, Delta]]:
    """Deltas of several streams as they come. All are closed at the end, whatever it is."""
    queue: asyncio.Queue[tuple[int, Delta | CodeLlamaError | None]] = asyncio.Queue()

    async def pump(place: int, stream: JobStream) -> None:
        try:
            async with stream as deltas:
                async for delta in deltas:
                    queue.put_nowait((place, delta))
            queue.put_nowait((place, None))
        except CodeLlamaError as error:
            queue.put_nowait((place, error))

    pumps = [asyncio.ensure_future(pump(place, stream)) for place, stream in enumerate(streams)]
    try:
        left = len(pumps)
        while left:
            place, item = await queue.get()
            if isinstance(item, CodeLlamaError):
                raise item
            if item is None:
                left -= 1
            else:
                yield place, item
    finally:
        for each in pumps:
            each.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)
        for stream in streams:
            stream.close()


async def _fim(state: State, request: Request) -> Response:
    """Chat's shapes around a completion: `choices[0].delta.content`."""
    body = await read_json(request, FimRequest, state.settings.max_body)
    if body.prompt is None:
        raise StatusError(400, "prompt is required")
    params = params_of(
        body, max_tokens=body.max_tokens, logprobs=None, speculate=state.settings.speculate
    )
    lease = await state.models.lease(body.model, num_ctx=body.num_ctx)
    try:
        prompt = lease.loaded.prompts.infilling(body.prompt, body.suffix or "")
    except BaseException:
        lease.release()
        raise
    stream = asking.start(
        lease,
        prompt,
        params,
        priority=INFILL,
        editor=request.headers.get("x-editor-session"),
        observe=state.metrics.observe,
    )
    headers = header_notes(lease.notes)
    if body.stream:
        return Streaming(_fim_events(stream, body), SSE, headers)
    (sample,) = await unless_gone(request, collect(stream))
    done = sample.finish.completion
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": sample.text},
        "finish_reason": "length" if done.finish_reason == "length" else "stop",
    }
    reply = stamp("fim", body.model, "chat.completion")
    return json_reply(reply | {"choices": [choice], "usage": usage_of([done.usage])}, 200, headers)


async def _fim_events(stream: JobStream, body: FimRequest) -> AsyncGenerator[bytes]:
    head = stamp("fim", body.model, "chat.completion.chunk")
    try:
        async with stream as deltas:
            async for delta in deltas:
                made: dict[str, Any] = {"index": 0, "delta": {"content": delta.text}}
                made["finish_reason"] = None
                tail: dict[str, Any] = {}
                if delta.finish is not None:
                    done = delta.finish.completion
                    made["finish_reason"] = "length" if done.finish_reason == "length" else "stop"
                    tail = {"usage": usage_of([done.usage])}
                yield event(head | {"choices": [made]} | tail)
    except CodeLlamaError as error:
        yield event(OPENAI.shape(problem_of(error)))
    yield b"data: [DONE]\n\n"
