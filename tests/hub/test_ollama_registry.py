"""Pulling by Ollama's protocol, end to end against a registry on this machine."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from codellama import hub
from codellama.errors import DownloadError, NotFoundError
from codellama.hub import names
from codellama.hub.store import Store
from codellama.hub.transport import Transport
from hub.servers import LAYER, Fault, Server, digest, serving

GGUF = b"GGUF" + bytes(5000)
TEMPLATE = b"{{- if .Suffix }}<PRE> {{ .Prompt }} <SUF>{{ .Suffix }} <MID>{{- end }}"
LAYERS = {
    "model": GGUF,
    "template": TEMPLATE,
    "params": b'{"stop": ["<EOT>"]}',
    "license": b"LLAMA 2",
}


@pytest.fixture
def name(server: Server) -> str:
    server.publish_ollama("library/m", LAYERS, "7b")
    return f"{server.host}/library/m:7b"


def test_a_model_is_pulled_whole_with_all_its_layers(
    server: Server, transport: Transport, store: Store, name: str
) -> None:
    steps: list[tuple[int, int, str]] = []
    path = hub.pull(name, lambda *step: steps.append(step), transport=transport)
    assert path.read_bytes() == GGUF
    assert path == hub.resolve(name) == store.blob(digest(GGUF))
    info = hub.info(name)
    assert info.texts == {
        "template": (TEMPLATE.decode(),),
        "params": ('{"stop": ["<EOT>"]}',),
        "license": ("LLAMA 2",),
    }
    assert info.config == {"model_family": "llama"} and info.format == "gguf"
    assert info.digest == digest(server.resources["/v2/library/m/manifests/7b"].data)
    labels = [label for _, _, label in steps]
    assert labels[0] == "pulling manifest" and labels[-1] == "writing manifest"
    model_steps = [step for step in steps if getattr(step[2], "digest", "") == digest(GGUF)]
    assert model_steps[-1] == (len(GGUF), len(GGUF), f"pulling {digest(GGUF)[7:19]}")


def test_pulling_again_fetches_the_manifest_alone(
    server: Server, transport: Transport, name: str
) -> None:
    hub.pull(name, transport=transport)
    server.seen.clear()
    hub.pull(name, transport=transport)
    assert [seen.path for seen in server.seen] == ["/v2/library/m/manifests/7b"]


def test_a_new_version_replaces_the_old_and_its_files(
    server: Server, transport: Transport, store: Store, name: str
) -> None:
    old = hub.pull(name, transport=transport)
    server.publish_ollama("library/m", {**LAYERS, "model": b"GGUF new"}, "7b")
    assert hub.pull(name, transport=transport).read_bytes() == b"GGUF new"
    assert not old.exists()
    assert hub.info(name).texts["license"] == ("LLAMA 2",)


def test_a_model_is_not_there_until_it_is_whole(
    server: Server, transport: Transport, name: str
) -> None:
    blob = server.resources[f"/v2/library/m/blobs/{digest(GGUF)}"]
    blob.plan = [Fault("cut", 1000)] + [Fault("status", 500)] * 3
    with pytest.raises(DownloadError):
        hub.pull(name, transport=transport)
    with pytest.raises(NotFoundError):
        hub.resolve(name)
    assert hub.list_models() == []
    assert hub.pull(name, transport=transport).read_bytes() == GGUF
    assert "bytes=1000-" in [seen.headers.get("Range") for seen in server.seen]


def test_a_registry_that_wants_a_token_and_redirects_its_blobs(
    server: Server, transport: Transport, name: str
) -> None:
    with serving() as network:
        network.add("/signed", GGUF)
        for path, resource in server.resources.items():
            resource.token = "t0k"
            if path.endswith(digest(GGUF)):
                resource.redirect = f"{network.url}/signed?sig=1"
        server.add("/token", b'{"token": "t0k"}')
        assert hub.pull(name, transport=transport).read_bytes() == GGUF
        assert "Authorization" not in network.seen[0].headers
    assert server.count("/token?service=models&scope=repository%3Alibrary%2Fm%3Apull") == 1


def test_corrupted_bytes_change_nothing(
    server: Server, transport: Transport, store: Store, name: str
) -> None:
    server.resources[f"/v2/library/m/blobs/{digest(GGUF)}"].plan = [Fault("corrupt", 9)]
    with pytest.raises(DownloadError, match="not those promised"):
        hub.pull(name, transport=transport)
    assert hub.list_models() == [] and not list(store.root.glob("blobs/*.partial"))


def test_an_unknown_model_of_the_default_registry_is_answered_with_near_names(
    server: Server, transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(names, "DEFAULT_HOST", server.host)
    with pytest.raises(NotFoundError, match=r"codelama:7b'. Did you mean codellama:7b"):
        hub.pull("codelama:7b", transport=transport)
    with pytest.raises(NotFoundError, match=r"is written hf.co/codellama/CodeLlama-7b-hf"):
        hub.pull("codellama/CodeLlama-7b-hf", transport=transport)


def test_catalogue_names_are_asked_for_as_the_registry_spells_them(
    server: Server, transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(names, "DEFAULT_HOST", server.host)
    server.publish_ollama("library/codellama", LAYERS, "7b-code-q4_K_M")
    hub.pull("CodeLlama:7b-code-q4_k_m", transport=transport)
    assert server.seen[0].path == "/v2/library/codellama/manifests/7b-code-q4_K_M"


@pytest.mark.parametrize(
    "manifest",
    [
        b"not json",
        json.dumps(
            {"layers": [{"mediaType": LAYER + "model", "digest": "sha256:../../x", "size": 1}]}
        ).encode(),
        json.dumps(
            {"layers": [{"mediaType": LAYER + "tensor", "digest": digest(b""), "size": 0}]}
        ).encode(),
        b"[" * 5_000_000,
    ],
)
def test_hostile_manifests_fetch_nothing(
    server: Server, transport: Transport, store: Store, name: str, manifest: bytes
) -> None:
    server.add("/v2/library/m/manifests/7b", manifest)
    with pytest.raises(DownloadError):
        hub.pull(name, transport=transport)
    assert len(server.seen) == 1 and hub.list_models() == []


@pytest.mark.parametrize("status", [401, 403])
def test_a_private_model_says_how_to_get_it(
    server: Server, transport: Transport, name: str, status: int
) -> None:
    server.resources["/v2/library/m/manifests/7b"].plan = [Fault("status", status)]
    with pytest.raises(DownloadError, match="ollama signin"):
        hub.pull(name, transport=transport)


def test_a_blob_that_the_registry_lost_is_named(
    server: Server, transport: Transport, name: str
) -> None:
    del server.resources[f"/v2/library/m/blobs/{digest(GGUF)}"]
    with pytest.raises(DownloadError, match=f"404 for the file {digest(GGUF)[:19]}"):
        hub.pull(name, transport=transport)


def test_blobs_that_ollama_has_are_linked_not_fetched(
    server: Server, transport: Transport, home: Path, name: str
) -> None:
    theirs = home / "ollama" / "blobs" / digest(GGUF).replace(":", "-")
    theirs.parent.mkdir(parents=True)
    theirs.write_bytes(GGUF)
    path = hub.pull(name, transport=transport)
    assert server.count(f"/v2/library/m/blobs/{digest(GGUF)}") == 0
    assert os.path.samefile(path, theirs)


def test_a_damaged_blob_of_ollama_is_not_taken(
    server: Server, transport: Transport, home: Path, name: str
) -> None:
    theirs = home / "ollama" / "blobs" / digest(GGUF).replace(":", "-")
    theirs.parent.mkdir(parents=True)
    theirs.write_bytes(bytes(len(GGUF)))
    assert hub.pull(name, transport=transport).read_bytes() == GGUF


def test_resolve_pulls_only_when_told_to(server: Server, name: str) -> None:
    with pytest.raises(NotFoundError, match=f"`codellama pull {name}`"):
        hub.resolve(name)
    assert not server.seen
    assert hub.resolve(name, pull=True).read_bytes() == GGUF
    server.seen.clear()
    assert hub.resolve(name, pull=True).read_bytes() == GGUF
    assert not server.seen
