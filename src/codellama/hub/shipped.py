"""Models that ship with the project: an adapter among its own files, and the base that it changes.

Installed, such a model is an ordinary one of the store: a manifest of the base's blob and the
adapter's, so that list, show, cp, rm, the server and `open_model` need no word about it. Needs the
base to be here; fetching that is `pull`'s.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from codellama.hub.catalogue import EMBEDDED, RESERVED
from codellama.hub.manifest import Layer, build_manifest
from codellama.hub.places import shipped_adapter

if TYPE_CHECKING:
    from codellama.hub.names import Name
    from codellama.hub.store import Store

__all__ = ["adapter_for", "install", "is_newer"]


def adapter_for(name: Name) -> Path | None:
    """The adapter of a shipped model's name; None for other names and versions without it."""
    known = str(name).lower()
    path = shipped_adapter(known)
    return path if known in RESERVED and path.is_file() else None


def is_newer(adapter: Path, manifest: Path) -> bool:
    """Whether the project's adapter was put here after the store's manifest was written. Two stats:
    this is on the way to the first token, and hashing the adapter takes 20 ms.
    """
    try:
        return adapter.stat().st_mtime_ns > manifest.stat().st_mtime_ns
    except OSError:
        return False


def install(store: Store, name: Name, adapter: Path) -> None:
    """Have `name` in the store mean the embedded default as `adapter` changes it.

    Raises DownloadError where the store cannot be written.
    """
    config = {"model_format": "gguf", "model_family": "llama", "file_type": "Q8_0"}
    about = store.add_bytes("config", json.dumps(config).encode())
    layers = [
        Layer("model", EMBEDDED.digest, EMBEDDED.size, EMBEDDED.file),
        store.add_bytes("adapter", adapter.read_bytes()),
    ]
    raw = build_manifest(layers, about, {"source": f"{EMBEDDED.name} and its adapter"})
    store.commit(name, raw)
