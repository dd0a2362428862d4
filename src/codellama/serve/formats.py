"""`format`, `response_format`, `grammar`, `json_schema`, `regex` of every dialect → a constraint.

Compiling a grammar takes up to a second, so it happens in a thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from codellama.engine.constrain import Grammar, Grammars
from codellama.engine.python_gap import PythonGap
from codellama.engine.request import Constraint
from codellama.serve.errors import StatusError
from codellama.serve.models import Loaded
from codellama.serve.tools import ToolSet

__all__ = ["format_constraint", "grammar_constraint", "python_constraint", "response_constraint"]


async def format_constraint(
    loaded: Loaded, form: str | dict[str, Any] | None, tools: ToolSet | None = None
) -> Constraint | None:
    """Ollama's `format`: "", "json" or a JSON schema; else what the tools ask for."""
    if form is None or form == "":
        return await _tool_constraint(loaded, tools)
    if form == "json":
        return await _compiled(loaded, lambda grammars: grammars.json())
    if isinstance(form, dict):
        return await _compiled(loaded, lambda grammars: grammars.json_schema(form))
    raise StatusError(400, f'format is {form!r:.60}: it must be "json" or a JSON schema')


async def response_constraint(
    loaded: Loaded, form: dict[str, Any] | None, tools: ToolSet | None = None
) -> Constraint | None:
    """OpenAI's `response_format`."""
    kind = "text" if form is None else form.get("type", "text")
    if form is None or kind == "text":
        return await _tool_constraint(loaded, tools)
    if kind == "json_object":
        schema = form.get("schema")  # llama.cpp's extension
        if isinstance(schema, dict):
            return await _compiled(loaded, lambda grammars: grammars.json_schema(schema))
        return await _compiled(loaded, lambda grammars: grammars.json())
    if kind == "json_schema":
        wrapped = form.get("json_schema")
        inner = wrapped.get("schema", {}) if isinstance(wrapped, dict) else None
        if not isinstance(inner, dict):
            raise StatusError(400, "response_format.json_schema.schema must be a JSON schema")
        return await _compiled(loaded, lambda grammars: grammars.json_schema(inner))
    raise StatusError(400, f"response_format.type {kind!r:.60} is not known")


async def grammar_constraint(
    loaded: Loaded,
    *,
    grammar: str | None = None,
    json_schema: dict[str, Any] | None = None,
    regex: str | None = None,
) -> Constraint | None:
    """llama.cpp's fields and vLLM's; one of them at a time."""
    given = [each for each in (grammar, json_schema, regex) if each]
    if len(given) > 1:
        raise StatusError(400, "give one of grammar, json_schema and regex")
    if json_schema:
        return await _compiled(loaded, lambda grammars: grammars.json_schema(json_schema))
    if grammar:
        return await _compiled(loaded, lambda grammars: grammars.grammar(grammar))
    if regex:
        return await _compiled(loaded, lambda grammars: grammars.regex(regex))
    return None


def python_constraint(
    loaded: Loaded, language: str, prefix: str, suffix: str, other: Constraint | None
) -> Constraint:
    """Our field `parses`: "python" lets an answer end only where the whole text parses."""
    if language != "python":
        raise StatusError(400, f'parses is {language[:40]!r}: only "python" is known')
    if other is not None:
        raise StatusError(400, "give one of parses, grammar, json_schema and regex")
    tokenizer = loaded.prompts.tokenizer
    known = tokenizer.vocab_size
    return PythonGap(
        prefix,
        suffix,
        piece=lambda id: tokenizer.piece(id) if id < known else b"",
        vocab_size=loaded.parts.runner.vocab_size,
        stop_ids=tokenizer.stop_ids,
    )


async def _tool_constraint(loaded: Loaded, tools: ToolSet | None) -> Constraint | None:
    if tools is None:
        return None
    text = tools.grammar()
    return await _compiled(loaded, lambda grammars: grammars.grammar(text))


async def _compiled(loaded: Loaded, compile: Callable[[Grammars], Grammar]) -> Grammar:
    return await asyncio.to_thread(compile, loaded.grammars)
