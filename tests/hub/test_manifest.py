"""Manifests: strict reading of hostile JSON, and our own read back as written."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codellama.hub.manifest import (
    MANIFEST_LIMIT,
    Layer,
    build_manifest,
    is_file_name,
    parse_digest,
    parse_manifest,
)
from hub.servers import CONFIG, LAYER

DIGEST = "sha256:" + "a" * 64
OTHER = "sha256:" + "b" * 64


def manifest(*layers: dict[str, Any], **more: Any) -> bytes:
    return json.dumps({"layers": list(layers), **more}).encode()


def entry(**changes: Any) -> dict[str, Any]:
    return {"mediaType": LAYER + "model", "digest": DIGEST, "size": 3, **changes}


def test_a_registry_manifest_is_read() -> None:
    raw = manifest(
        entry(),
        entry(mediaType=LAYER + "template", digest=OTHER, size=9),
        config={"mediaType": CONFIG, "digest": OTHER, "size": 9},
    )
    parsed = parse_manifest(raw)
    assert [layer.kind for layer in parsed.files] == ["model", "template", "config"]
    assert parsed.format == "gguf" and not parsed.is_folder
    assert parsed.size == 12  # the shared blob counts once


@pytest.mark.parametrize(
    "raw",
    [
        b"", b"{", b"[]", b"null", b"\xff", b"[" * 100_000, b'{"layers": []}', b'{"layers": {}}',
        b'{"layers": [1]}',
        manifest(entry(digest="sha256:../../x")),
        manifest(entry(digest="../../../etc/passwd")),
        manifest(entry(digest="sha256:" + "A" * 64)),
        manifest(entry(digest="md5:" + "a" * 32)),
        manifest(entry(digest=None)),
        manifest(entry(size=-1)),
        manifest(entry(size=True)),
        manifest(entry(size="3")),
        manifest(entry(size=1 << 60)),
        manifest(entry(size=1e300)),
        b'{"layers": [{"mediaType": "x", "digest": "%s", "size": %s}]}' % (DIGEST.encode(),
        b"9" * 5000),
        manifest(entry(mediaType="")),
        manifest(entry(mediaType="x" * 300)),
        manifest(entry(annotations={"org.opencontainers.image.title": "../up"})),
        manifest(entry(annotations={"org.opencontainers.image.title": "a/b"})),
        manifest(entry(annotations={"org.opencontainers.image.title": ".hidden"})),
        manifest(entry(), entry(digest=OTHER)),  # split, but nameless
        manifest(*[entry()] * 5000),
        b" " * (MANIFEST_LIMIT + 1),
    ],
)  # fmt: skip
def test_hostile_manifests_are_refused(raw: bytes) -> None:
    with pytest.raises(ValueError):
        parse_manifest(raw)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just(DIGEST),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["layers", "config", "mediaType", "digest", "size", "annotations", "x"]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)


@given(_json.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(raw: bytes) -> None:
    try:
        parsed = parse_manifest(raw)
    except ValueError:
        return
    for layer in parsed.files:
        assert parse_digest(layer.digest) and layer.size >= 0
        assert not layer.title or is_file_name(layer.title)


_layers = st.builds(
    Layer,
    st.sampled_from(["model", "template", "params", "file", "application/x-other"]),
    st.binary(min_size=32, max_size=32).map(lambda b: f"sha256:{b.hex()}"),
    st.integers(0, 1 << 40),
    st.uuids().map(lambda u: f"{u}.gguf"),
)


@given(st.lists(_layers, min_size=1, max_size=6), st.dictionaries(st.text(), st.text(), max_size=3))
def test_what_is_built_is_read_back(layers: list[Layer], annotations: dict[str, str]) -> None:
    config = Layer("config", DIGEST, 2)
    parsed = parse_manifest(build_manifest(layers, config, annotations))
    assert parsed.layers == tuple(layers) and parsed.config == config
    assert parsed.annotations == annotations


@given(st.text(max_size=20))
def test_a_file_name_is_one_plain_component(text: str) -> None:
    if is_file_name(text):
        assert text not in (".", "..") and not set(text) & set('/\\\0:*?"<>|\n')
