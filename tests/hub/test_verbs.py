"""resolve, list, remove, copy, info: what is found where, in which order, and what the errors tell
people to do.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import codellama.errors
from codellama import hub
from codellama.errors import (
    CodeLlamaError,
    DownloadError,
    ModelFileError,
    NotFoundError,
    RequestError,
)
from codellama.hub.catalogue import EMBEDDED
from codellama.hub.layout import Layout
from codellama.hub.manifest import build_manifest
from codellama.hub.names import parse_name
from codellama.hub.places import ollama_folders
from codellama.hub.store import Store

SOURCE = str(Path(codellama.errors.__file__).parents[1])


def put(root: Path, name: str, data: bytes = b"GGUF", template: bytes = b"{{ .Prompt }}") -> Path:
    """A model in a folder of Ollama's layout (ours is the same)."""
    store = Store(root)
    layers = [store.add_bytes("model", data), store.add_bytes("template", template)]
    assert not store.commit(
        parse_name(name), build_manifest(layers, store.add_bytes("config", b'{"a": 1}'), {})
    )
    return store.blob(layers[0].digest)


@pytest.fixture
def default(store: Store) -> Path:
    """The embedded default as far as `resolve` looks: a sparse file of its name and size."""
    store.root.mkdir(exist_ok=True)
    path = store.root / EMBEDDED.file
    path.touch()
    os.truncate(path, EMBEDDED.size)
    return path


# resolve


def test_the_default_is_found_quickly_and_without_the_network(default: Path) -> None:
    code = """
import sys, time
from codellama import hub
start = time.perf_counter()
print(hub.resolve('smollm2:135m'))
print(time.perf_counter() - start)
sys.exit(', '.join({'httpx', 'huggingface_hub', 'torch', 'ssl'} & set(sys.modules)) or 0)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": SOURCE},
    )
    assert done.returncode == 0, done.stderr
    path, took = done.stdout.split()
    assert Path(path) == default
    assert float(took) < 0.05  # 0.1 ms in fact; a loaded machine may be slow


def test_the_default_is_found_in_any_case_and_not_when_cut(default: Path) -> None:
    assert hub.resolve("SmolLM2:135M") == default
    os.truncate(default, EMBEDDED.size - 1)
    with pytest.raises(
        NotFoundError,
        match=r"smollm2:135m is not downloaded yet: run `codellama pull smollm2:135m`",
    ):
        hub.resolve("smollm2:135m")


def test_a_stored_name_is_found_in_any_case_and_by_its_other_names(store: Store) -> None:
    path = put(store.root, "codellama:7b")
    for text in (
        "codellama:7b",
        "CodeLlama:7B",
        "codellama",
        "codellama:7b-instruct-q4_0",
        "codellama:instruct",
    ):
        assert hub.resolve(text) == path
    with pytest.raises(NotFoundError):
        hub.resolve("codellama:7b-code")


def test_our_store_comes_before_ollamas(store: Store, home: Path) -> None:
    theirs = put(home / "ollama", "m", b"GGUF theirs")
    assert hub.resolve("m") == theirs
    ours = put(store.root, "m", b"GGUF ours")
    assert hub.resolve("m") == ours


def test_ollamas_old_blob_names_are_read(home: Path) -> None:
    path = put(home / "ollama", "m")
    old = path.with_name(path.name.replace("-", ":", 1))
    path.rename(old)
    assert hub.resolve("m") == old


def test_a_model_that_ollama_has_in_part_is_not_there(home: Path) -> None:
    put(home / "ollama", "m").write_bytes(b"")
    with pytest.raises(NotFoundError):
        hub.resolve("m")
    assert hub.list_models() == []


def test_a_damaged_model_of_ours_says_so(store: Store) -> None:
    put(store.root, "m").unlink()
    with pytest.raises(ModelFileError, match=r"m:latest is damaged.*pull the model again"):
        hub.resolve("m")


def test_paths_are_taken_as_they_are(tmp_path: Path) -> None:
    file = tmp_path / "here" / "m.gguf"
    file.write_bytes(b"GGUF")
    folder = tmp_path / "here" / "org" / "model"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    assert hub.resolve(file) == file
    assert hub.resolve("m.gguf") == Path("m.gguf")
    assert hub.resolve("./m.gguf") == Path("m.gguf")
    assert hub.resolve("~/here/m.gguf") == file
    assert hub.resolve("org/model") == Path("org/model")


def test_a_folder_that_is_no_model_does_not_hide_a_name(store: Store, tmp_path: Path) -> None:
    for folder in ("codellama", "m"):
        (tmp_path / "here" / folder).mkdir()
    (tmp_path / "here" / "codellama" / "config.json").write_text("{}")
    with pytest.raises(NotFoundError):
        hub.resolve("m")
    with pytest.raises(NotFoundError, match="`codellama pull codellama`"):
        hub.resolve("codellama")  # a catalogue name is never a folder by chance


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("codelama:7b", r"no model 'codelama:7b' on this machine. Did you mean codellama:7b or"),
        ("codellama:7b-code", r"`codellama pull codellama:7b-code`$"),
        ("hf.co/a/b:Q4_0", r"`codellama pull hf.co/a/b:Q4_0`$"),
        ("zzzz", r"`codellama pull zzzz` asks Ollama's registry for it$"),
        ("my-modle", r"Did you mean my-model\?"),
        ("codellama-smol:135m", "not part of this version|`codellama pull codellama-smol:135m`$"),
        ("./nothing", r"no file or folder './nothing'"),
        ("nothing.gguf", r"no file or folder"),
        ("../../../../etc/no", "no file or folder"),
        ("a\0b", "not a model name"),
        ("", "1 to 512 characters"),
        ("x" * 5000, "1 to 512 characters"),
        ("/" * 5000, "no file or folder"),
        ("a b", "no such file or folder"),
    ],
)
def test_errors_say_what_to_do(store: Store, text: str, message: str) -> None:
    put(store.root, "my-model")
    with pytest.raises(NotFoundError, match=message) as caught:
        hub.resolve(text)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


# models that ship with the project


@pytest.fixture
def shipped(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = home / "adapter"
    path.write_bytes(b"what was learned")
    monkeypatch.setattr("codellama.hub.shipped.shipped_adapter", lambda name: path)
    return path


NAME = "codellama-smol:135m"


def test_a_shipped_model_is_its_base_with_its_adapter(
    store: Store, default: Path, shipped: Path
) -> None:
    folder = hub.resolve(NAME)
    assert (folder / ".adapter-0").read_bytes() == shipped.read_bytes()
    assert (folder / "model.gguf").resolve() == default.resolve()
    (entry,) = [each for each in hub.list_models() if each.name == NAME]
    assert entry.size > EMBEDDED.size
    hub.copy(NAME, "codellama")
    assert (hub.resolve("codellama") / ".adapter-0").read_bytes() == shipped.read_bytes()
    hub.remove(NAME)
    assert NAME not in {each.name for each in hub.list_models()}
    assert hub.resolve(NAME).is_dir()  # the base is here: nothing has to be fetched


def refuse(*_: object) -> None:
    raise DownloadError("the store cannot be written")


def test_another_version_of_the_project_brings_its_own_adapter(
    store: Store, default: Path, shipped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `pull`, and by itself where it came later; not where the store cannot be written."""
    hub.resolve(NAME)
    shipped.write_bytes(b"more was learned")
    os.utime(shipped, (1, 1))
    assert (hub.resolve(NAME) / ".adapter-0").read_bytes() == b"what was learned"
    assert (hub.pull(NAME) / ".adapter-0").read_bytes() == b"more was learned"
    shipped.write_bytes(b"still more")
    later = time.time() + 10
    os.utime(shipped, (later, later))
    with monkeypatch.context() as patched:
        patched.setattr("codellama.hub.shipped.install", refuse)
        assert (hub.resolve(NAME) / ".adapter-0").read_bytes() == b"more was learned"
    assert (hub.resolve(NAME) / ".adapter-0").read_bytes() == b"still more"


