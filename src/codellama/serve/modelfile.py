"""Ollama's Modelfile, for clients that send it whole: FROM, PARAMETER, TEMPLATE, SYSTEM, ADAPTER,
LICENSE, MESSAGE.

Reads text, touches no file: FROM names a model, ADAPTER a blob that was sent. Source: ollama/ollama
docs/modelfile.mdx.
"""

from __future__ import annotations

import re
from typing import Any

from codellama.errors import RequestError
from codellama.serve.ollama_types import CreateRequest, OllamaMessage

__all__ = ["parse_modelfile"]

_COMMAND = re.compile(
    r"[ \t]*(?P<word>[A-Za-z]+)[ \t]+"
    r"(?:\"\"\"(?P<long>.*?)\"\"\"|(?P<short>[^\n]*))[ \t]*(?:\n|\Z)",
    re.DOTALL,
)
_SKIPPED = re.compile(r"(?:[ \t]*(?:#[^\n]*)?\n)+|[ \t]*#[^\n]*\Z|[ \t]+\Z")
_LISTS = ("stop",)


def parse_modelfile(text: str, request: CreateRequest) -> CreateRequest:
    """The request that a Modelfile stands for; what `request` says itself wins.

    Raises RequestError with the line that is wrong.
    """
    made = CreateRequest(
        model=request.model or request.name, stream=request.stream, quantize=request.quantize
    )
    parameters: dict[str, Any] = {}
    licenses: list[str] = []
    adapters: dict[str, str] = {}
    messages: list[OllamaMessage] = []
    for word, value, line in _commands(text):
        match word:
            case "from":
                made.from_ = value
            case "template":
                made.template = value
            case "system":
                made.system = value
            case "license":
                licenses.append(value)
            case "adapter":
                adapters[value] = _digest(value) if request.adapters is None else ""
            case "parameter":
                _set(parameters, value, line)
            case "message":
                role, _, content = value.partition(" ")
                if role not in ("system", "user", "assistant"):
                    raise RequestError(f"Modelfile, line {line}: MESSAGE needs a role")
                messages.append(OllamaMessage(role=role, content=content.strip()))
            case "requires" | "draft":
                pass
            case _:
                raise RequestError(f"Modelfile, line {line}: {word.upper()[:30]} is not known")
    made.parameters = {**parameters, **(request.parameters or {})} or None
    made.license = licenses or None
    made.adapters = adapters or None
    made.messages = messages or None
    for name in ("template", "system", "messages", "license", "files", "adapters", "from_"):
        if (given := getattr(request, name)) is not None:
            setattr(made, name, given)
    return made


def _digest(value: str) -> str:
    """ADAPTER's blob, as Ollama's client writes it; a path would be one of another machine."""
    digest = value.removeprefix("@")
    if not re.fullmatch("sha256:[0-9a-f]{64}", digest):
        raise RequestError(
            f"ADAPTER {value[:100]}: send the file as a blob, and name it in 'adapters' or write "
            "ADAPTER @sha256:…"
        )
    return digest


def _commands(text: str) -> list[tuple[str, str, int]]:
    found, place = [], 0
    text = text.replace("\r\n", "\n")
    while place < len(text):
        if skipped := _SKIPPED.match(text, place):
            place = skipped.end()
            continue
        match = _COMMAND.match(text, place)
        line = text.count("\n", 0, place) + 1
        if match is None:
            raise RequestError(f"Modelfile, line {line}: a command and its value are expected")
        value = match["long"] if match["long"] is not None else match["short"].strip()
        if match["long"] is None and len(value) > 1 and value[0] == value[-1] == '"':
            value = value[1:-1]
        found.append((match["word"].lower(), value, line))
        place = match.end()
    return found


def _set(parameters: dict[str, Any], text: str, line: int) -> None:
    name, _, value = text.partition(" ")
    value = value.strip()
    if not value:
        raise RequestError(f"Modelfile, line {line}: PARAMETER needs a name and a value")
    if len(value) > 1 and value[0] == value[-1] == '"':
        value = value[1:-1]
    if name in _LISTS:
        parameters.setdefault(name, []).append(value)
        return
    for convert in (int, float):
        try:
            parameters[name] = convert(value)
            return
        except ValueError:
            pass
    parameters[name] = {"true": True, "false": False}.get(value.lower(), value)
