"""Messages and Ollama's prompts → Prompts: Modelfile templates, system prompts, tools.

A model's own Modelfile template comes first, then its chat format; a model with neither continues
text. Knows no HTTP.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from codellama.api.answers import Prompt
from codellama.model.gotemplate import render_ids
from codellama.serve.errors import StatusError
from codellama.serve.models import Loaded
from codellama.serve.ollama_types import GenerateRequest
from codellama.serve.tools import ToolSet

__all__ = ["Conversation", "chat_prompt", "generate_prompt"]

Message = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Conversation:
    """Messages as a dialect has them: role and content, and perhaps tool_calls and tool_name."""

    messages: list[Message]
    tools: ToolSet | None = None

    def plain(self, system: str = "") -> list[dict[str, str]]:
        """Roles and texts alone: calls and results written out, the tools told in the system
        message.
        """
        plain = [_plain(message) for message in self.messages]
        if plain and plain[0]["role"] == "system":
            system = plain.pop(0)["content"]
        told = "\n\n".join(t for t in (system, self.tools and self.tools.instructions()) if t)
        return [{"role": "system", "content": told}, *plain] if told else plain


def chat_prompt(loaded: Loaded, conversation: Conversation) -> Prompt:
    """Raises RequestError where the model has no chat format or a role is out of order."""
    defaults = loaded.defaults
    given = conversation.messages
    if defaults.messages and all(m["role"] in ("user", "system") for m in given):
        given = [*given[:0], *defaults.messages, *given]
        conversation = Conversation(given, conversation.tools)
    messages = conversation.plain(defaults.system)
    if defaults.template is not None and ".Messages" in defaults.template:
        ids = render_ids(loaded.prompts.tokenizer, defaults.template, {"Messages": messages})
        return Prompt(ids, trim=loaded.prompts.tokenizer.kind == "llama")
    if loaded.prompts.chats or loaded.prompts.tokenizer.token_id("<|im_start|>") is not None:
        return loaded.prompts.chat(messages)
    if defaults.template is not None:
        return _turns(loaded, defaults.template, messages)
    # A base model: the conversation is a text to be continued.
    return loaded.prompts.completion("\n\n".join(m["content"] for m in messages))


def generate_prompt(loaded: Loaded, body: GenerateRequest, *, heal: bool = True) -> Prompt:
    """What /api/generate asks to be continued."""
    prompts, text = loaded.prompts, body.prompt or ""
    if body.suffix:
        nonempty = bool(body.options and body.options.nonempty)
        return prompts.infilling(text, body.suffix, heal=heal, until_suffix=heal, nonempty=nonempty)
    if body.raw:
        return prompts.completion(text)
    template = body.template or loaded.defaults.template
    system = loaded.defaults.system if body.system is None else body.system
    if template is not None:
        messages = [{"role": "user", "content": text}]
        if system:
            messages.insert(0, {"role": "system", "content": system})
        data = {"Prompt": text, "System": system, "Suffix": "", "Messages": messages}
        made = Prompt(
            render_ids(prompts.tokenizer, template, data), trim=prompts.tokenizer.kind == "llama"
        )
    elif prompts.chats:
        messages = [{"role": "user", "content": text}]
        if system:
            messages.insert(0, {"role": "system", "content": system})
        made = prompts.chat(messages)
    else:
        made = prompts.completion(f"{system}\n\n{text}" if system else text)
    if not body.context:
        return made
    vocab_size = loaded.parts.runner.vocab_size
    if any(not 0 <= id < vocab_size for id in body.context):
        raise StatusError(400, "context holds ids outside the vocabulary")
    return replace(made, ids=[*body.context, *made.ids])


def _turns(loaded: Loaded, template: str, messages: list[dict[str, str]]) -> Prompt:
    """An old template knows one turn: earlier ones are rendered one after another."""
    tokenizer = loaded.prompts.tokenizer
    ids: list[int] = []
    system = ""
    pending: str | None = None
    for message in messages:
        if message["role"] == "system":
            system = message["content"]
        elif message["role"] == "assistant" and pending is not None:
            data = {"Prompt": pending, "System": system, "Response": message["content"]}
            ids += render_ids(tokenizer, template, data)
            pending, system = None, ""
        else:
            pending = message["content"] if pending is None else f"{pending}\n{message['content']}"
    ids += render_ids(tokenizer, template, {"Prompt": pending or "", "System": system})
    return Prompt(ids, trim=tokenizer.kind == "llama")


def _plain(message: Mapping[str, Any]) -> dict[str, str]:
    role, content = str(message["role"]), message.get("content") or ""
    calls = message.get("tool_calls")
    if role == "assistant" and calls:
        written = json.dumps([_written(call) for call in calls])
        content = "\n".join(part for part in (content, written) if part)
    if role in ("tool", "function"):
        name = message.get("tool_name") or message.get("name") or "the function"
        return {"role": "user", "content": f"Result of {name}:\n{content}"}
    if role == "developer":
        role = "system"
    if role not in ("system", "user", "assistant"):
        raise StatusError(400, f"role {role[:40]!r} is not known")
    return {"role": role, "content": content}


def _written(call: Any) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict):
        raise StatusError(400, "every tool call needs a function")
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            raise StatusError(400, "the arguments of a tool call are not JSON") from None
    return {"name": function.get("name"), "arguments": arguments or {}}
