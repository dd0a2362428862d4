"""Where a name is on this machine. Reads only; no network.

Order: the embedded default; our store (the name, then its other names in the catalogue); a file or
model folder of that name; Ollama's store; the Hugging Face cache. What is written like a path
(`./m`, `/m`, `m.gguf`) is only ever a path, or a GGUF file that a user put into the store.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from codellama.errors import CodeLlamaError, ModelFileError, NotFoundError, RequestError
from codellama.hub.catalogue import EMBEDDED, RESERVED, canonical, embedded, equivalents, near
from codellama.hub.huggingface_cache import HuggingFaceCache
from codellama.hub.layout import Layout, ModelEntry
from codellama.hub.manifest import Manifest
from codellama.hub.names import HUGGING_FACE, Name, looks_like_path, parse_name
from codellama.hub.places import ollama_folders
from codellama.hub.shipped import adapter_for
from codellama.hub.store import Store

__all__ = ["Found", "entries", "find", "is_loose", "near_names", "ollama_stores"]

_FOLDER_MARKS = ("config.json", "params.json")
_SHOWN = 300  # characters of a path in an error


@dataclass(frozen=True, slots=True)
class Found:
    """Where a name was met: in a `layout` by its manifest, or at a plain `file` (or folder).

    `name` is the stored spelling; `where` is "store", "ollama", "huggingface" or "path".
    """

    name: str
    where: str
    file: Path | None = None
    layout: Layout | None = None
    manifest: Manifest | None = None
    manifest_path: Path | None = None

    def path(self, store: Store) -> Path:
        """What `open_model` takes. Raises ModelFileError when files of the model are missing."""
        if self.file is not None:
            return self.file
        assert self.manifest is not None and self.layout is not None
        try:
            return store.path_of(self.manifest, self.layout)
        except ModelFileError as error:
            raise ModelFileError(f"{self.name} is damaged: {error}") from error


def find(text: str, store: Store) -> Found:
    """Look a name or path up. Raises NotFoundError (what to do is in it) and ModelFileError
    (damaged manifest).
    """
    if looks_like_path(text):
        return _find_path(text, store)
    try:
        name = parse_name(text)
    except RequestError as error:
        if _is_model(text):
            return Found(text, "path", Path(text))
        raise NotFoundError(f"{error}; and there is no such file or folder") from error
    if model := embedded(name):
        if path := store.embedded_path():
            return Found(model.name, store.where, path)
        raise not_found(name, text, store)
    found = _find_in(store, name) or (None if canonical(name) else _find_here(text))
    for layout in ollama_stores():
        found = found or _find_in(layout, name)
    found = found or _find_in_cache(name)
    if found is None:
        raise not_found(name, text, store)
    return found


def entries(store: Store) -> Iterator[ModelEntry]:
    """Every model on this machine that has a name, in the order in which `find` prefers them."""
    yield from store.entries()
    for layout in ollama_stores():
        yield from layout.entries()
    yield from HuggingFaceCache().entries()


def ollama_stores() -> tuple[Layout, ...]:
    return tuple(Layout(folder, "ollama") for folder in ollama_folders())


def is_loose(text: str) -> bool:
    """Whether `text` may name a GGUF file at the top of the store."""
    return text.lower().endswith(".gguf") and os.path.basename(text) == text and "\\" not in text


def near_names(text: str, store: Store) -> str:
    """ " Did you mean …?" with what looks like `text`, or ""."""
    names = near(text, (entry.name.removesuffix(":latest") for entry in entries(store)))
    return f" Did you mean {' or '.join(names)}?" if names else ""


def not_found(name: Name, text: str, store: Store) -> NotFoundError:
    """The error for a name that is not on this machine."""
    if str(name).lower() in RESERVED and adapter_for(name) is None:
        return NotFoundError(f"{name} is not part of this version of codellama")
    if canonical(name) or name.is_hugging_face:
        return NotFoundError(
            f"{name.typed} is not downloaded yet: run `codellama pull {name.typed}`"
        )
    hint = near_names(text, store)
    where = "Ollama's registry" if name.is_library else name.host
    return NotFoundError(
        f"there is no model {text!r} on this machine.{hint} "
        f"`codellama pull {name.typed}` asks {where} for it"
    )


def _find_path(text: str, store: Store) -> Found:
    path = os.path.expanduser(text)
    if os.path.exists(path):
        return Found(text, "path", Path(path))
    if is_loose(text) and os.path.isfile(store.root / text):
        embedded_path = store.embedded_path() if text == EMBEDDED.file else None
        return Found(EMBEDDED.name if embedded_path else text, store.where, store.root / text)
    raise NotFoundError(f"there is no file or folder {text[:_SHOWN]!r}")


def _find_in(layout: Layout, name: Name) -> Found | None:
    """The name itself, or another name of the same bytes. Damage is an error in our store, absence
    in another's.
    """
    for candidate in (name, *equivalents(name)):
        located = layout.locate(candidate)
        if located is None:
            continue
        try:
            manifest = layout.read(located[1])
        except CodeLlamaError:
            if isinstance(layout, Store):
                raise
            continue
        if isinstance(layout, Store) or _is_usable(manifest, layout):
            return Found(str(located[0]), layout.where, None, layout, manifest, located[1])
    return None


def _find_here(text: str) -> Found | None:
    return Found(text, "path", Path(text)) if _is_model(text) else None


def _find_in_cache(name: Name) -> Found | None:
    """`hf.co/ORG/REPO`, and plain ORG/REPO as Python programs write it."""
    if not name.is_hugging_face and (name.is_library or name.host != parse_name("x/y").host):
        return None
    path = HuggingFaceCache().find(name)
    shown = f"{HUGGING_FACE}/{name.namespace}/{name.model}:{name.tag}"
    return Found(shown, "huggingface", path) if path else None


def _is_usable(manifest: Manifest, layout: Layout) -> bool:
    needed = (*manifest.weights, *manifest.adapters)
    return bool(manifest.format) and all(layout.has(layer) for layer in needed)


def _is_model(text: str) -> bool:
    """Whether a file, or a folder that holds a model, has this path. A folder named `codellama`
    alone is none.
    """
    return os.path.isfile(text) or any(
        os.path.isfile(os.path.join(text, mark)) for mark in _FOLDER_MARKS
    )
