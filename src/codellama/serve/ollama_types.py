"""Ollama's requests as structs. Everything may be null or absent; what is not here is ignored.

Source: ollama/ollama api/types.go.
"""

from __future__ import annotations

from typing import Any

import msgspec

from codellama.serve.sampling import Options

__all__ = [
    "ChatRequest",
    "CopyRequest",
    "CreateRequest",
    "EmbedRequest",
    "EmbeddingsRequest",
    "GenerateRequest",
    "NameRequest",
    "OllamaMessage",
    "ShowRequest",
    "TransferRequest",
]

KeepAlive = str | float | None
Format = str | dict[str, Any] | None


class GenerateRequest(msgspec.Struct):
    model: str | None = None
    prompt: str | None = None
    suffix: str | None = None
    system: str | None = None
    template: str | None = None
    context: list[int] | None = None
    stream: bool | None = None
    raw: bool | None = None
    format: Format = None
    keep_alive: KeepAlive = None
    images: list[str] | None = None
    options: Options | None = None
    think: bool | str | None = None
    truncate: bool | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None


class OllamaMessage(msgspec.Struct):
    role: str
    content: str | None = None
    images: list[str] | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_name: str | None = None


class ChatRequest(msgspec.Struct):
    model: str | None = None
    messages: list[OllamaMessage] | None = None
    tools: list[dict[str, Any]] | None = None
    stream: bool | None = None
    format: Format = None
    keep_alive: KeepAlive = None
    options: Options | None = None
    think: bool | str | None = None
    truncate: bool | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None


class EmbedRequest(msgspec.Struct):
    model: str | None = None
    input: str | list[str] | None = None
    truncate: bool | None = None
    dimensions: int | None = None
    options: Options | None = None
    keep_alive: KeepAlive = None


class EmbeddingsRequest(msgspec.Struct):
    model: str | None = None
    prompt: str | None = None
    options: Options | None = None
    keep_alive: KeepAlive = None


class NameRequest(msgspec.Struct):
    """`name` is the old spelling, which Continue and ollama-js still send."""

    model: str | None = None
    name: str | None = None


class ShowRequest(NameRequest):
    system: str | None = None
    template: str | None = None
    verbose: bool | None = None


class TransferRequest(NameRequest):
    """Of pull and push."""

    insecure: bool | None = None
    stream: bool | None = None


class CopyRequest(msgspec.Struct):
    source: str | None = None
    destination: str | None = None


class CreateRequest(NameRequest):
    from_: str | None = msgspec.field(default=None, name="from")
    files: dict[str, str] | None = None
    adapters: dict[str, str] | None = None
    template: str | None = None
    license: str | list[str] | None = None
    system: str | None = None
    parameters: dict[str, Any] | None = None
    messages: list[OllamaMessage] | None = None
    quantize: str | None = None
    stream: bool | None = None
    modelfile: str | None = None
