"""Folders of named links, for models of several files: blobs have no names, and readers want
`config.json` beside the rest. Adapters are `.adapter-0`, `.adapter-1`, … beside the weights, which
weights.open_model applies; no file of a manifest can have such a name.

A view is derived from its manifest and may be deleted at any time. It is made aside and renamed, so
it is whole or absent.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from codellama.hub.files import TEMPORARY
from codellama.hub.manifest import Layer, Manifest

__all__ = ["drop_views", "make_view"]


def make_view(
    views: Path, manifest: Manifest, blob: Callable[[str], Path], *, relative: bool
) -> Path:
    """The folder `views/HEX` with a link of its own name to each weight file of `manifest`.

    Args:
        blob: digest → where the file is. relative: write links that survive moving the whole store.
    """
    import shutil  # 4 ms, and few models are folders

    view = views / manifest.digest.removeprefix("sha256:")
    if view.is_dir():
        return view
    making = view.with_name(f"{view.name}.{os.urandom(4).hex()}{TEMPORARY}")
    making.mkdir(parents=True)
    for name, layer in _members(manifest):
        source, link = blob(layer.digest), making / name
        try:
            os.symlink(os.path.relpath(source, making) if relative else source.resolve(), link)
        except OSError:  # no right to make symbolic links (Windows), or none on this file system
            os.link(source, link)
    try:
        os.rename(making, view)
    except OSError:  # another process was quicker
        shutil.rmtree(making, ignore_errors=True)
    return view


def _members(manifest: Manifest) -> list[tuple[str, Layer]]:
    weights = manifest.weights
    named = [(layer.title, layer) for layer in weights]
    if not manifest.is_folder:  # one GGUF file, which needs no name elsewhere
        named = [("model.gguf", layer) for layer in weights]
    return named + [(f".adapter-{i}", layer) for i, layer in enumerate(manifest.adapters)]


def drop_views(views: Path, doomed: Callable[[str], bool], before: float | None = None) -> None:
    """Delete views whose manifest digest is `doomed`, and unfinished ones; with `before`, only
    those older than that.
    """
    import shutil

    for view in views.glob("*"):
        old = before is None or view.lstat().st_mtime < before
        if old and (view.name.endswith(TEMPORARY) or doomed(f"sha256:{view.name}")):
            shutil.rmtree(view, ignore_errors=True)
