"""llama.cpp's requests as structs; unknown fields (other samplers, mirostat, …) are ignored."""

from __future__ import annotations

from typing import Any

import msgspec

from codellama.serve.sampling import Knobs

__all__ = [
    "ApplyTemplateRequest",
    "CompletionOptions",
    "DetokenizeRequest",
    "EmbeddingOptions",
    "Extra",
    "InfillOptions",
    "SlotFile",
    "TokenizeRequest",
]


class CompletionOptions(Knobs, kw_only=True):
    model: str | None = None
    prompt: Any = None
    n_predict: int | None = None
    max_tokens: int | None = None
    n_cmpl: int | None = None
    n: int | None = None
    ignore_eos: bool | None = None
    stream: bool | None = None
    n_probs: int | None = None
    return_tokens: bool | None = None
    grammar: str | None = None
    json_schema: dict[str, Any] | None = None
    regex: str | None = None
    t_max_prompt_ms: float | None = None
    t_max_predict_ms: float | None = None
    n_indent: int | None = None
    id_slot: int | None = None
    logit_bias: Any = None
    truncate: bool | None = None


class Extra(msgspec.Struct):
    text: str | None = None
    filename: str | None = None


class InfillOptions(CompletionOptions, kw_only=True):
    input_prefix: str | None = None
    input_suffix: str | None = None
    input_extra: list[Extra] | None = None
    order: str | None = None
    """Ours: psm, spm or auto."""
    nonempty: bool | None = None
    """Ours: the answer is more than white space."""
    parses: str | None = None
    """Ours: "python" makes the whole text parse with the answer in its gap."""


class TokenizeRequest(msgspec.Struct, kw_only=True):
    content: str | None = None
    model: str | None = None
    add_special: bool | None = None
    parse_special: bool | None = None
    with_pieces: bool | None = None


class DetokenizeRequest(msgspec.Struct, kw_only=True):
    tokens: list[int] | None = None
    model: str | None = None


class ApplyTemplateRequest(msgspec.Struct, kw_only=True):
    messages: list[dict[str, Any]] | None = None
    model: str | None = None


class EmbeddingOptions(msgspec.Struct, kw_only=True):
    content: Any = None
    input: Any = None
    model: str | None = None


class SlotFile(msgspec.Struct, kw_only=True):
    filename: str | None = None
    model: str | None = None
