"""The store keeps its invariant through any sequence of pulls, copies, removals and crashes:
manifests name whole blobs.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import time
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from codellama.errors import DownloadError, ModelFileError, RequestError
from codellama.hub import files
from codellama.hub.files import bytes_below, human, lock, write_atomic
from codellama.hub.layout import Layout
from codellama.hub.manifest import Layer, build_manifest
from codellama.hub.names import Name, parse_name
from codellama.hub.store import Store

NAMES = [parse_name(text) for text in ("a", "A", "b:1", "hf.co/x/y:Q4_0", "localhost:5000/n/m")]
DATA = [b"GGUF" + bytes([n]) * 10 for n in range(4)]


def put(store: Store, name: Name, parts: list[bytes]) -> None:
    titles = (
        [""]
        if len(parts) == 1
        else [f"m-0000{n + 1}-of-0000{len(parts)}.gguf" for n in range(len(parts))]
    )
    layers = [
        store.add_bytes("model", data, title) for data, title in zip(parts, titles, strict=True)
    ]
    assert store.commit(name, build_manifest(layers, store.add_bytes("config", b"{}"), {})) == []


class StoreMachine(RuleBasedStateMachine):
    """Against a dictionary: name (whatever its case) → contents."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp())
        self.store = Store(self.root / "store")
        self.model: dict[tuple[str, ...], list[bytes]] = {}

    def teardown(self) -> None:
        shutil.rmtree(self.root)

    @rule(
        name=st.sampled_from(NAMES), parts=st.lists(st.sampled_from(DATA), min_size=1, max_size=3)
    )
    def pull(self, name: Name, parts: list[bytes]) -> None:
        put(self.store, name, parts)
        self.model[name.key] = parts

    @rule(source=st.sampled_from(NAMES), new=st.sampled_from(NAMES))
    def copy(self, source: Name, new: Name) -> None:
        if found := self.store.locate(source):
            self.store.copy(found[1].read_bytes(), self.store, new)
            self.model[new.key] = self.model[source.key]

    @rule(name=st.sampled_from(NAMES))
    def remove(self, name: Name) -> None:
        assert self.store.remove(name) == (name.key in self.model)
        self.model.pop(name.key, None)

    @rule(data=st.sampled_from(DATA))
    def killed_before_the_manifest(self, data: bytes) -> None:
        self.store.add_bytes("model", data)
        blobs = self.store.root / "blobs"
        (blobs / "sha256-00.partial").write_bytes(b"")
        (blobs / "x.tmp").write_bytes(b"")

    @rule()
    def open_all(self) -> None:
        for _, path in self.store.names():
            self.store.path_of(self.store.read(path), self.store)

    @rule(days=st.sampled_from([0, 1, 40]))
    def sweep(self, days: int) -> None:
        self.store.sweep(time.time() + days * 86400)

    @precondition(lambda self: self.store.root.exists())
    @rule()
    def swept_late_enough_nothing_unused_is_left(self) -> None:
        self.store.sweep(time.time() + 90 * 86400)
        used = {blob for parts in self.model.values() for blob in parts}
        blobs = {path.read_bytes() for path in self.store.root.glob("blobs/*")}
        assert blobs == used | ({b"{}"} if self.model else set())
        assert len(list(self.store.root.glob("views/*"))) <= len(self.model)

    @invariant()
    def every_name_gives_its_contents(self) -> None:
        found = {name.key: self.store.read(path) for name, path in self.store.names()}
        assert found.keys() == self.model.keys()
        for key, manifest in found.items():
            path = self.store.path_of(manifest, self.store)
            siblings = sorted(path.parent.iterdir()) if manifest.is_folder else [path]
            assert [file.read_bytes() for file in siblings] == self.model[key]


StoreMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=20, deadline=None)
TestStoreMachine = StoreMachine.TestCase


def test_a_blob_removed_during_a_pull_is_noticed_at_commit(store: Store) -> None:
    layer, config = store.add_bytes("model", DATA[0]), store.add_bytes("config", b"{}")
    store.blob(layer.digest).unlink()
    assert store.commit(NAMES[0], build_manifest([layer], config, {})) == [layer]
    assert list(store.names()) == []


