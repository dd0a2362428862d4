"""What OpenAI's routes share: parameters, prompts of every shape, log-probabilities, usage, events.

Source: platform.openai.com API reference; the shapes are what openai-python's types parse.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import msgspec

from codellama.api.answers import Usage
from codellama.engine.params import SamplingParams
from codellama.engine.request import TokenLogprob
from codellama.model.tokenizer import Tokenizer
from codellama.serve.context import Dialect
from codellama.serve.errors import Problem, StatusError
from codellama.serve.openai_types import Sampling
from codellama.serve.sampling import openai_bias, sampling_params

__all__ = [
    "OPENAI",
    "chat_logprobs",
    "completion_logprobs",
    "event",
    "params_of",
    "prompts_of",
    "samples_of",
    "stamp",
    "usage_of",
]

MOST_PROMPTS = 256
MOST_N = 128


def _shape(problem: Problem) -> dict[str, Any]:
    error: dict[str, Any] = {
        "message": problem.message,
        "type": problem.kind,
        "param": None,
        "code": problem.code,
    }
    if problem.counts:
        error["n_prompt_tokens"], error["n_ctx"] = problem.counts
    return {"error": error}


OPENAI = Dialect("openai", _shape, busy=429)


def stamp(prefix: str, model: str | None, kind: str) -> dict[str, Any]:
    """The head of a reply."""
    return {
        "id": f"{prefix}-{secrets.token_hex(12)}",
        "object": kind,
        "created": int(time.time()),
        "model": model or "codellama",
        "system_fingerprint": "fp_codellama",
    }


def params_of(
    body: Sampling, *, max_tokens: int | None, logprobs: int | None, speculate: bool
) -> SamplingParams:
    """OpenAI's defaults: temperature 1, top_p 1. Raises RequestError for values out of range."""
    if body.repeat_penalty is None:
        body.repeat_penalty = body.repetition_penalty
    params = sampling_params(
        body,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        max_tokens=max_tokens,
        ignore_eos=bool(body.ignore_eos),
        logprobs=logprobs,
        speculate=speculate,
        logit_bias=openai_bias(body.logit_bias),
    )
    return replace(params, seed=body.seed)  # here a negative one is a seed, too


def samples_of(n: int | None) -> int:
    count = 1 if n is None else n
    if not 1 <= count <= MOST_N:
        raise StatusError(400, f"n is {count}: it must be from 1 to {MOST_N}")
    return count


def prompts_of(prompt: Any) -> list[str | list[int]]:
    """A text, texts, ids, or lists of ids, as a list of prompts. Raises StatusError 400."""
    if prompt is None:
        raise StatusError(400, "prompt is required")
    if isinstance(prompt, str) or _is_ids(prompt):
        return [prompt]
    several = isinstance(prompt, list) and 0 < len(prompt) <= MOST_PROMPTS
    if several and all(isinstance(each, str) or _is_ids(each) for each in prompt):
        return list(prompt)
    raise StatusError(
        400, f"prompt must be a text, token ids, or a list of at most {MOST_PROMPTS} of these"
    )


def _is_ids(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(each, int) and not isinstance(each, bool) for each in value)
    )


def usage_of(usages: Sequence[Usage], prompts: int = 1) -> dict[str, Any]:
    """Sums over samples; a prompt shared by several counts once."""
    per_prompt = max(1, len(usages) // max(1, prompts))
    prompt_tokens = sum(usage.prompt_tokens for usage in usages[::per_prompt])
    completion_tokens = sum(usage.completion_tokens for usage in usages)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": {
            "cached_tokens": sum(usage.cached_tokens for usage in usages[::per_prompt])
        },
    }


def event(value: dict[str, Any]) -> bytes:
    """One server-sent event."""
    return b"data: " + msgspec.json.encode(value) + b"\n\n"


def chat_logprobs(tokenizer: Tokenizer, logprobs: Sequence[TokenLogprob]) -> dict[str, Any]:
    def one(token: int, logprob: float) -> dict[str, Any]:
        raw = _bytes(tokenizer, token)
        return {
            "token": raw.decode("utf-8", "replace"),
            "logprob": max(logprob, -9999.0),
            "bytes": list(raw),
        }

    content = [
        one(each.token, each.logprob) | {"top_logprobs": [one(*pair) for pair in each.top]}
        for each in logprobs
    ]
    return {"content": content, "refusal": None}


def completion_logprobs(
    tokenizer: Tokenizer, logprobs: Sequence[TokenLogprob | int], offset: int = 0
) -> dict[str, Any]:
    """The old shape: parallel lists. A bare id is a token without a probability (the first of an
    echoed prompt).
    """
    texts: list[str] = []
    values: list[float | None] = []
    tops: list[dict[str, float] | None] = []
    offsets: list[int] = []
    for each in logprobs:
        token = each if isinstance(each, int) else each.token
        text = _bytes(tokenizer, token).decode("utf-8", "replace")
        texts.append(text)
        offsets.append(offset)
        offset += len(text)
        if isinstance(each, int):
            values.append(None)
            tops.append(None)
        else:
            values.append(each.logprob)
            pairs = [(_bytes(tokenizer, t).decode("utf-8", "replace"), p) for t, p in each.top]
            tops.append(dict(reversed(pairs)))
    return {"tokens": texts, "token_logprobs": values, "top_logprobs": tops, "text_offset": offsets}


def _bytes(tokenizer: Tokenizer, token: int) -> bytes:
    return tokenizer.piece(token) if token < tokenizer.vocab_size else b""
