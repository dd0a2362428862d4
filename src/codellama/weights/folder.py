"""What a model folder says about itself beside its weights: license, chat template, whether its
vocabulary can infill; as GGUF-style metadata.

Common to Hugging Face's and Meta's layouts. Loads no tokenizer: it looks for bytes. What is missing
or unreadable in these side files is left out, never an error.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from codellama.errors import CodeLlamaError
from codellama.weights.files import read_bounded, read_json

__all__ = ["TOKENIZER_FILES", "folder_infills", "folder_metadata", "folder_name"]

TOKENIZER_FILES = ("tokenizer.model", "tokenizer.json")

# The piece ▁<PRE> as tokenizer.model and tokenizer.json write it, the latter also escaped.
_INFILLING_PIECES = ("▁<PRE>".encode(), rb"\u2581<PRE>")
_CARD_LICENSE = re.compile(rb"^license:[ \t]*['\"]?([A-Za-z0-9][\w.+-]{0,63})", re.MULTILINE)
_LLAMA_2_LICENSE = b"LLAMA 2 COMMUNITY LICENSE"


def folder_name(folder: Path) -> str:
    """What to call the model of a folder: its name, or ORG/REPO inside a Hugging Face cache."""
    repository = folder.parent.parent.name
    if folder.parent.name == "snapshots" and repository.startswith("models--"):
        return repository.removeprefix("models--").replace("--", "/")
    return folder.resolve().name


def folder_metadata(folder: Path) -> dict[str, Any]:
    """general.* and tokenizer.chat_template of a folder, as far as its files tell."""
    metadata: dict[str, Any] = {
        "general.architecture": "llama",
        "general.name": folder_name(folder),
    }
    if license := _license(folder):
        metadata["general.license"] = license
    if template := _chat_template(folder):
        metadata["tokenizer.chat_template"] = template
    return metadata


def folder_infills(folder: Path) -> bool:
    """Whether the vocabulary has Code Llama's infilling pieces."""
    return any(
        piece in data
        for data in (_read(folder / file) for file in TOKENIZER_FILES)
        for piece in _INFILLING_PIECES
    )


def _license(folder: Path) -> str | None:
    """The identifier in the model card's front matter, or that of Llama 2's license text."""
    card = _read(folder / "README.md")
    if card.startswith(b"---"):
        front_matter = card[: card.find(b"\n---", 3)]
        if match := _CARD_LICENSE.search(front_matter):
            return match[1].decode()
    texts = (_read(folder / name)[:4096].upper() for name in ("LICENSE", "LICENSE.txt"))
    return "llama2" if any(_LLAMA_2_LICENSE in text for text in texts) else None


def _chat_template(folder: Path) -> str | None:
    """chat_template.jinja, or `chat_template` in tokenizer_config.json: a string, or a list of
    named ones of which "default" counts.
    """
    if text := _read(folder / "chat_template.jinja"):
        return text.decode("utf-8", "replace")
    try:
        found = read_json(folder / "tokenizer_config.json").get("chat_template")
    except CodeLlamaError:
        return None
    if isinstance(found, list):
        named = {
            item.get("name"): item.get("template")
            for item in found
            if isinstance(item, dict) and isinstance(item.get("name"), str)
        }
        found = named.get("default")
    return found if isinstance(found, str) and found else None


def _read(path: Path) -> bytes:
    try:
        return read_bounded(path)
    except CodeLlamaError:
        return b""
