"""What a model's Modelfile says: template, system prompt, parameters, messages.

Read from the manifest's layers, or absent. Damaged layers are treated as absent: the weights still
work. Knows Ollama's names of parameters; sampling.py gives them their meaning.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from codellama.hub import ModelInfo

__all__ = ["Defaults"]


@dataclass(frozen=True, slots=True)
class Defaults:
    template: str | None = None
    system: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    messages: tuple[dict[str, str], ...] = ()
    licenses: tuple[str, ...] = ()

    @classmethod
    def of(cls, info: ModelInfo) -> Defaults:
        texts = info.texts
        return cls(
            template=_last(texts.get("template", ())) or None,
            system=_last(texts.get("system", ())),
            parameters=_object(_last(texts.get("params", ()))),
            messages=_messages(_last(texts.get("messages", ()))),
            licenses=tuple(texts.get("license", ())),
        )


def _last(texts: tuple[str, ...]) -> str:
    return texts[-1] if texts else ""


def _object(text: str) -> dict[str, Any]:
    value = _json(text)
    return value if isinstance(value, dict) else {}


def _messages(text: str) -> tuple[dict[str, str], ...]:
    value = _json(text)
    if not isinstance(value, list):
        return ()
    return tuple(
        {"role": m["role"], "content": m["content"]}
        for m in value
        if isinstance(m, dict)
        and isinstance(m.get("role"), str)
        and isinstance(m.get("content"), str)
    )


def _json(text: str) -> Any:
    try:
        return json.loads(text) if text else None
    except (ValueError, RecursionError):
        return None
