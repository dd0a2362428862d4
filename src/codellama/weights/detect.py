"""What is this path: a GGUF file, a Hugging Face folder, Meta's, or something that holds one.

Looks at names and first bytes only; the readers check the contents. Understands a Hugging Face
cache (one repository's folder, or a home with a single model) and goes by a file's bytes, not by
its name, so that Ollama's blobs (sha256-…) are recognized.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from codellama.errors import ModelFileError, NotFoundError

__all__ = ["Format", "find_weights"]

Format = Literal["gguf", "safetensors", "meta"]

ACCEPTED = (
    "accepted are a GGUF file, a folder with config.json and .safetensors files, and a folder with "
    "params.json and consolidated.00.pth"
)
_INDEX = "model.safetensors.index.json"
_PART = re.compile(r"(.*)-([0-9]{5})-of-([0-9]{5})\.gguf")
_MAX_LISTED = 5
_KINDS = (
    (b"GGUF", "a GGUF file"),
    (b"FUGG", "a big-endian GGUF file"),
    (b"version https://git-lfs", "a Git LFS pointer: fetch the file that it stands for"),
    (b"PK\x03\x04", "a ZIP archive, perhaps one file of a PyTorch checkpoint"),
    (b"\x80", "a pickle"),
    (b"ggjt", "a GGML file from before GGUF: convert it with an older llama.cpp"),
    (b"tjgg", "a GGML file from before GGUF: convert it with an older llama.cpp"),
    (b"<", "a web page"),
    (b"{", "a JSON file"),
)


def find_weights(path: Path) -> tuple[Format, Path]:
    """The format and the file or folder to read: for GGUF a file (the first part of a split one),
    else a folder.

    Raises:
        NotFoundError: nothing is there.
        ModelFileError: something else is there; the message says what, and what is accepted.
    """
    try:
        if path.is_dir():
            return _folder(path)
        if path.is_file():
            return _file(path)
        exists = path.exists()
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read: {error.strerror or error}") from None
    if exists:
        raise ModelFileError(f"{path}: neither a file nor a folder; {ACCEPTED}")
    raise NotFoundError(f"{path}: no such file or folder")


def _file(path: Path) -> tuple[Format, Path]:
    with path.open("rb") as file:
        head = file.read(64)
    if head[:4] == b"GGUF":
        return "gguf", _first_part(path)
    if _is_of(path, "*.safetensors", "*.safetensors.index.json", "consolidated.*.pth"):
        return _folder(path.parent)
    found = "empty" if not head else next((n for m, n in _KINDS if head.startswith(m)), None)
    raise ModelFileError(f"{path}: not a model file ({found or 'unknown contents'}); {ACCEPTED}")


def _is_of(path: Path, *patterns: str) -> bool:
    return any(path.match(pattern) for pattern in patterns)


def _first_part(path: Path) -> Path:
    match = _PART.fullmatch(path.name)
    if match is None:
        return path
    first = path.with_name(f"{match[1]}-00001-of-{match[3]}.gguf")
    if not first.is_file():
        raise ModelFileError(f"{path}: its first part {first.name} is missing")
    return first


def _folder(folder: Path) -> tuple[Format, Path]:
    names = sorted(entry.name for entry in folder.iterdir())
    has_safetensors = any(name.endswith(".safetensors") for name in names)
    has_shards = any(re.fullmatch(r"consolidated\.\d+\.pth", name) for name in names)
    if "config.json" in names and (has_safetensors or _INDEX in names):
        return "safetensors", folder
    if "params.json" in names and has_shards:
        return "meta", folder
    if found := _gguf_in(folder, names):
        return "gguf", found
    if nested := _cached(folder, names):
        return _folder(nested)
    raise ModelFileError(f"{folder}: no model here ({_contents(names)}); {ACCEPTED}")


def _gguf_in(folder: Path, names: list[str]) -> Path | None:
    """The one GGUF model of a folder; parts of a split one count once."""
    models: dict[str, str] = {}
    for name in names:
        if name.endswith(".gguf"):
            match = _PART.fullmatch(name)
            models.setdefault(match[1] if match else name, name)
    if len(models) > 1:
        raise ModelFileError(
            f"{folder}: {len(models)} GGUF files, name one: {_few(models.values())}"
        )
    return _first_part(folder / next(iter(models.values()))) if models else None


def _cached(folder: Path, names: list[str]) -> Path | None:
    """The folder to look into next, if this one belongs to a Hugging Face cache."""
    if "snapshots" in names:
        return _snapshot(folder)
    repositories = [name for name in names if name.startswith("models--")]
    if len(repositories) > 1:
        listed = _few(name.removeprefix("models--").replace("--", "/") for name in repositories)
        raise ModelFileError(f"{folder}: a cache of {len(repositories)} models, name one: {listed}")
    if repositories:
        return folder / repositories[0]
    return folder / "hub" if (folder / "hub").is_dir() else None


def _snapshot(folder: Path) -> Path:
    """The snapshot that refs/main means; without it the only one."""
    snapshots = [entry for entry in (folder / "snapshots").iterdir() if entry.is_dir()]
    try:
        main = (folder / "refs" / "main").read_text(encoding="ascii")[:64].strip()
    except (OSError, ValueError):
        main = None
    chosen = [entry for entry in snapshots if entry.name == main] if main else snapshots
    if len(chosen) != 1:
        raise ModelFileError(
            f"{folder}: {len(snapshots)} snapshots, and refs/main tells none of them: download the "
            "model again or name one"
        )
    return chosen[0]


def _contents(names: list[str]) -> str:
    """What a folder without a model holds, for the error: a likely cause, else some names."""
    for wanted, without in (
        ("config.json", "config.json without .safetensors files"),
        ("params.json", "params.json without consolidated.00.pth"),
    ):
        if wanted in names:
            pickled = any(name.endswith(".bin") for name in names)
            return without + (
                "; .bin files are pickles: convert them to safetensors" if pickled else ""
            )
    if any(name.endswith(".safetensors") for name in names):
        return ".safetensors files without config.json"
    if any(name.endswith(".pth") for name in names):
        return ".pth files without params.json"
    return f"it holds {_few(names)}" if names else "it is empty"


def _few(names: Iterable[str]) -> str:
    listed = list(names)
    more = len(listed) - _MAX_LISTED
    return ", ".join(listed[:_MAX_LISTED]) + (f" and {more} more" if more > 0 else "")
