"""The Hugging Face hub: `hf.co/ORG/REPO[:quantization]`, a GGUF of that quantization or a whole
safetensors repository.

Speaks the hub's HTTP API itself instead of calling huggingface_hub: so one downloader gives every
source the same resume, stall detection, disk check and progress; each large file is checked against
the sha256 that the hub publishes (the library checks sizes only); and files land in our store,
where aliases and removal work as for any other model. The library's cache is still used: what it
holds is linked, not fetched again, and files beyond 50 GB, which the hub serves to that library
alone, are to be fetched with `hf download` and are then read in place.

Honors HF_ENDPOINT, HF_TOKEN (or the login's token file) and HF_HUB_OFFLINE.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from codellama.errors import CodeLlamaError, DownloadError, NotFoundError, RequestError
from codellama.hub.download import Label, Progress, download
from codellama.hub.huggingface_cache import HuggingFaceCache
from codellama.hub.manifest import Layer, build_manifest, is_file_name, parse_manifest
from codellama.hub.names import Name
from codellama.hub.ollama_registry import fetch_layers
from codellama.hub.repository import Selection, select_files
from codellama.hub.store import Store
from codellama.hub.transport import StatusError, Transport

__all__ = ["huggingface_endpoint", "huggingface_offline", "pull_from_huggingface"]

_API_LIMIT = 16 << 20
_SMALL_LIMIT = 16 << 20  # files outside LFS; the hub allows 10 MB for them
_HUGE = 50_000_000_000  # beyond this the hub does not serve plain HTTP
_MAX_SIZE = 1 << 50
_MAX_FILES = 20_000
_TEXT_LAYERS = ("template", "system", "params")  # file names that `ollama run hf.co/…` reads, too


@dataclass(frozen=True, slots=True)
class _File:
    path: str
    size: int
    sha256: str  # "" for small files, which the hub knows by their git hash
    git_sha1: str


@dataclass(frozen=True, slots=True)
class _Repository:
    commit: str
    files: Mapping[str, _File]
    config: Mapping[str, str]


def huggingface_endpoint() -> str:
    """$HF_ENDPOINT (a mirror), else the hub."""
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or "https://huggingface.co"


def huggingface_offline() -> bool:
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def pull_from_huggingface(
    name: Name,
    store: Store,
    transport: Transport,
    progress: Progress,
    *,
    cache: HuggingFaceCache | None = None,
) -> Name:
    """Bring a repository's model into the store; returns the name it got (the quantization in its
    own spelling).

    Raises NotFoundError (no such repository or quantization) and DownloadError (gated, offline,
    network, bytes).
    """
    if huggingface_offline():
        raise DownloadError(
            f"HF_HUB_OFFLINE is set, so {name.typed} is not asked for: unset it to pull"
        )
    progress(0, 0, Label("pulling manifest"))
    try:
        repository = _ask(name, transport)
        chosen = select_files(repository.files, name.tag, f"hf.co/{name.namespace}/{name.model}")
        with contextlib.suppress(
            RequestError
        ):  # a file name that makes no tag: keep the tag as typed
            name = name.with_tag(chosen.label)
        if _up_to_date(name, repository, store):
            return name
        _pull(name, repository, chosen, store, transport, progress, cache)
    except StatusError as error:
        raise _refusal(error, name) from error
    return name


def _pull(
    name: Name,
    repository: _Repository,
    chosen: Selection,
    store: Store,
    transport: Transport,
    progress: Progress,
    cache: HuggingFaceCache | None,
) -> None:
    base = f"{huggingface_endpoint()}/{name.namespace}/{name.model}/resolve/{repository.commit}"
    kind = "model" if chosen.format == "gguf" else "file"
    files = [(kind, repository.files[path]) for path in chosen.files]
    if chosen.format == "gguf":
        files += [
            (text, repository.files[text]) for text in _TEXT_LAYERS if text in repository.files
        ]
    layers: list[Layer] = []
    paths: dict[str, str] = {}
    for kind, file in files:
        title = file.path.rpartition("/")[2] if kind in ("model", "file") else ""
        if title and not is_file_name(title):
            raise DownloadError(f"{name.typed} has a file with the name {title[:80]!r}: refused")
        if file.sha256:
            if file.size > _HUGE:
                raise DownloadError(
                    f"{file.path} is larger than 50 GB, which the hub gives to its own tool only: "
                    f"run `hf download {name.namespace}/{name.model}`; "
                    "the model is then read from its cache"
                )
            layers.append(Layer(kind, f"sha256:{file.sha256}", file.size, title))
        else:
            layers.append(
                store.add_bytes(kind, _small(f"{base}/{quote(file.path)}", file, transport), title)
            )
        paths[layers[-1].digest] = file.path
    config = {**repository.config, "model_format": chosen.format}
    described = store.add_bytes("config", json.dumps(config, sort_keys=True).encode())
    source = {"source": f"hf.co/{name.namespace}/{name.model}", "revision": repository.commit}
    raw = build_manifest(layers, described, source)

    def fetch(layer: Layer, target: Path) -> None:
        path, sha256 = paths[layer.digest], layer.digest.removeprefix("sha256:")
        label = Label(f"pulling {path.rpartition('/')[2]}", layer.digest)
        if cache and store.link_blob(layer, cache.blob_candidate(name, sha256), verify=True):
            progress(layer.size, layer.size, label)
            return
        url = f"{base}/{quote(path)}"
        download(
            transport, url, target, size=layer.size, sha256=sha256, label=label, progress=progress
        )

    fetch_layers(name, raw, parse_manifest(raw), store, fetch, progress)


def _ask(name: Name, transport: Transport) -> _Repository:
    """The repository's commit and files. Bounded and checked: the answer is the network's."""
    repository = f"{huggingface_endpoint()}/api/models/{name.namespace}/{name.model}"
    raw = transport.get_bytes(f"{repository}/revision/main?blobs=true", limit=_API_LIMIT)
    try:
        document = json.loads(raw)
        commit, siblings = document["sha"], document["siblings"]
        if not (
            isinstance(commit, str) and len(commit) == 40 and commit.isalnum() and commit.isascii()
        ):
            raise ValueError("no commit")
        if not isinstance(siblings, list) or len(siblings) > _MAX_FILES:
            raise ValueError("no list of files")
        files = {file.path: file for file in map(_parse_file, siblings)}
        return _Repository(commit, files, _describe(document))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DownloadError(f"the hub's answer about {name.typed} is unusable: {error}") from error


def _parse_file(entry: Any) -> _File:
    path, lfs = entry["rfilename"], entry.get("lfs")
    if not isinstance(path, str) or not path.isprintable() or not 0 < len(path) <= 1024:
        raise ValueError("a file without a plain name")
    large = isinstance(lfs, dict)
    size = lfs["size"] if large else entry.get("size", 0)
    sha256 = str(lfs["sha256"]) if large else ""
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= _MAX_SIZE:
        raise ValueError(f"a file of impossible size {str(size)[:40]}")
    if sha256 and not (len(sha256) == 64 and set(sha256) <= set("0123456789abcdef")):
        raise ValueError("a file with a bad sha256")
    return _File(path, size, sha256, str(entry.get("blobId") or ""))


def _describe(document: Mapping[str, Any]) -> dict[str, str]:
    """What the hub says of the model, for `info`: family and license, where it does."""
    gguf, card, config = (document.get(key) for key in ("gguf", "cardData", "config"))
    family = gguf.get("architecture") if isinstance(gguf, dict) else None
    if family is None and isinstance(config, dict):
        family = config.get("model_type")
    described = {
        "model_family": family,
        "license": card.get("license") if isinstance(card, dict) else None,
    }
    return {key: value[:200] for key, value in described.items() if isinstance(value, str)}


def _small(url: str, file: _File, transport: Transport) -> bytes:
    """A file outside LFS: at most 10 MB by the hub's rules, checked against its git hash."""
    data = transport.get_bytes(url, limit=_SMALL_LIMIT)
    header = b"blob %d\0" % len(data)
    if (
        file.git_sha1
        and hashlib.sha1(header + data, usedforsecurity=False).hexdigest() != file.git_sha1
    ):
        raise DownloadError(f"the bytes of {file.path} are not those promised: try again")
    return data


def _up_to_date(name: Name, repository: _Repository, store: Store) -> bool:
    try:
        manifest = store.find(name)
    except CodeLlamaError:
        return False
    return (
        manifest is not None
        and manifest.annotations.get("revision") == repository.commit
        and all(store.has(layer) for layer in manifest.files)
    )


def _refusal(error: StatusError, name: Name) -> CodeLlamaError:
    repository = f"{name.namespace}/{name.model}"
    if error.status == 404 or error.code in ("RepoNotFound", "RevisionNotFound"):
        hint = (
            ""
            if os.environ.get("HF_TOKEN")
            else " (a private one needs `hf auth login` or HF_TOKEN)"
        )
        return NotFoundError(f"the hub has no repository {repository}{hint}")
    if error.status in (401, 403):
        return DownloadError(
            f"{repository} is gated or private: accept its terms at "
            f"{huggingface_endpoint()}/{repository}, then run `hf auth login` "
            "or set HF_TOKEN, and pull again"
        )
    return error
