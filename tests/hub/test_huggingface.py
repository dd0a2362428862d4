"""Pulling from a hub on this machine, and reading the hub's cache in place."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from codellama import hub
from codellama.errors import DownloadError, NotFoundError
from codellama.hub.huggingface_cache import huggingface_token
from codellama.hub.names import parse_name
from codellama.hub.store import Store
from codellama.hub.transport import Transport
from codellama.hub.verbs import _transport
from hub.servers import COMMIT, Fault, Server, digest, serving

GGUF = b"GGUF" + bytes(range(256)) * 8
FOLDER = {
    "config.json": b'{"model_type": "llama"}',
    "model-00001-of-00002.safetensors": b"1" * 100,
    "model-00002-of-00002.safetensors": b"2" * 100,
    "tokenizer.model": b"t" * 70,
    "README.md": b"# read me",
}
COMMIT_PATH = f"/O/R/resolve/{COMMIT}/"


@pytest.fixture
def endpoint(server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    return server


def test_a_gguf_is_pulled_by_quantization(endpoint: Server, transport: Transport) -> None:
    endpoint.publish_huggingface(
        "O/R", {"m.Q4_K_M.gguf": GGUF, "m.Q8_0.gguf": GGUF + b"8", "template": b"{{ .Prompt }}"}
    )
    assert hub.pull("hf.co/O/R", transport=transport).read_bytes() == GGUF
    assert hub.pull("hf.co/O/R:q8_0", transport=transport).read_bytes() == GGUF + b"8"
    assert {entry.name for entry in hub.list_models()} == {"hf.co/O/R:latest", "hf.co/O/R:Q8_0"}
    info = hub.info("hf.co/o/r:q8_0")
    assert info.texts["template"] == ("{{ .Prompt }}",)
    assert info.config["license"] == "llama2"
    assert info.source == {"source": "hf.co/O/R", "revision": COMMIT}


def test_a_split_gguf_stands_side_by_side_under_its_own_names(
    endpoint: Server, transport: Transport
) -> None:
    parts = {f"Q8_0/m-Q8_0-0000{n}-of-00002.gguf": b"GGUF%d" % n * 50 for n in (1, 2)}
    endpoint.publish_huggingface("O/R", parts)
    path = hub.pull("hf.co/O/R:Q8_0", transport=transport)
    assert path.name == "m-Q8_0-00001-of-00002.gguf"
    assert {file.name: file.read_bytes() for file in path.parent.iterdir()} == {
        name.rpartition("/")[2]: data for name, data in parts.items()
    }


def test_a_safetensors_repository_becomes_a_folder(
    endpoint: Server, transport: Transport, store: Store
) -> None:
    endpoint.publish_huggingface("O/R", FOLDER)
    folder = hub.pull("hf.co/O/R", transport=transport)
    expected = {name: data for name, data in FOLDER.items() if name != "README.md"}
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == expected
    assert hub.info("hf.co/O/R").format == "safetensors"
    hub.remove("hf.co/O/R")
    assert not folder.exists() and not list(store.root.glob("blobs/*"))


def test_a_folder_survives_the_move_of_the_whole_store(
    endpoint: Server, transport: Transport, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint.publish_huggingface("O/R", FOLDER)
    hub.pull("hf.co/O/R", transport=transport)
    moved = store.root.rename(store.root.with_name("moved"))
    monkeypatch.setenv("CODELLAMA_MODELS", str(moved))
    assert (hub.resolve("hf.co/O/R") / "config.json").read_bytes() == FOLDER["config.json"]


def test_what_is_up_to_date_is_not_fetched_again(endpoint: Server, transport: Transport) -> None:
    endpoint.publish_huggingface("O/R", FOLDER)
    hub.pull("hf.co/O/R", transport=transport)
    endpoint.seen.clear()
    hub.pull("hf.co/O/R", transport=transport)
    assert [seen.path for seen in endpoint.seen] == ["/api/models/O/R/revision/main?blobs=true"]


def test_a_broken_download_is_continued_through_redirects(
    endpoint: Server, transport: Transport
) -> None:
    endpoint.publish_huggingface("O/R", {"m.Q4_0.gguf": GGUF})
    with serving() as network:
        network.add("/lfs", GGUF, etag='"e"', plan=[Fault("cut", 500)])
        endpoint.resources[
            COMMIT_PATH + "m.Q4_0.gguf"
        ].redirect = f"{network.url}/lfs?X-Amz-Signature=s"
        assert hub.pull("hf.co/O/R", transport=transport).read_bytes() == GGUF
        assert [seen.headers.get("Range") for seen in network.seen] == [None, "bytes=500-"]


@pytest.mark.parametrize("file", ["m.Q4_0.gguf", "params"])
def test_corrupted_bytes_are_found_in_large_and_small_files(
    endpoint: Server, transport: Transport, file: str
) -> None:
    endpoint.publish_huggingface("O/R", {"m.Q4_0.gguf": GGUF, "params": b"{}"})
    endpoint.resources[COMMIT_PATH + file].plan = [Fault("corrupt")]
    with pytest.raises(DownloadError, match="not those promised"):
        hub.pull("hf.co/O/R", transport=transport)
    assert hub.list_models() == []


@pytest.mark.parametrize("status", [401, 403])
def test_a_gated_repository_says_how_to_log_in(
    endpoint: Server, transport: Transport, status: int
) -> None:
    endpoint.publish_huggingface("O/R", {"m.Q4_0.gguf": GGUF})
    fault = Fault("status", status, {"X-Error-Code": "GatedRepo"})
    endpoint.resources[COMMIT_PATH + "m.Q4_0.gguf"].plan = [fault]
    with pytest.raises(DownloadError, match=r"gated.*/O/R.*hf auth login.*HF_TOKEN"):
        hub.pull("hf.co/O/R", transport=transport)


def test_an_unknown_repository_is_not_found_however_the_hub_says_it(
    endpoint: Server, transport: Transport
) -> None:
    with pytest.raises(NotFoundError, match="no repository O/R"):
        hub.pull("hf.co/O/R", transport=transport)
    fault = Fault("status", 401, {"X-Error-Code": "RepoNotFound"})
    endpoint.add("/api/models/O/R/revision/main", b"", plan=[fault])
    with pytest.raises(NotFoundError, match="no repository O/R"):
        hub.pull("hf.co/O/R", transport=transport)


def test_offline_is_respected(
    endpoint: Server, transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(DownloadError, match="HF_HUB_OFFLINE"):
        hub.pull("hf.co/O/R", transport=transport)
    assert not endpoint.seen


def test_the_token_goes_to_the_endpoint(endpoint: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    endpoint.publish_huggingface("O/R", {"m.Q4_0.gguf": GGUF})
    with serving() as network:
        network.add("/lfs", GGUF)
        endpoint.resources[COMMIT_PATH + "m.Q4_0.gguf"].redirect = f"{network.url}/lfs"
        hub.pull("hf.co/O/R", transport=_transport(parse_name("hf.co/O/R"), False, None))
        assert {seen.headers.get("Authorization") for seen in endpoint.seen} == {"Bearer hf_secret"}
        assert "Authorization" not in network.seen[0].headers


def test_the_token_is_that_of_the_login(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert huggingface_token() is None
    (home / ".cache" / "huggingface").mkdir(parents=True)
    (home / ".cache" / "huggingface" / "token").write_text("hf_file\n")
    assert huggingface_token() == "hf_file"
    monkeypatch.setenv("HF_TOKEN", "hf_env")
    assert huggingface_token() == "hf_env"


def _sibling(**changes: object) -> bytes:
    entry = {"rfilename": "m.gguf", "size": 3, "lfs": {"sha256": "a" * 64, "size": 3}, **changes}
    return json.dumps({"sha": COMMIT, "siblings": [entry]}).encode()


@pytest.mark.parametrize(
    "answer",
    [
        b"", b"[]", b"{}", b'{"sha": "x", "siblings": []}', b"[" * 100_000,
        json.dumps({"sha": "../" * 13 + "x", "siblings": []}).encode(),
        _sibling(rfilename=3), _sibling(rfilename="a\0.gguf"), _sibling(rfilename="x" * 2000),
        _sibling(lfs={"sha256": "../../x", "size": 3}), _sibling(lfs={"sha256": "a" * 64,
        "size": -3}),
        _sibling(lfs={"sha256": "a" * 64}), _sibling(rfilename="d/..gguf.gguf"),
        _sibling(rfilename=".gguf"),
        _sibling(lfs={"sha256": "a" * 64, "size": 60_000_000_000}),
    ],
)  # fmt: skip
def test_hostile_answers_are_one_clear_error(
    endpoint: Server, transport: Transport, answer: bytes
) -> None:
    endpoint.add("/api/models/O/R/revision/main", answer)
    with pytest.raises((DownloadError, NotFoundError)):
        hub.pull("hf.co/O/R", transport=transport)
    assert len(endpoint.seen) == 1 and hub.list_models() == []


# The cache


def put_in_cache(root: Path, files: dict[str, bytes], repository: str = "O--R") -> Path:
    """As huggingface_hub lays it out: blobs by hash, links in a snapshot."""
    folder = root / f"models--{repository}"
    snapshot = folder / "snapshots" / COMMIT
    (folder / "blobs").mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(COMMIT)
    for name, data in files.items():
        blob = folder / "blobs" / digest(data)[7:]
        blob.write_bytes(data)
        link = snapshot / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    return snapshot


@pytest.fixture
def cache(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_HOME", str(home / "hf"))
    return home / "hf" / "hub"


def test_the_cache_is_read_in_place(cache: Path) -> None:
    snapshot = put_in_cache(cache, {"m.Q4_K_M.gguf": GGUF, "q/m-Q8_0-00001-of-00001.gguf": b"GGUF"})
    assert hub.resolve("hf.co/O/R") == snapshot / "m.Q4_K_M.gguf"
    assert hub.resolve("hf.co/o/r:q8_0") == snapshot / "q" / "m-Q8_0-00001-of-00001.gguf"
    assert hub.resolve("O/R:Q4_K_M") == snapshot / "m.Q4_K_M.gguf"
    listed = {(entry.name, entry.where, entry.size) for entry in hub.list_models()}
    assert listed == {
        ("hf.co/O/R:Q4_K_M", "huggingface", len(GGUF)),
        ("hf.co/O/R:Q8_0", "huggingface", 4),
    }
    with pytest.raises(NotFoundError):
        hub.resolve("hf.co/O/R:Q2_K")


def test_folder_models_in_the_cache_are_listed_when_they_are_llamas(cache: Path) -> None:
    llama = put_in_cache(cache, FOLDER)
    put_in_cache(cache, {**FOLDER, "config.json": b'{"model_type": "bert"}'}, "O--bert")
    put_in_cache(cache, {"README.md": b"data"}, "O--nothing")
    assert hub.resolve("hf.co/O/R") == llama
    assert [entry.name for entry in hub.list_models()] == ["hf.co/O/R:latest"]
    assert hub.info("hf.co/O/R").format == "safetensors"


def test_an_interrupted_download_of_another_tool_is_not_a_model(cache: Path) -> None:
    snapshot = put_in_cache(
        cache, {"m-00001-of-00002.gguf": b"GGUF1", "m-00002-of-00002.gguf": b"GGUF2"}
    )
    (snapshot / "m-00002-of-00002.gguf").resolve().unlink()
    with pytest.raises(NotFoundError):
        hub.resolve("hf.co/O/R")


def test_what_the_cache_holds_is_linked_not_fetched(
    endpoint: Server, transport: Transport, cache: Path
) -> None:
    endpoint.publish_huggingface("O/R", {"m.Q4_0.gguf": GGUF, "m.Q8_0.gguf": b"GGUF8" * 40})
    put_in_cache(cache, {"m.Q4_0.gguf": GGUF})
    path = hub.pull("hf.co/O/R:Q4_0", transport=transport)
    assert path.read_bytes() == GGUF
    assert endpoint.count(COMMIT_PATH + "m.Q4_0.gguf") == 0
