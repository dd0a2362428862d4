"""`resolve`: a name or path → the file or folder to open. No network unless asked to pull.

On the way to the first token of `codellama run`: for the embedded default it costs one stat and
loads nothing else of the hub. Does not open model files: weights/ says whether one can be used.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from codellama.errors import ModelFileError, NotFoundError
from codellama.hub.catalogue import EMBEDDED, RESERVED
from codellama.hub.names import is_name, looks_like_path
from codellama.hub.places import store_dir

if TYPE_CHECKING:
    from codellama.hub.download import Progress
    from codellama.hub.lookup import Found
    from codellama.hub.store import Store

__all__ = ["resolve"]


def resolve(
    name_or_path: str | os.PathLike[str], *, pull: bool = False, progress: Progress | None = None
) -> Path:
    """The file or folder of a model, for `open_model`.

    Args:
        name_or_path: a name (`smollm2:135m`, `codellama:7b-code`, `hf.co/ORG/REPO:Q8_0`) or a path.
        pull: fetch a name that is not here yet. progress: see download.Progress.

    Raises NotFoundError (with the `codellama pull` line, or with near names), ModelFileError
    (damaged), and with `pull` DownloadError.
    """
    text = os.fspath(name_or_path)
    if text == EMBEDDED.name and _is_whole(whole := store_dir() / EMBEDDED.file):
        return whole
    if looks_like_path(text) and os.path.exists(path := os.path.expanduser(text)):
        return Path(path)  # as lookup.find would say, without loading it: 5 ms
    from codellama.hub.lookup import find
    from codellama.hub.store import Store

    store = Store(store_dir())
    try:
        found = find(text, store)
        if text in RESERVED and _renewed(found, store):
            found = find(text, store)
        return found.path(store)
    except (NotFoundError, ModelFileError):
        here = text in RESERVED and store.embedded_path()  # then pulling needs no network
        if not (pull or here) or looks_like_path(text) or not is_name(text):
            raise
    from codellama.hub.verbs import pull as pull_model

    return pull_model(text, progress)


def _renewed(found: Found, store: Store) -> bool:
    """Another version of the project brings its own adapter: whether it was taken just now."""
    from codellama.errors import DownloadError
    from codellama.hub.names import parse_name
    from codellama.hub.shipped import adapter_for, install, is_newer

    name = parse_name(found.name)
    adapter = adapter_for(name)
    if adapter is None or found.manifest_path is None or not is_newer(adapter, found.manifest_path):
        return False
    try:
        install(store, name, adapter)
    except DownloadError:  # a store that cannot be written: what is there goes on
        return False
    return True


def _is_whole(path: Path) -> bool:
    try:
        return path.stat().st_size == EMBEDDED.size
    except OSError:
        return False
