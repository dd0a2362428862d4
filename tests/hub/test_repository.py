"""Which files of a repository are taken, for the file lists that repositories really have."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codellama.errors import NotFoundError
from codellama.hub.repository import quantizations, select_files

GGUFS = [
    "README.md",
    "codellama-7b.Q2_K.gguf",
    "codellama-7b.Q4_0.gguf",
    "codellama-7b.Q4_K_M.gguf",
    "codellama-7b.Q8_0.gguf",
    "codellama-7b-f16.gguf",
    "mmproj-model-f16.gguf",
]
SPLIT = [f"BF16/big-BF16-0000{part}-of-00003.gguf" for part in (2, 1, 3)]
HF = [
    "README.md", "config.json", "generation_config.json", "model-00001-of-00002.safetensors",
    "model-00002-of-00002.safetensors", "model.safetensors.index.json", "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json", "special_tokens_map.json", "pytorch_model-00001-of-00003.bin",
    "LICENSE", "USE_POLICY.md",
    "original/consolidated.00.pth", ".gitattributes", "consolidated.safetensors",
]  # fmt: skip


@pytest.mark.parametrize(
    ("tag", "file"),
    [
        ("latest", "codellama-7b.Q4_K_M.gguf"),
        ("q4_k_m", "codellama-7b.Q4_K_M.gguf"),
        ("Q8_0", "codellama-7b.Q8_0.gguf"),
        ("F16", "codellama-7b-f16.gguf"),
        ("fp16", "codellama-7b-f16.gguf"),
        ("codellama-7b.Q2_K.gguf", "codellama-7b.Q2_K.gguf"),
        ("codellama-7b.q2_k", "codellama-7b.Q2_K.gguf"),
    ],
)
def test_a_quantization_is_chosen_as_ollama_does(tag: str, file: str) -> None:
    assert select_files(GGUFS, tag, "r").files == (file,)


def test_without_the_usual_default_something_sensible_is_chosen() -> None:
    assert select_files(["m.Q8_0.gguf", "m.Q2_K.gguf"], "latest", "r").files == ("m.Q8_0.gguf",)
    assert select_files(["odd-name.gguf"], "latest", "r").files == ("odd-name.gguf",)


def test_a_split_model_is_taken_in_order() -> None:
    assert select_files(SPLIT, "bf16", "r").files == tuple(sorted(SPLIT))


def test_an_incomplete_split_is_not_offered() -> None:
    assert quantizations(SPLIT[:2]) == {}
    with pytest.raises(NotFoundError):
        select_files(SPLIT[:2], "BF16", "r")


def test_an_unknown_quantization_lists_what_there_is() -> None:
    with pytest.raises(NotFoundError, match=r"no quantization 'Q3_X': it has F16, Q2_K, Q4_0"):
        select_files(GGUFS, "Q3_X", "r")


def test_a_safetensors_repository_is_taken_without_its_duplicates() -> None:
    chosen = select_files(HF, "latest", "r")
    assert chosen.format == "safetensors"
    assert set(chosen.files) == {
        "config.json", "generation_config.json", "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors", "model.safetensors.index.json", "tokenizer.json",
        "tokenizer.model",
        "tokenizer_config.json", "special_tokens_map.json", "LICENSE", "USE_POLICY.md",
    }  # fmt: skip


def test_weights_in_metas_names_are_taken_when_they_are_the_only_ones() -> None:
    files = [
        "params.json",
        "consolidated.00.pth",
        "consolidated.01.pth",
        "tokenizer.model",
        "x.bin",
    ]
    chosen = select_files(files, "latest", "r")
    assert chosen.format == "meta" and set(chosen.files) == set(files) - {"x.bin"}


@pytest.mark.parametrize(
    "files", [[], ["README.md"], ["pytorch_model.bin", "config.json"], ["x.safetensors"]]
)
def test_a_repository_without_a_model_says_what_was_looked_for(files: list[str]) -> None:
    with pytest.raises(NotFoundError, match="no GGUF"):
        select_files(files, "latest", "r")


_paths = st.lists(
    st.sampled_from(
        ["m", "Q4_0", "-", ".", "/", "-00001-of-00002", "-00002-of-00002", ".gguf", "config.json"]
    ),
    max_size=6,
).map("".join)


@given(st.lists(_paths | st.text(max_size=20), max_size=8), st.text(max_size=8) | st.just("latest"))
def test_any_list_gives_a_subset_of_itself_or_an_error(files: list[str], tag: str) -> None:
    try:
        chosen = select_files(files, tag, "r")
    except NotFoundError:
        return
    assert chosen.files and set(chosen.files) <= set(files)
