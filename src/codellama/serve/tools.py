"""Tool calls for models that were not trained on them: told in the system message, held to the
tools' schemas by a grammar, read back from the answer.

An answer that begins with `{` is a call, and the grammar makes it a valid one; any other is text.
Knows no dialect: they differ only in how a call is written into a reply.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from codellama.serve.errors import StatusError

__all__ = ["Call", "Tool", "ToolSet", "tools_of"]

MOST_TOOLS = 128


@dataclass(frozen=True, slots=True)
class Tool:
    name: str
    description: str
    parameters: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Call:
    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ToolSet:
    """Tools on offer. `choice` is "auto", "required" or the name of the one to call."""

    tools: tuple[Tool, ...]
    choice: str = "auto"

    @property
    def offered(self) -> tuple[Tool, ...]:
        chosen = tuple(tool for tool in self.tools if tool.name == self.choice)
        return chosen or self.tools

    @property
    def forced(self) -> bool:
        return self.choice != "auto"

    def instructions(self) -> str:
        """What the system message says."""
        lines = [
            json.dumps({"name": t.name, "description": t.description, "parameters": t.parameters})
            for t in self.offered
        ]
        when = "Answer with a call" if self.forced else "To call one, answer with"
        return (
            "You can call these functions:\n"
            + "\n".join(lines)
            + f'\n{when}: {{"name": <function name>, "arguments": <its arguments>}} and nothing '
            "else."
        )

    def grammar(self) -> str:
        """Lark: a call, or (unless one is forced) a text that does not begin like one."""
        calls = [
            {
                "type": "object",
                "properties": {"name": {"const": tool.name}, "arguments": tool.parameters},
                "required": ["name", "arguments"],
                "additionalProperties": False,
            }
            for tool in self.offered
        ]
        schema = json.dumps(calls[0] if len(calls) == 1 else {"anyOf": calls})
        rule = f"call: %json {schema}"
        if self.forced:
            return f"start: call\n{rule}\n"
        return f"start: call | TEXT | \n{rule}\nTEXT: /[^{{](.|\\n)*/\n"

    def may_be_call(self, text: str) -> bool:
        """Whether a text so far may become a call."""
        start = text.lstrip()
        return not start or start[0] in "{["

    def parse(self, text: str) -> list[Call]:
        """The calls that a text is made of; empty when it is anything else."""
        try:
            value = json.loads(text.strip())
        except (ValueError, RecursionError):
            return []
        calls = [_call(each) for each in (value if isinstance(value, list) else [value])]
        names = {tool.name for tool in self.tools}
        if not calls or any(call is None or call.name not in names for call in calls):
            return []
        return [call for call in calls if call is not None]


def tools_of(tools: list[dict[str, Any]] | None, choice: Any) -> ToolSet | None:
    """From OpenAI's (and Ollama's) `tools` and `tool_choice`; None where there are none to call.

    Raises StatusError 400.
    """
    if not tools or choice == "none":
        return None
    if len(tools) > MOST_TOOLS:
        raise StatusError(400, f"{len(tools)} tools: at most {MOST_TOOLS} are taken")
    known = tuple(_tool(tool) for tool in tools)
    if choice is None or choice == "auto":
        return ToolSet(known)
    if choice in ("required", "any"):
        return ToolSet(known, "required")
    named = choice.get("function") if isinstance(choice, dict) else None
    name = named.get("name") if isinstance(named, dict) else None
    if name not in [tool.name for tool in known]:
        raise StatusError(400, f"tool_choice {str(choice)[:80]} names none of the tools")
    return ToolSet(known, str(name))


def _tool(tool: dict[str, Any]) -> Tool:
    function = tool.get("function")
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise StatusError(400, "every tool needs a function with a name")
    parameters = function.get("parameters")
    if parameters is not None and not isinstance(parameters, dict):
        raise StatusError(400, f"the parameters of {function['name']} must be a JSON schema")
    description = function.get("description")
    return Tool(
        function["name"],
        description if isinstance(description, str) else "",
        parameters or {"type": "object", "properties": {}},
    )


def _call(value: Any) -> Call | None:
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return None
    arguments = value.get("arguments", value.get("parameters", {}))
    return Call(value["name"], arguments) if isinstance(arguments, dict) else None
