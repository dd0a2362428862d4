"""OpenAI's requests as structs, with the extra fields of vLLM and llama.cpp that clients send.

Everything may be null or absent; what is not here is ignored.
"""

from __future__ import annotations

from typing import Any

import msgspec

from codellama.serve.sampling import Knobs

__all__ = [
    "ChatCompletionRequest",
    "ChatMessage",
    "CompletionRequest",
    "EmbeddingRequest",
    "FimRequest",
    "Sampling",
    "StreamOptions",
]


class StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class Sampling(Knobs, kw_only=True):
    """What both kinds of completion share."""

    model: str | None = None
    max_tokens: int | None = None
    n: int | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    logit_bias: dict[str, float] | None = None
    repetition_penalty: float | None = None
    truncate: bool | None = None
    ignore_eos: bool | None = None
    grammar: str | None = None
    json_schema: dict[str, Any] | None = None
    guided_regex: str | None = None
    guided_json: dict[str, Any] | None = None
    guided_grammar: str | None = None
    response_format: dict[str, Any] | None = None
    priority: int | None = None
    user: str | None = None


class CompletionRequest(Sampling, kw_only=True):
    """`prompt` is a text, texts, token ids, or lists of them."""

    prompt: Any = None
    suffix: str | None = None
    echo: bool | None = None
    best_of: int | None = None
    logprobs: int | None = None
    infill_order: str | None = None
    """Ours: psm, spm or auto."""
    nonempty: bool | None = None
    """Ours: what fills a gap is more than white space."""
    parses: str | None = None
    """Ours: "python" keeps an infilling out of dead ends; it ends only where the text parses."""


class ChatMessage(msgspec.Struct, kw_only=True):
    """`content` is a text, or parts of which the texts are taken."""

    role: str
    content: str | list[dict[str, Any]] | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None
    name: str | None = None


class ChatCompletionRequest(Sampling, kw_only=True):
    messages: list[ChatMessage] | None = None
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None


class FimRequest(Sampling, kw_only=True):
    """Mistral's; Continue's adapter sends it."""

    prompt: str | None = None
    suffix: str | None = None


class EmbeddingRequest(msgspec.Struct, kw_only=True):
    model: str | None = None
    input: Any = None
    encoding_format: str | None = None
    dimensions: int | None = None
    truncate: bool | None = None
    user: str | None = None
