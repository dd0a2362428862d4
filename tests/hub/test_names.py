"""Names: what is accepted, what it means, and that nothing accepted can leave the store."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codellama.errors import RequestError
from codellama.hub.catalogue import EMBEDDED, canonical, embedded, equivalents, known_names, near
from codellama.hub.layout import Layout
from codellama.hub.names import looks_like_path, parse_name


@pytest.mark.parametrize(
    ("text", "full"),
    [
        ("codellama", "registry.ollama.ai/library/codellama:latest"),
        ("codellama:7b-instruct-q4_K_M", "registry.ollama.ai/library/codellama:7b-instruct-q4_K_M"),
        ("me/model", "registry.ollama.ai/me/model:latest"),
        ("localhost:5000/me/model:x", "localhost:5000/me/model:x"),
        ("hf.co/TheBloke/CodeLlama-7B-GGUF:Q4_K_M", "hf.co/TheBloke/CodeLlama-7B-GGUF:Q4_K_M"),
        ("huggingface.co/a/b.c", "hf.co/a/b.c:latest"),
        ("https://huggingface.co/a/b", "hf.co/a/b:latest"),
        ("HF.CO/a/b", "hf.co/a/b:latest"),
    ],
)
def test_names_are_completed(text: str, full: str) -> None:
    name = parse_name(text)
    assert f"{name.host}/{name.namespace}/{name.model}:{name.tag}" == full
    assert parse_name(str(name)) == name


@pytest.mark.parametrize(
    "text",
    [
        "", "a" * 600, "..", "../x", "a/../b", "a:..", "a..b", ".hidden", "-x", "a:", ":a",
        "a:b:c", "a\0b", "a\nb",
        "a b", "a/b/c/d", "/etc/passwd", "a//b", "é", "a\\b", "C:\\x", "a?b", "a%2fb",
        "hf.co/only", "x@sha256:00",
        "host:port/a/b", "a" * 97,
    ],
)  # fmt: skip
def test_hostile_names_are_refused(text: str) -> None:
    with pytest.raises(RequestError):
        parse_name(text)


_pieces = st.sampled_from(
    ["..", ".", "/", ":", "\\", "a", "B7", "hf.co", "-", "_", "\0", "%", "~", "é", "a.b", "con"]
)


@given(st.one_of(st.text(max_size=60), st.lists(_pieces, max_size=12).map("".join)))
def test_no_name_leaves_the_store(text: str) -> None:
    try:
        name = parse_name(text)
    except RequestError:
        return
    root = Path("/somewhere/models")
    path = Layout(root, "store").manifest_path(name)
    inside = path.relative_to(root / "manifests")
    assert len(inside.parts) == 4
    assert not any(
        part in ("", ".", "..") or set(part) & set('/\\\0:*?"<>|') for part in inside.parts
    )
    assert parse_name(str(name)) == name


@pytest.mark.parametrize(
    "text", ["./a", "/a", "~/a", "../a", "a\\b", "C:/x", "m.gguf", "M.GGUF", "."]
)
def test_paths_are_told_from_names(text: str) -> None:
    assert looks_like_path(text)


@pytest.mark.parametrize("text", [*known_names(), "hf.co/a/b-GGUF:m.gguf", "me/model.v2"])
def test_names_are_told_from_paths(text: str) -> None:
    assert not looks_like_path(text)


def test_codellama_alone_is_the_7b_instruct_model_as_in_ollama() -> None:
    same = {str(name) for name in equivalents(parse_name("codellama"))}
    assert {"codellama:7b", "codellama:7b-instruct", "codellama:7b-instruct-q4_0"} <= same
    assert "codellama:7b-code" not in same
    assert "codellama:7b-code-q4_0" in {str(n) for n in equivalents(parse_name("codellama:code"))}
    assert equivalents(parse_name("me/codellama")) == ()


@given(st.sampled_from(known_names()))
def test_sameness_of_names_is_symmetric(text: str) -> None:
    name = parse_name(text)
    for other in equivalents(name):
        assert name.key in {back.key for back in equivalents(other)}


def test_the_catalogue_spells_quantizations_as_the_registry_does() -> None:
    assert (
        str(canonical(parse_name("CodeLlama:7B-Instruct-Q4_k_m"))) == "codellama:7b-instruct-q4_K_M"
    )
    assert canonical(parse_name("mistral")) is None
    assert canonical(parse_name("hf.co/library/codellama")) is None


def test_the_embedded_default_is_known_by_one_name() -> None:
    assert embedded(parse_name("SmolLM2:135M")) is EMBEDDED
    assert embedded(parse_name("smollm2")) is None
    assert embedded(parse_name("hf.co/library/smollm2:135m")) is None


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("codelama:7b", "codellama:7b"),
        ("codellama-7b", "codellama:7b"),
        ("code-llama", "codellama"),
        ("codellama:13b-instrct", "codellama:13b-instruct"),
        ("codellama:7b-code-q4_k_n", "codellama:7b-code-q4_K_M"),
        ("smollm2", "smollm2:135m"),
        ("mymodle:latest", "mymodel:latest"),
    ],
)
def test_near_names_are_offered(typed: str, meant: str) -> None:
    assert meant in near(typed, ["mymodel:latest"])


def test_nothing_is_offered_for_what_resembles_nothing() -> None:
    assert near("zzzzzz") == []