def test_two_threads_fetch_one_blob_once(store: Store) -> None:
    layer = Layer("model", "sha256:" + "ab" * 32, 3)
    fetched: list[Path] = []
    waited = threading.Event()

    def fetch(target: Path) -> None:
        fetched.append(target)
        assert waited.wait(5)
        write_atomic(target, b"abc")

    threads = [
        threading.Thread(target=store.ensure_blob, args=(layer, fetch, waited.set))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(fetched) == 1 and store.has(layer)


def test_a_lock_is_free_again_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), lock(tmp_path / "lock"):
        raise ZeroDivisionError
    with lock(tmp_path / "lock", waiting=lambda: pytest.fail("still held")):
        pass


def test_a_crash_while_writing_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "here" / "file"
    write_atomic(path, b"old")
    for step in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(
                os,
                step,
                lambda *args: (_ for _ in ()).throw(OSError(28, "No space left on device")),
            )
            with pytest.raises(DownloadError, match="full"):
                write_atomic(path, b"new")
        assert path.read_bytes() == b"old" and os.listdir(path.parent) == ["file"]


def test_short_writes_are_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(files.os, "write", lambda file, data: real(file, bytes(data)[:3]))
    write_atomic(tmp_path / "file", b"0123456789")
    assert (tmp_path / "file").read_bytes() == b"0123456789"


def test_a_damaged_manifest_is_an_error_for_its_name_and_spares_others_blobs(store: Store) -> None:
    put(store, NAMES[0], [DATA[0]])
    put(store, NAMES[2], [DATA[1]])
    store.manifest_path(NAMES[2]).write_bytes(b"{")
    with pytest.raises(ModelFileError, match=r"b/1 is damaged.*pull the model again"):
        store.find(NAMES[2])
    assert store.remove(NAMES[0])
    store.sweep(time.time() + 90 * 86400)
    assert (
        len(list(store.root.glob("blobs/sha256-*"))) == 3
    )  # nobody knows what the damaged one names
    assert store.remove(NAMES[2])


def test_what_names_we_do_not_understand_hold_is_not_swept(store: Store) -> None:
    put(store, NAMES[0], [DATA[0]])
    path = store.manifest_path(NAMES[0])
    path.rename(path.with_name("no name of ours!"))
    (store.root / "mine.tmp").write_bytes(b"the user's own")
    store.sweep(time.time() + 90 * 86400)
    assert len(list(store.root.glob("blobs/sha256-*"))) == 2
    assert (store.root / "mine.tmp").exists()


def test_unused_blobs_in_ollamas_own_folder_are_left_to_ollama(home: Path) -> None:
    shared = Store(home / "ollama")
    shared.add_bytes("model", DATA[0])
    shared.sweep(time.time() + 90 * 86400)
    assert len(list(shared.root.glob("blobs/sha256-*"))) == 1


def test_the_names_of_this_project_are_not_given_away(store: Store) -> None:
    put(store, NAMES[0], [DATA[0]])
    raw = store.manifest_path(NAMES[0]).read_bytes()
    for taken in ("smollm2:135m", "codellama-smol:135m", "SmolLM2:135M"):
        with pytest.raises(RequestError, match="choose another"):
            store.copy(raw, store, parse_name(taken))


def test_a_copy_from_another_disk_links_by_name(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Store(tmp_path / "other")
    put(other, NAMES[0], [DATA[0]])
    monkeypatch.setattr(
        os, "link", lambda *args: (_ for _ in ()).throw(OSError(18, "Invalid cross-device link"))
    )
    store.copy(other.manifest_path(NAMES[0]).read_bytes(), Layout(other.root, "ollama"), NAMES[2])
    manifest = store.find(NAMES[2])
    assert manifest is not None
    path = store.path_of(manifest, store)
    assert path.is_symlink() and path.read_bytes() == DATA[0]
    other.blob(manifest.weights[0].digest).unlink()
    with pytest.raises(ModelFileError):
        store.path_of(manifest, store)
    put(other, NAMES[0], [DATA[0]])
    monkeypatch.undo()
    store.copy(other.manifest_path(NAMES[0]).read_bytes(), Layout(other.root, "ollama"), NAMES[2])
    assert path.read_bytes() == DATA[0]


def test_linked_files_count_once(store: Store) -> None:
    put(store, NAMES[0], [bytes(5000)])
    before = bytes_below(store.root)
    os.link(next(store.root.glob("blobs/sha256-*")), store.root / "again.gguf")
    assert bytes_below(store.root) == before > 5000


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (98_362_432, "98.4 MB"),
        (999_960, "1.0 MB"),
        (2 * 10**15, "2000.0 TB"),
    ],
)
def test_sizes_are_told_as_disks_are_sold(size: int, text: str) -> None:
    assert human(size) == text