def test_without_its_base_a_shipped_model_is_to_be_pulled(store: Store, shipped: Path) -> None:
    with pytest.raises(NotFoundError, match=f"`codellama pull {NAME}`"):
        hub.resolve(NAME)


def test_a_version_without_the_adapter_says_so(
    store: Store, default: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("codellama.hub.shipped.shipped_adapter", lambda name: Path("nowhere"))
    for ask in (hub.resolve, hub.pull):
        with pytest.raises(NotFoundError, match="not part of this version"):
            ask(NAME)


# list


def test_models_are_listed_once_newest_first(store: Store, home: Path, default: Path) -> None:
    put(store.root, "old")
    put(store.root, "new", b"GGUF22")
    put(home / "ollama", "old", b"GGUF other")
    put(home / "ollama", "theirs")
    (store.root / "mine.gguf").write_bytes(b"GGUF")
    now = time.time()
    os.utime(default, (now - 50, now - 50))
    os.utime(store.root / "mine.gguf", (now - 40, now - 40))
    os.utime(store.manifest_path(parse_name("old")), (now - 30, now - 30))
    os.utime(Layout(home / "ollama", "").manifest_path(parse_name("theirs")), (now - 20, now - 20))
    listed = [(entry.name, entry.where) for entry in hub.list_models()]
    assert listed == [
        ("new:latest", "store"),
        ("theirs:latest", "ollama"),
        ("old:latest", "store"),
        ("mine.gguf", "store"),
        ("smollm2:135m", "store"),
    ]
    for name, _ in listed:
        assert hub.resolve(name).exists()
        assert hub.info(name).name == name


def test_rubbish_in_the_stores_is_passed_over(store: Store, home: Path) -> None:
    put(store.root, "m")
    top = store.root / "manifests"
    (top / "registry.ollama.ai" / "library" / "m" / "x.1-ab.tmp").write_bytes(b"half")
    (top / "registry.ollama.ai" / "library" / "m" / "bad tag!").write_bytes(b"{}")
    (top / "registry.ollama.ai" / "library" / "m" / "broken").write_bytes(b"{")
    (top / "stray").write_bytes(b"")
    (home / "ollama").write_bytes(b"not a folder")
    assert [entry.name for entry in hub.list_models()] == ["m:latest"]


# remove and copy


def test_a_copy_shares_its_bytes_and_outlives_the_original(store: Store) -> None:
    path = put(store.root, "m", bytes(100_000))
    before = hub.disk_usage()
    hub.copy("m", "me/alias:v1")
    assert hub.resolve("me/alias:v1") == path
    assert hub.disk_usage() - before < 2000
    hub.remove("m")
    assert hub.resolve("me/alias:v1") == path
    hub.remove("me/alias:v1")
    assert hub.list_models() == [] and not path.exists()
    assert not list((store.root / "manifests").glob("*"))


def test_the_default_can_be_copied_and_removed(default: Path, store: Store) -> None:
    hub.copy("smollm2:135m", "mine")
    assert hub.resolve("mine") == default
    assert hub.info("mine").config["model_family"] == "llama"
    hub.remove("smollm2:135m")
    assert not default.exists()
    assert hub.resolve("mine").stat().st_size == EMBEDDED.size
    hub.remove("mine")
    assert hub.list_models() == [] and not list(store.root.glob("blobs/*"))


def test_a_model_of_ollama_is_copied_by_link(home: Path) -> None:
    theirs = put(home / "ollama", "m", b"GGUF theirs")
    hub.copy("m", "mine")
    assert os.path.samefile(hub.resolve("mine"), theirs)
    with pytest.raises(RequestError, match="`ollama rm m`"):
        hub.remove("m")
    hub.remove("mine")
    assert theirs.read_bytes() == b"GGUF theirs"


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("nothing", NotFoundError),
        ("../x", RequestError),
        ("/etc/passwd", RequestError),
        ("a:b:c", RequestError),
        ("x.gguf", RequestError),
    ],
)
def test_only_names_of_the_store_are_removed(
    name: str, error: type[Exception], tmp_path: Path
) -> None:
    (tmp_path / "here" / "x.gguf").write_bytes(b"GGUF")
    with pytest.raises(error):
        hub.remove(name)
    assert (tmp_path / "here" / "x.gguf").exists()


