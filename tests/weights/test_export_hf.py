"""Hugging Face folders that we write: transformers loads them and gets the same model and ids."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

from codellama.errors import ModelFileError, RequestError
from codellama.model.tokenizer import tokenizer_from_gguf
from codellama.weights.blocks import dequantize
from codellama.weights.export import export_gguf, export_hf, quantize_model
from codellama.weights.export_tokenizer import hf_library
from codellama.weights.gguf import read_gguf
from codellama.weights.huggingface import INDEX
from codellama.weights.load import open_model
from tiny_checkpoints import (
    CODE_LLAMA_PIECES,
    TINY,
    random_weights,
    write_byte_level,
    write_hf,
    write_meta,
    write_sentencepiece,
)

VOCAB = 400
CONFIG = replace(TINY, vocab_size=VOCAB, n_kv_heads=2)
TEXTS = [
    "def fib(n):\n    return n if n < 2 else fib(n - 1) + fib(n - 2)",
    "  leading spaces, trailing  ",
    "tabs\tand 12345 digits\r\n\n\n",
    "naïve 日本語 🦙 \x00\x7f",
    "x",
]


def load(folder: Path) -> Any:
    from transformers import LlamaForCausalLM

    model, info = LlamaForCausalLM.from_pretrained(
        folder, dtype="auto", output_loading_info=True, local_files_only=True
    )
    assert not info["missing_keys"] and not info["unexpected_keys"], info
    return model.eval()


@pytest.mark.parametrize("tied", [False, True])
def test_transformers_loads_the_same_model(tmp_path: Path, tied: bool) -> None:
    original = write_hf(tmp_path / "hf", replace(CONFIG, tied=tied))
    write_byte_level(tmp_path / "hf", VOCAB)
    export_gguf(open_model(tmp_path / "hf"), tmp_path / "m.gguf")
    export_hf(open_model(tmp_path / "m.gguf"), tmp_path / "out", shard_bytes=200_000)
    again = load(tmp_path / "out")
    assert again.dtype == torch.float32
    tokens = torch.tensor([[1, 5, 300, 7, 42]])
    with torch.no_grad():
        torch.testing.assert_close(again(tokens).logits, original(tokens).logits, rtol=0, atol=0)


def test_shards_and_their_index(tmp_path: Path) -> None:
    write_sentencepiece(write_meta(tmp_path / "meta", random_weights(CONFIG), params=PARAMS), VOCAB)
    export_hf(open_model(tmp_path / "meta"), tmp_path / "out", shard_bytes=50_000)
    files = sorted(path.name for path in (tmp_path / "out").glob("*.safetensors"))
    assert files[0] == f"model-00001-of-{len(files):05d}.safetensors" and len(files) > 3
    index = json.loads((tmp_path / "out" / INDEX).read_text())
    assert set(index["weight_map"].values()) == set(files)
    total = 0
    for name in files:
        assert (tmp_path / "out" / name).stat().st_size < 60_000
        with safe_open(tmp_path / "out" / name, framework="pt") as file:
            assert file.metadata() == {"format": "pt"}
            for key in file.keys():  # noqa: SIM118 (no mapping)
                assert index["weight_map"][key] == name
                total += file.get_tensor(key).nbytes
    assert index["metadata"]["total_size"] == total == 2 * CONFIG.n_parameters


PARAMS = {
    "dim": 64, "n_layers": 2, "n_heads": 8, "n_kv_heads": 2, "multiple_of": 256,
    "norm_eps": 1e-5, "rope_theta": 1e6,
}  # fmt: skip


def test_configs(tmp_path: Path) -> None:
    write_meta(tmp_path / "meta", random_weights(CONFIG), params=PARAMS)
    write_sentencepiece(tmp_path / "meta", VOCAB, infills=True)
    (tmp_path / "meta" / "LICENSE").write_text("Llama 2 Community License Agreement")
    export_gguf(open_model(tmp_path / "meta"), tmp_path / "m.gguf")
    export_hf(open_model(tmp_path / "m.gguf"), tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["rms_norm_eps"] == 1e-5  # not float32's 9.999999747378752e-06
    assert config["torch_dtype"] == "bfloat16"
    assert config["num_key_value_heads"] == 2 and config["rope_theta"] == 1e6
    assert open_model(tmp_path / "out").license == "llama2"
    generation = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert generation == {"bos_token_id": 1, "eos_token_id": [2, VOCAB - 6]}  # </s>, ▁<EOT>
    load(tmp_path / "out")


# Quantized sources and dtypes


def test_quantized_weights_become_half_precision(tmp_path: Path) -> None:
    write_sentencepiece(write_meta(tmp_path / "meta", random_weights(CONFIG), params=PARAMS), VOCAB)
    quantize_model(open_model(tmp_path / "meta"), tmp_path / "m.gguf", "Q4_0")
    source = open_model(tmp_path / "m.gguf")
    export_hf(source, tmp_path / "half")
    export_hf(source, tmp_path / "full", dtype="f32")
    half, full = open_model(tmp_path / "half"), open_model(tmp_path / "full")
    assert (half.quantization, full.quantization) == ("F16", "F32")
    for name in source.names:
        exact = dequantize(source.tensor(name))
        np.testing.assert_array_equal(dequantize(full.tensor(name)), exact)
        np.testing.assert_allclose(dequantize(half.tensor(name)), exact, rtol=2**-10, atol=2**-24)


def test_norms_that_half_precision_cannot_hold_stay_exact(tmp_path: Path) -> None:
    weights = random_weights(CONFIG)
    weights["norm.weight"][0] = np.float32(1 + 2**-20)
    folder = write_meta(tmp_path / "meta", weights, params=PARAMS, dtype=torch.float32)
    write_sentencepiece(folder, VOCAB)
    export_gguf(open_model(folder), tmp_path / "m.gguf", "F16")
    export_hf(open_model(tmp_path / "m.gguf"), tmp_path / "out")
    again = open_model(tmp_path / "out")
    assert again.layout("norm.weight").type.name == "F32"
    assert again.layout("layers.0.ffn_norm.weight").type.name == "F16"
    np.testing.assert_array_equal(dequantize(again.tensor("norm.weight")), weights["norm.weight"])


def test_refusals(tmp_path: Path) -> None:
    model = open_model(write_meta(tmp_path / "meta", random_weights(CONFIG), params=PARAMS))
    with pytest.raises(RequestError, match="known: F32, F16, BF16"):
        export_hf(model, tmp_path / "out", dtype="Q4_0")
    with pytest.raises(ModelFileError, match=r"tokenizer\.model"):
        export_hf(model, tmp_path / "out")
    with pytest.raises(ModelFileError, match="already exists"):
        export_hf(model, tmp_path / "meta")
    assert [path.name for path in tmp_path.iterdir()] == ["meta"]


# Tokenizers


def same_ids(folder: Path, ours: Any, *, add_bos: bool) -> None:
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    for text in TEXTS:
        expected = ours.encode(text)
        assert theirs.encode(text, add_special_tokens=False) == expected, text
        assert theirs.decode(expected) == text or not add_bos
        if add_bos:
            assert theirs.encode(text) == [ours.bos_id, *expected]
    assert theirs.bos_token_id == ours.bos_id and theirs.eos_token_id == ours.eos_id


@pytest.mark.parametrize("infills", [False, True])
@pytest.mark.parametrize("through_gguf", [False, True])
def test_sentencepiece_gives_the_same_ids(
    tmp_path: Path, infills: bool, through_gguf: bool
) -> None:
    write_meta(tmp_path / "meta", random_weights(CONFIG), params=PARAMS)
    write_sentencepiece(tmp_path / "meta", VOCAB, infills=infills)
    model = open_model(tmp_path / "meta")
    ours = model.tokenizer()
    if through_gguf:
        export_gguf(model, tmp_path / "m.gguf")
        model = open_model(tmp_path / "m.gguf")
    export_hf(model, tmp_path / "out")
    same_ids(tmp_path / "out", ours, add_bos=True)
    again = open_model(tmp_path / "out").tokenizer()
    assert [again.encode(text) for text in TEXTS] == [ours.encode(text) for text in TEXTS]
    assert again.infill == ours.infill
    if infills:
        from transformers import AutoTokenizer

        theirs = AutoTokenizer.from_pretrained(tmp_path / "out", local_files_only=True)
        assert theirs.encode("▁<MID>", add_special_tokens=False) == [VOCAB - 7]
        assert theirs.decode([VOCAB - 6], skip_special_tokens=True) == ""


@pytest.mark.parametrize("through_gguf", [False, True])
def test_byte_level_gives_the_same_ids(tmp_path: Path, through_gguf: bool) -> None:
    write_hf(tmp_path / "hf", CONFIG)
    write_byte_level(tmp_path / "hf", VOCAB)
    model = open_model(tmp_path / "hf")
    ours = model.tokenizer()
    if through_gguf:
        export_gguf(model, tmp_path / "m.gguf")
        model = open_model(tmp_path / "m.gguf")
    export_hf(model, tmp_path / "out")
    same_ids(tmp_path / "out", ours, add_bos=False)
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(tmp_path / "out", local_files_only=True)
    assert theirs.encode("<|im_start|>") == [1]
    assert theirs.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False) == "hi"


def test_code_llamas_own_vocabulary(shared_data: Path) -> None:
    """llama.cpp's vectors, and the published ids of an infilling prompt typed as text."""
    vectors = shared_data / "llama_tokenizer_vectors"
    metadata = dict(read_gguf(vectors / "ggml-vocab-llama-spm.gguf").metadata)
    metadata["tokenizer.ggml.tokens"] = [*metadata["tokenizer.ggml.tokens"], *CODE_LLAMA_PIECES]
    scores = [*metadata["tokenizer.ggml.scores"], *(-31741.0 - i for i in range(16))]
    types = [*metadata["tokenizer.ggml.token_type"], *[1] * 16]
    metadata |= {"tokenizer.ggml.scores": scores, "tokenizer.ggml.token_type": types}
    library = hf_library(tokenizer_from_gguf(metadata), types)

    texts = (vectors / "ggml-vocab-llama-spm.gguf.inp").read_text().split("\n__ggml_vocab_test__\n")
    ids = (vectors / "ggml-vocab-llama-spm.gguf.out").read_text().split("\n")
    assert len(texts) > 40
    for text, expected in zip(texts, ids, strict=False):
        assert library.encode(text, add_special_tokens=False).ids == [
            int(i) for i in expected.split()
        ]

    vector = json.loads((vectors / "codellama_infilling_vector.json").read_text())
    typed = f"<PRE> {vector['prefix']} <SUF>{vector['suffix']} <MID>"
    assert library.encode(typed).ids == vector["ids"]
