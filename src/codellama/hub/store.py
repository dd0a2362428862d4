"""Our own store: what writes. Blobs appear whole, manifests after their blobs.

    STORE/SmolLM2-135M-Instruct.Q4_1.gguf   the embedded default, under the name people look for
    STORE/ANYTHING.gguf                     a GGUF that a user put there
    STORE/manifests/HOST/NAMESPACE/MODEL/TAG   JSON for each name: its files, sizes and sha256
    STORE/blobs/sha256-HEX[.partial]        the files; a .partial one is a download to be resumed
    STORE/views/HEX/FILE                    links to blobs, for models that are a folder of files
    STORE/locks/                            empty files that processes lock

Invariant: at every instant, every manifest's blobs are whole. So a crash leaves at most partial
files, unused blobs and unused views; `sweep` clears them by age. Knows nothing of networks: whoever
downloads is handed in as a callable.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from codellama.errors import ModelFileError, RequestError
from codellama.hub.catalogue import EMBEDDED, RESERVED, embedded
from codellama.hub.files import (
    PARTIAL,
    TEMPORARY,
    disk_error,
    lock,
    replace,
    sha256_of,
    write_atomic,
)
from codellama.hub.layout import Layout, ModelEntry
from codellama.hub.manifest import Layer, Manifest, build_manifest, parse_manifest
from codellama.hub.names import Name
from codellama.hub.places import ollama_folders
from codellama.hub.rubbish import TEMPORARY_AGE_S, clear_rubbish
from codellama.hub.views import drop_views, make_view

__all__ = ["Store"]


class Store(Layout):
    """The store at `root`, which is made on the first write. Safe for many threads and processes at
    once.
    """

    def __init__(self, root: Path) -> None:
        super().__init__(root, "store")

    # Reading

    def embedded_path(self) -> Path | None:
        """The embedded default if it is here: one stat, for it is on the way to the first token."""
        path = self.root / EMBEDDED.file
        try:
            return path if path.stat().st_size == EMBEDDED.size else None
        except OSError:
            return None

    def blob(self, digest: str) -> Path:
        path = super().blob(digest)
        if digest == EMBEDDED.digest and not path.exists():
            return self.root / EMBEDDED.file
        return path

    def partial(self, digest: str) -> Path:
        """Where the unfinished download of a blob lies."""
        blob = Layout.blob(self, digest)
        return blob.with_name(blob.name + PARTIAL)

    def path_of(self, manifest: Manifest, source: Layout) -> Path:
        """The file or folder that `open_model` takes. Raises ModelFileError if a blob is gone."""
        for layer in (*manifest.weights, *manifest.adapters):
            if not source.has(layer):
                raise ModelFileError(
                    f"its file {layer.title or layer.digest[:19]} is missing or cut: "
                    "pull the model again"
                )
        if not manifest.is_folder and not manifest.adapters:
            return source.blob(manifest.weights[0].digest)
        view = make_view(self.root / "views", manifest, source.blob, relative=source is self)
        if manifest.format == "gguf" and not manifest.adapters:
            return view / min(layer.title for layer in manifest.weights)
        return view

    def entries(self) -> Iterator[ModelEntry]:
        if path := self.embedded_path():
            stat = path.stat()
            yield ModelEntry(
                EMBEDDED.name, stat.st_size, stat.st_mtime, "gguf", self.where, EMBEDDED.digest
            )
        yield from super().entries()
        for path in sorted(self.root.glob("*.gguf")):
            if path.name != EMBEDDED.file and path.is_file():
                stat = path.stat()
                yield ModelEntry(path.name, stat.st_size, stat.st_mtime, "gguf", self.where)

    # Writing

    def make_root(self) -> None:
        """Make the store's folder. Raises DownloadError where that cannot be."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise disk_error(error, self.root) from error

    def ensure_blob(
        self,
        layer: Layer,
        fetch: Callable[[Path], None],
        waiting: Callable[[], None] | None = None,
    ) -> Path:
        """Have the blob: here already, or `fetch(target)` puts it there, whole. Two processes never
        fetch one at once.
        """
        target = Layout.blob(self, layer.digest)
        with self.blob_lock(layer.digest, waiting):
            if not self.has(layer):
                target.parent.mkdir(parents=True, exist_ok=True)
                fetch(target)
        return self.blob(layer.digest)

    def blob_lock(
        self, digest: str, waiting: Callable[[], None] | None = None
    ) -> contextlib.AbstractContextManager[None]:
        """256 locks for all blobs, so that the lock files stay few. A holder never asks for a
        second one.
        """
        return lock(self.root / "locks" / digest.removeprefix("sha256:")[:2], waiting)

    def add_bytes(self, kind: str, data: bytes, title: str = "") -> Layer:
        """A blob made from bytes at hand; the layer that names it."""
        layer = Layer(kind, f"sha256:{hashlib.sha256(data).hexdigest()}", len(data), title)
        self.ensure_blob(layer, lambda target: write_atomic(target, data))
        return layer

    def link_blob(self, layer: Layer, candidate: Path, *, verify: bool) -> bool:
        """Take a blob that another tool keeps, without copying its bytes. False if that cannot be
        (other disk, other bytes).
        """
        target = Layout.blob(self, layer.digest)
        try:
            if candidate.stat().st_size != layer.size:
                return False
            if verify and f"sha256:{sha256_of(candidate)}" != layer.digest:
                return False
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.is_symlink() and not target.exists():  # its owner deleted it
                target.unlink()
            os.link(os.path.realpath(candidate), target)
        except FileExistsError:
            return self.has(layer)
        except OSError:
            return False
        return True

    def commit(self, name: Name, raw: bytes) -> list[Layer]:
        """Make `name` mean this manifest. Returns the layers whose blobs vanished meanwhile; then
        nothing was changed.
        """
        manifest = parse_manifest(raw)
        with self._lock():
            if missing := [layer for layer in manifest.files if not self.has(layer)]:
                return missing
            found = self.locate(name)
            old = self._read_or_none(found[1]) if found else None
            write_atomic(found[1] if found else self.manifest_path(name), raw)
            if old:
                self._drop(old)
        return []

    def remove(self, name: Name) -> bool:
        """Forget a name and delete the files that no other name uses. False if it is not here."""
        with self._lock():
            if embedded(name):
                return self._remove_embedded()
            found = self.locate(name)
            if found is None:
                return False
            manifest = self._read_or_none(found[1])
            found[1].unlink()
            for folder in found[1].parents[:3]:  # model, namespace, host: as far as they are empty
                with contextlib.suppress(OSError):
                    folder.rmdir()
            if manifest:
                self._drop(manifest)
        return True

    def copy(self, raw: bytes, source: Layout, target: Name) -> None:
        """Give a manifest another name. Blobs of another tool's store are linked, never copied."""
        if embedded(target) or str(target).lower() in RESERVED:
            raise RequestError(f"{target} is the name of a model of this project: choose another")
        self.borrow(parse_manifest(raw), source)
        if self.commit(target, raw):
            raise ModelFileError("files of the model were removed while it was copied: try again")

    def borrow(self, manifest: Manifest, source: Layout) -> None:
        """Have every blob of a model here, linked, under no name: `sweep` spares it for a month."""
        for layer in manifest.files:
            self._borrow(layer, source)

    def embedded_manifest(self) -> bytes:
        """A manifest for the embedded default, which has none on disk, so that it can be copied
        like any other.
        """
        config = {"model_format": "gguf", "model_family": "llama", "file_type": "Q4_1"}
        layer = self.add_bytes("config", json.dumps(config).encode())
        model = Layer("model", EMBEDDED.digest, EMBEDDED.size, EMBEDDED.file)
        return build_manifest(
            [model], layer, {"source": f"{EMBEDDED.distribution} {EMBEDDED.version}"}
        )

    def sweep(self, now: float | None = None) -> None:
        """Clear what crashes left: temporary files after an hour, partial downloads and unused
        blobs after a month.
        """
        now = time.time() if now is None else now
        with self._lock():
            used = None if self.root in ollama_folders() else self._used()
            clear_rubbish(self.root, used, now)
            if used is not None:
                kept = {self.read(path).digest for _, path in self.names()}
                views = self.root / "views"
                drop_views(views, lambda digest: digest not in kept, now - TEMPORARY_AGE_S)

    # Inside

    def _borrow(self, layer: Layer, source: Layout) -> None:
        """Have another tool's blob here without its bytes: a hard link, or across disks a name."""
        place = source.blob(layer.digest)
        if self.has(layer) or self.link_blob(layer, place, verify=False):
            return
        if not source.has(layer):
            raise ModelFileError(f"its file {layer.digest[:19]} is missing: pull the model again")
        try:
            os.symlink(place.resolve(), Layout.blob(self, layer.digest))
        except OSError as error:
            raise disk_error(error, self.root) from error

    def _lock(self) -> contextlib.AbstractContextManager[None]:
        return lock(self.root / "locks" / "store")

    def _remove_embedded(self) -> bool:
        path = self.root / EMBEDDED.file
        if not path.exists():
            return False
        used = self._used()
        if used is None or EMBEDDED.digest in used:
            target = Layout.blob(self, EMBEDDED.digest)
            target.parent.mkdir(parents=True, exist_ok=True)
            replace(path, target)
        else:
            path.unlink()
        return True

    def _drop(self, manifest: Manifest) -> None:
        """Delete the blobs of a manifest that is gone, but for those that others use."""
        used = self._used()
        if used is None:
            return  # a manifest cannot be read, so nobody knows: leave the blobs to `sweep`
        for layer in manifest.files:
            if layer.digest not in used:
                Layout.blob(self, layer.digest).unlink(missing_ok=True)
        kept = {self.read(path).digest for _, path in self.names()}
        drop_views(
            self.root / "views",
            lambda digest: digest == manifest.digest and digest not in kept,
        )

    def _used(self) -> set[str] | None:
        """Digests that some manifest names, whatever its own name; None if one cannot be read."""
        used: set[str] = set()
        for folder, _, names in os.walk(self.root / "manifests"):
            for name in names:
                manifest = self._read_or_none(Path(folder, name))
                if manifest is None and not name.endswith(TEMPORARY):
                    return None
                used.update(layer.digest for layer in (manifest.files if manifest else ()))
        return used

    def _read_or_none(self, path: Path) -> Manifest | None:
        try:
            return self.read(path)
        except ModelFileError:
            return None