def test_another_name_of_a_stored_model_is_not_removed_by_mistake(store: Store) -> None:
    put(store.root, "codellama:7b")
    with pytest.raises(RequestError, match="`codellama rm codellama:7b`"):
        hub.remove("codellama")
    assert hub.resolve("codellama:7b")


def test_a_file_put_into_the_store_by_hand_is_a_model_of_that_name(store: Store) -> None:
    store.root.mkdir()
    (store.root / "mine.gguf").write_bytes(b"GGUF")
    assert hub.resolve("mine.gguf") == store.root / "mine.gguf"
    hub.remove("mine.gguf")
    assert hub.list_models() == []


@pytest.mark.parametrize("target", ["../up", "./x", "x.gguf", "a:b:c", "", "smollm2:135m"])
def test_a_copy_needs_a_name(store: Store, target: str) -> None:
    put(store.root, "m")
    with pytest.raises(RequestError):
        hub.copy("m", target)
    with pytest.raises(NotFoundError):
        hub.copy("nothing", "b")


# info and places


def test_info_of_a_plain_path(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    info = hub.info(tmp_path / "m.gguf")
    assert (info.where, info.size, info.format, info.layers) == ("path", 4, "gguf", ())


def test_info_reads_what_is_readable(store: Store) -> None:
    put(store.root, "m", template=b"\xff{{ .Prompt }}")
    store.blob(
        next(layer.digest for layer in hub.info("m").layers if layer.kind == "template")
    ).write_bytes(b"x" * (2 << 20))
    assert hub.info("m").texts == {}
    assert hub.info("m").config == {"a": 1}


def test_places_follow_the_environment(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CODELLAMA_MODELS", "~/elsewhere")
    assert hub.store_dir() == home / "elsewhere"
    monkeypatch.delenv("CODELLAMA_MODELS")
    assert hub.store_dir() == home / ".cache" / "codellama" / "models"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert hub.store_dir() == home / ".cache" / "codellama" / "models"
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert hub.store_dir() == Path("/x/codellama/models")
    assert ollama_folders() == [home / "ollama"]
    monkeypatch.delenv("OLLAMA_MODELS")
    assert ollama_folders()[0] == home / ".ollama" / "models"


def test_the_public_face_is_complete() -> None:
    for name in hub.__all__:
        assert getattr(hub, name).__module__.startswith("codellama.hub.")
    with pytest.raises(AttributeError):
        hub.nothing  # noqa: B018


def test_a_store_that_cannot_be_written_is_one_clear_error(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(home / "ollama", "m")
    (home / "file").write_text("")
    monkeypatch.setenv("CODELLAMA_MODELS", str(home / "file" / "store"))
    assert hub.resolve("m").exists()
    for act in (
        lambda: hub.pull("smollm2:135m"),
        lambda: hub.copy("m", "b"),
        lambda: hub.remove("b"),
    ):
        with pytest.raises(CodeLlamaError, match="cannot write in"):
            act()
