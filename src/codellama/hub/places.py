"""Where models are kept on this machine, by the environment variables that users have set already.

Folders only; whether they exist is for others to see.
"""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["cache_home", "ollama_folders", "shipped_adapter", "store_dir"]


def store_dir() -> Path:
    """Our own store: $CODELLAMA_MODELS, else `codellama/models` in $XDG_CACHE_HOME or ~/.cache. May
    not exist yet.
    """
    if chosen := os.environ.get("CODELLAMA_MODELS"):
        return Path(os.path.abspath(os.path.expanduser(chosen)))
    return cache_home() / "codellama" / "models"


def cache_home() -> Path:
    """$XDG_CACHE_HOME if absolute (its specification ignores it otherwise), else ~/.cache."""
    chosen = os.environ.get("XDG_CACHE_HOME", "")
    return Path(chosen) if os.path.isabs(chosen) else Path(os.path.expanduser("~/.cache"))


def ollama_folders() -> list[Path]:
    """Where Ollama keeps models: $OLLAMA_MODELS alone if set, else the user's folder and the Linux
    service's.
    """
    if chosen := os.environ.get("OLLAMA_MODELS"):
        return [Path(os.path.expanduser(chosen))]
    return [Path(os.path.expanduser("~/.ollama/models")), Path("/usr/share/ollama/.ollama/models")]


def shipped_adapter(name: str) -> Path:
    """Where the adapter of a model that ships with the project lies, if this version has it."""
    file = name.replace(":", "-") + ".safetensors"
    return Path(__file__).resolve().parents[1] / "adapters" / file
