"""open_model: one face over three formats, and one clear line for what is wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from codellama.errors import ModelFileError, ModelTooLargeError, NotFoundError
from codellama.model.config import ModelConfig
from codellama.weights.gguf import LazyTensor, gguf_name, metadata_from_config, write_gguf
from codellama.weights.load import check_memory, open_model
from codellama.weights.model_file import ROPE_FACTORS
from codellama.weights.tensor import GGMLType
from tiny_checkpoints import (
    TINY,
    as_float32,
    random_weights,
    write_byte_level,
    write_hf,
    write_meta,
    write_sentencepiece,
)

VOCAB = 400
CONFIG = replace(TINY, vocab_size=VOCAB)


def gguf(path: Path, config: ModelConfig = CONFIG, **changes: object) -> Path:
    """A GGUF file of random weights; `changes` to tensors by Meta's name with __ for dots: an array
    to put there, or None to leave out.
    """
    arrays: dict[str, np.ndarray] = dict(random_weights(config))
    for key, value in changes.items():
        name = key.replace("__", ".")
        arrays.pop(name, None)
        if value is not None:
            arrays[name] = np.asarray(value, np.float32)

    def lazy(name: str, array: np.ndarray) -> LazyTensor:
        known = name in random_weights(config) or name == ROPE_FACTORS
        data = array.reshape(-1).view(np.uint8)
        own = gguf_name(name) if known else name
        return LazyTensor(own, array.shape, GGMLType.F32, lambda: [data])

    tensors = [lazy(name, array) for name, array in arrays.items()]
    write_gguf(path, metadata_from_config(config), tensors)
    return path


def test_the_same_model_in_three_formats(tmp_path: Path) -> None:
    weights = random_weights(CONFIG)
    meta = open_model(write_meta(tmp_path / "meta", weights, shards=2))
    plain = open_model(gguf(tmp_path / "m.gguf"))
    assert (meta.format, plain.format) == ("meta", "gguf")
    assert set(meta.names) == set(plain.names) == set(weights)
    assert replace(plain.config, name="x", norm_eps=1e-5) == replace(meta.config, name="x")
    for name in weights:
        a, b = meta.tensor(name), plain.tensor(name)
        assert a.name == b.name == name
        np.testing.assert_array_equal(as_float32(a), as_float32(b))
    n = CONFIG.n_parameters
    assert (meta.weight_bytes, plain.weight_bytes) == (2 * n, 4 * n)
    assert (meta.quantization, plain.quantization) == ("BF16", "F32")
    assert meta.largest_bytes == 2 * VOCAB * 64


def test_hugging_face_folders_open_by_any_of_their_names(tmp_path: Path) -> None:
    write_hf(tmp_path, CONFIG)
    for path in (tmp_path, str(tmp_path), tmp_path / "model.safetensors"):
        assert open_model(path).format == "safetensors"


def test_metadata(tmp_path: Path) -> None:
    write_hf(tmp_path, CONFIG, dtype="float16")
    write_byte_level(tmp_path, VOCAB)
    (tmp_path / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    model = open_model(tmp_path)
    assert model.license == "apache-2.0"
    assert model.chat_template == "{{ messages[0].content }}"
    assert model.metadata["general.architecture"] == "llama"
    assert open_model(gguf(tmp_path / "m.gguf")).license is None


@pytest.mark.weights
def test_the_embedded_model(smollm2_path: Path) -> None:
    model = open_model(smollm2_path)
    assert model.config.n_parameters == 134_515_008
    assert model.quantization == "Q4_1"
    assert model.license == "apache-2.0"
    assert model.chat_template is not None and "<|im_start|>" in model.chat_template
    assert model.tokenizer().vocab_size == 49_152
    with pytest.raises(ModelTooLargeError, match=r"needs .* is free"):
        check_memory(model, 8192, available=100_000_000)
    check_memory(model, 8192)


# Tokenizers


def meta_with(tokenizer: Callable[[Path], object], folder: Path) -> Path:
    write_meta(folder, random_weights(CONFIG))
    tokenizer(folder)
    return folder


def test_a_tokenizer_that_fits(tmp_path: Path) -> None:
    folder = meta_with(lambda f: write_sentencepiece(f, VOCAB), tmp_path / "a")
    assert open_model(folder).tokenizer().vocab_size == VOCAB
    assert open_model(folder).config.infills is False
    folder = meta_with(lambda f: write_sentencepiece(f, VOCAB, infills=True), tmp_path / "b")
    model = open_model(folder)
    assert model.config.infills is True and model.tokenizer().infill is not None


@pytest.mark.parametrize("size", [VOCAB - 16, VOCAB + 16])
def test_a_tokenizer_of_another_size(tmp_path: Path, size: int) -> None:
    model = open_model(meta_with(lambda f: write_sentencepiece(f, size), tmp_path / "m"))
    with pytest.raises(ModelFileError, match=rf"has {size} tokens, the embeddings have 400 rows"):
        model.tokenizer()


def test_padded_embeddings_are_usual_in_safetensors(tmp_path: Path) -> None:
    write_hf(tmp_path, CONFIG)
    write_byte_level(tmp_path, VOCAB - 5)
    assert open_model(tmp_path).tokenizer().vocab_size == VOCAB - 5
    write_byte_level(tmp_path, VOCAB + 1)
    with pytest.raises(ModelFileError, match="belongs to another model"):
        open_model(tmp_path).tokenizer()


def test_a_missing_tokenizer(tmp_path: Path) -> None:
    for model in (
        open_model(write_meta(tmp_path / "meta", random_weights(CONFIG))),
        open_model(gguf(tmp_path / "m.gguf")),
    ):
        with pytest.raises(ModelFileError, match=r"tokeni[sz]er|vocabulary") as caught:
            model.tokenizer()
        assert model.path.name in str(caught.value) and "\n" not in str(caught.value)


# Damage


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"norm__weight": None}, r"norm\.weight is missing"),
        ({"norm__weight": np.ones(63)}, "has the shape 63"),
        ({"blk__0__attn_q__bias": np.ones(64)}, r"blk\.0\.attn_q\.bias"),
        ({"v__enc__weight": np.ones(64)}, "which a Llama does not have"),
        ({"rope_freqs__weight": np.ones(3)}, "another length than half a head"),
    ],
)
def test_wrong_tensors_of_a_gguf(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(ModelFileError, match=message) as caught:
        open_model(gguf(tmp_path / "m.gguf", **changes))
    assert "m.gguf" in str(caught.value) and "\n" not in str(caught.value)


def test_rope_factors_are_the_one_extra_tensor(tmp_path: Path) -> None:
    model = open_model(gguf(tmp_path / "m.gguf", rope_freqs__weight=np.ones(4)))
    assert model.tensor(ROPE_FACTORS).shape == (4,)


def test_an_unknown_architecture_names_the_known(tmp_path: Path) -> None:
    metadata = {**metadata_from_config(CONFIG), "general.architecture": "gpt2"}
    write_gguf(tmp_path / "m.gguf", metadata, [])
    with pytest.raises(ModelFileError, match=r"m\.gguf.*'gpt2' is not supported; known: llama"):
        open_model(tmp_path / "m.gguf")
    write_hf(tmp_path / "hf", CONFIG)
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    config["architectures"] = ["MixtralForCausalLM"]
    (tmp_path / "hf" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelFileError, match="'MixtralForCausalLM' is not supported; known: Llama"):
        open_model(tmp_path / "hf")


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        open_model(tmp_path / "absent")
    shutil.copy(gguf(tmp_path / "m.gguf"), tmp_path / "sha256-0123")
    assert open_model(tmp_path / "sha256-0123").format == "gguf"


def test_the_name_of_a_mixture(tmp_path: Path) -> None:
    model = open_model(gguf(tmp_path / "m.gguf"))
    model.metadata["general.file_type"] = 15  # Q4_K_M, which these F32 tensors are not
    assert model.quantization == "F32"
