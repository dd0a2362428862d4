"""The Hugging Face cache on this disk, read in place: `models--ORG--REPO/{blobs,refs,snapshots}`.

Honors HF_HUB_CACHE and HF_HOME as huggingface_hub does, without importing it: this runs each time a
model is listed. Writes nothing. Lists only models that this project may be able to run (GGUF files,
and folders whose config.json says llama).
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

from codellama.errors import NotFoundError, RequestError
from codellama.hub.files import read_bounded
from codellama.hub.layout import ModelEntry
from codellama.hub.names import DEFAULT_TAG, HUGGING_FACE, Name, parse_name
from codellama.hub.places import cache_home
from codellama.hub.repository import Selection, quantizations, select_files

__all__ = ["HuggingFaceCache", "huggingface_home", "huggingface_token"]

_COMMIT = re.compile(r"[0-9a-f]{40}")
_CONFIG_LIMIT = 1 << 20
_MAX_FILES = 10_000  # of one snapshot


def huggingface_home() -> Path:
    """$HF_HOME, else `huggingface` in the cache folder."""
    chosen = os.environ.get("HF_HOME")
    return Path(os.path.expanduser(chosen)) if chosen else cache_home() / "huggingface"


def huggingface_token() -> str | None:
    """$HF_TOKEN, else what `hf auth login` wrote; None when not logged in."""
    if token := os.environ.get("HF_TOKEN") or os.environ.get("HUGGING_FACE_HUB_TOKEN"):
        return token.strip()
    path = os.environ.get("HF_TOKEN_PATH") or huggingface_home() / "token"
    try:
        return read_bounded(Path(path), 4096).decode("ascii").strip() or None
    except (OSError, ValueError):
        return None


class HuggingFaceCache:
    """One cache folder; by default the user's."""

    def __init__(self, root: Path | None = None) -> None:
        chosen = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
        self.root = root or (
            Path(os.path.expanduser(chosen)) if chosen else huggingface_home() / "hub"
        )

    def find(self, name: Name) -> Path | None:
        """The file or folder of `hf.co/ORG/REPO[:quantization]` (or plain ORG/REPO) if its snapshot
        holds it whole.
        """
        snapshot = self._snapshot(name)
        if snapshot is None:
            return None
        try:
            return self._path(snapshot, select_files(_files(snapshot), name.tag, str(name)))
        except NotFoundError:
            return None

    def entries(self) -> Iterator[ModelEntry]:
        """Every model of the cache that may run here."""
        for folder in sorted(self.root.glob("models--*--*")):
            _, _, plain = folder.name.partition("--")
            try:
                name = parse_name(f"{HUGGING_FACE}/{plain.replace('--', '/', 1)}")
            except RequestError:
                continue
            snapshot = self._snapshot(name)
            if snapshot is None:
                continue
            files = _files(snapshot)
            for label in quantizations(files) or [DEFAULT_TAG]:
                with contextlib.suppress(NotFoundError, RequestError, OSError):
                    chosen = select_files(files, label, str(name))
                    if chosen.format != "safetensors" or _is_llama(snapshot):
                        yield _entry(name.with_tag(label), snapshot, chosen)

    def blob_candidate(self, name: Name, sha256: str) -> Path:
        """Where the cache would keep a large file of this repository: it names them by their
        sha256.
        """
        return self.root / f"models--{name.namespace}--{name.model}" / "blobs" / sha256

    def _path(self, snapshot: Path, chosen: Selection) -> Path:
        return snapshot / chosen.files[0] if chosen.format == "gguf" else snapshot

    def _snapshot(self, name: Name) -> Path | None:
        """The snapshot that `main` means, else the newest."""
        folder = self._folder(name)
        if folder is None:
            return None
        with contextlib.suppress(OSError, ValueError):
            commit = read_bounded(folder / "refs" / "main", 64).decode("ascii").strip()
            if _COMMIT.fullmatch(commit) and (folder / "snapshots" / commit).is_dir():
                return folder / "snapshots" / commit
        snapshots = [path for path in (folder / "snapshots").glob("*") if path.is_dir()]
        return max(snapshots, key=lambda path: path.stat().st_mtime, default=None)

    def _folder(self, name: Name) -> Path | None:
        plain = f"models--{name.namespace}--{name.model}"
        with contextlib.suppress(OSError):
            if (self.root / plain).is_dir():
                return self.root / plain
            for entry in os.listdir(self.root):
                if entry.lower() == plain.lower():
                    return self.root / entry
        return None


def _files(snapshot: Path) -> list[str]:
    """Files that are really there (an interrupted download leaves links to nothing), as repository
    paths.
    """
    found: list[str] = []
    for folder, _, names in os.walk(snapshot):
        for name in names:
            path = os.path.join(folder, name)
            if os.path.isfile(path):
                found.append(os.path.relpath(path, snapshot).replace(os.sep, "/"))
            if len(found) >= _MAX_FILES:
                return found
    return found


def _entry(name: Name, snapshot: Path, chosen: Selection) -> ModelEntry:
    stats = [(snapshot / file).stat() for file in chosen.files]
    return ModelEntry(
        str(name),
        sum(stat.st_size for stat in stats),
        max(stat.st_mtime for stat in stats),
        chosen.format,
        "huggingface",
    )


def _is_llama(snapshot: Path) -> bool:
    try:
        config = json.loads(read_bounded(snapshot / "config.json", _CONFIG_LIMIT))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(config, dict) and config.get("model_type") == "llama"
