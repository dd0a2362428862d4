"""Hugging Face folders as transformers writes them; wq and wk in Meta's order; clear refusals."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from codellama.errors import ModelFileError
from codellama.model.config import RopeScaling
from codellama.weights.checkpoint import hf_name, meta_name, permute_rows
from codellama.weights.huggingface import INDEX, HuggingFaceFolder
from codellama.weights.huggingface_config import config_from_hf, hf_from_config
from codellama.weights.tensor import GGMLType
from tiny_checkpoints import TINY, as_float32, write_hf

GQA = replace(TINY, n_kv_heads=2)


def named(folder: Path, **changes: Any) -> Any:
    return replace(GQA, name=folder.name, **changes)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_reads_what_transformers_saves(tmp_path: Path, dtype: str, tied: bool) -> None:
    model = write_hf(tmp_path, replace(GQA, tied=tied), dtype=dtype)
    opened = HuggingFaceFolder(tmp_path)
    assert opened.config == named(tmp_path, tied=tied)
    state = model.state_dict()
    assert len(opened.layouts) == len(state) - tied
    for name in opened.layouts:
        tensor = opened.tensor(name)
        expected = state[hf_name(name)].float().numpy()
        if name.endswith(("wq.weight", "wk.weight")):
            heads = 8 if "wq" in name else 2
            # meta[2i + j] = hf[i + j * H/2] in each head
            expected = expected.reshape(heads, 2, 4, 64).transpose(0, 2, 1, 3).reshape(-1, 64)
        np.testing.assert_array_equal(as_float32(tensor), expected, err_msg=name)


def test_the_permutation_gives_the_same_attention_scores(tmp_path: Path) -> None:
    """Interleaved RoPE on our wq and wk equals transformers' half-split RoPE on its own."""
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

    model = write_hf(tmp_path, GQA)
    opened = HuggingFaceFolder(tmp_path)
    attention = model.model.layers[0].self_attn
    x_TD = torch.randn(5, 64)
    with torch.no_grad():
        q = attention.q_proj(x_TD).view(1, 5, 8, 8).transpose(1, 2)
        k = attention.k_proj(x_TD).view(1, 5, 2, 8).transpose(1, 2)
        cos, sin = LlamaRotaryEmbedding(model.config)(x_TD[None], torch.arange(5)[None])
        q, k = apply_rotary_pos_emb(q, k, cos, sin)
        theirs = (q @ k.repeat_interleave(4, dim=1).transpose(2, 3))[0].numpy()

    def rotated(name: str, heads: int) -> np.ndarray:
        w = as_float32(opened.tensor(f"layers.0.attention.{name}.weight"))
        pairs = (x_TD.numpy() @ w.T).reshape(5, heads, 4, 2)
        angles = np.arange(5)[:, None] * 1e6 ** (-np.arange(4) / 4)
        turned = (pairs[..., 0] + 1j * pairs[..., 1]) * np.exp(1j * angles)[:, None]
        return turned.transpose(1, 0, 2)

    q_c, k_c = rotated("wq", 8), rotated("wk", 2).repeat(4, axis=0)
    ours = (q_c @ k_c.conj().transpose(0, 2, 1)).real
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


@given(st.sampled_from([1, 2, 4]), st.integers(1, 4), st.integers(1, 5))
def test_permuting_there_and_back_changes_nothing(heads: int, half: int, width: int) -> None:
    rows = heads * half * 2
    data = np.arange(rows * width, dtype=np.uint8)
    there = permute_rows(data, rows, heads, to="hf")
    np.testing.assert_array_equal(permute_rows(there, rows, heads, to="meta"), data)


def test_names_go_there_and_back() -> None:
    for name in ("tok_embeddings.weight", "layers.79.feed_forward.w2.weight", "norm.weight"):
        assert meta_name(hf_name(name)) == name
    assert meta_name("model.layers.01.self_attn.q_proj.weight") is None
    assert meta_name("model.layers.0.self_attn.q_proj.bias") is None


def test_sharded_folders_and_stray_buffers(tmp_path: Path) -> None:
    model = write_hf(tmp_path, GQA, max_shard_size="100kB")
    index = json.loads((tmp_path / INDEX).read_text())
    assert len(set(index["weight_map"].values())) > 1
    shard = index["weight_map"]["model.norm.weight"]
    state = load_file(tmp_path / shard)
    stray = "model.layers.0.self_attn.rotary_emb.inv_freq"
    save_file({**state, stray: torch.ones(4)}, tmp_path / shard)
    index["weight_map"][stray] = shard
    (tmp_path / INDEX).write_text(json.dumps(index))
    opened = HuggingFaceFolder(tmp_path)
    assert len(opened.layouts) == len(model.state_dict())


def edit_index(folder: Path, **entries: str) -> None:
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"] |= {name.replace("__", "."): file for name, file in entries.items()}
    (folder / INDEX).write_text(json.dumps(index))


@pytest.mark.parametrize(
    "target",
    ["../outside.safetensors", "/etc/passwd", "a/b.safetensors", "model.bin", "..", "", "a\0b"],
)
def test_an_index_stays_in_its_folder(tmp_path: Path, target: str) -> None:
    folder = tmp_path / "model"
    write_hf(folder, GQA, max_shard_size="100kB")
    save_file({"model.norm.weight": torch.ones(64)}, tmp_path / "outside.safetensors")
    edit_index(folder, model__norm__weight=target)
    with pytest.raises(ModelFileError, match=r"no \.safetensors file of its folder"):
        HuggingFaceFolder(folder)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    write_hf(tmp_path, GQA, max_shard_size="100kB")
    edit_index(tmp_path, model__norm__weight="model-00099-of-00099.safetensors")
    with pytest.raises(ModelFileError, match=r"shard model-00099-of-00099\.safetensors is missing"):
        HuggingFaceFolder(tmp_path)


def test_a_tensor_that_its_shard_lacks_is_named(tmp_path: Path) -> None:
    write_hf(tmp_path, GQA, max_shard_size="100kB")
    files = sorted(set(json.loads((tmp_path / INDEX).read_text())["weight_map"].values()))
    edit_index(tmp_path, model__norm__weight=files[0])
    with pytest.raises(ModelFileError, match=r"'model\.norm\.weight' is missing in it"):
        HuggingFaceFolder(tmp_path)


def test_shards_without_an_index(tmp_path: Path) -> None:
    write_hf(tmp_path, GQA, max_shard_size="100kB")
    (tmp_path / INDEX).unlink()
    with pytest.raises(ModelFileError, match=INDEX):
        HuggingFaceFolder(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.norm.weight": None}, r"norm\.weight is missing"),
        ({"model.norm.weight": torch.ones(63)}, "has the shape 63"),
        ({"model.norm.weight": torch.ones(64, dtype=torch.int8)}, "stored as I8"),
        ({"model.layers.0.self_attn.q_proj.bias": torch.ones(64)}, "which a Llama does not have"),
        ({"base_model.model.lora_A.weight": torch.ones(64)}, "this adapter"),
        ({"model.embed_tokens.weight": torch.ones(95, 64)}, "vocabulary size"),
    ],
)
def test_wrong_tensors_get_one_clear_line(
    tmp_path: Path, changes: dict[str, torch.Tensor | None], message: str
) -> None:
    write_hf(tmp_path, GQA)
    state = load_file(tmp_path / "model.safetensors")
    changed = {n: t for n, t in {**state, **changes}.items() if t is not None}
    save_file(changed, tmp_path / "model.safetensors")
    with pytest.raises(ModelFileError, match=message):
        HuggingFaceFolder(tmp_path)


# config.json

OLD = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 4096,
    "intermediate_size": 11008, "num_attention_heads": 32, "num_hidden_layers": 32,
    "vocab_size": 32016, "rms_norm_eps": 1e-5, "max_position_embeddings": 16384,
    "rope_theta": 1000000, "rope_scaling": None, "hidden_act": "silu",
}  # fmt: skip
PATH = Path("model/config.json")


def test_a_config_of_version_4() -> None:
    config = config_from_hf(OLD, PATH, infills=True)
    assert config.n_parameters == 6_738_546_688
    assert (config.n_kv_heads, config.head_dim, config.rope_theta) == (32, 128, 1e6)
    assert config.infills and not config.tied


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_scaling": {"type": "linear", "factor": 4.0}, "rope_theta": 5e5},
        {"rope_scaling": {"rope_type": "linear", "factor": 4}, "rope_theta": 5e5},
        {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 5e5}},
    ],
)
def test_linear_scaling_in_every_spelling(rope: dict[str, Any]) -> None:
    document = {k: v for k, v in OLD.items() if not k.startswith("rope")} | rope
    config = config_from_hf(document, PATH, infills=False)
    assert config.rope_theta == 5e5
    assert config.rope_scaling == RopeScaling(kind="linear", factor=4.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": ["GPT2LMHead"]}, "'GPT2LMHead' is not supported; known: LlamaFor"),
        ({"architectures": None, "model_type": "gpt2"}, "'gpt2' is not supported"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "'llama3' is not supported"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "'dynamic' is not supported"),
        ({"rope_scaling": {"type": "linear"}}, "factor is missing"),
        ({"attention_bias": True}, "attention_bias"),
        ({"hidden_act": "gelu"}, "only silu"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantized by gptq"),
        ({"hidden_size": None}, "hidden_size is missing"),
        ({"hidden_size": 4096.0}, "hidden_size must be a whole number"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers"),
        ({"num_key_value_heads": 5}, "cannot share"),
        ({"rope_theta": 0}, "rope_theta must be a positive number"),
        ({"rms_norm_eps": "1e-5"}, "rms_norm_eps must be a positive number"),
    ],
)  # fmt: skip
def test_what_we_do_not_compute_is_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelFileError, match=message):
        config_from_hf({**OLD, **changes}, PATH, infills=False)


@pytest.mark.parametrize("scaling", [RopeScaling(), RopeScaling(kind="linear", factor=2.0)])
def test_configs_go_there_and_back(scaling: RopeScaling) -> None:
    config = replace(GQA, name="model", rope_scaling=scaling, tied=True)
    document = hf_from_config(config, dtype="float16", bos_id=1, eos_ids=[2, 5])
    assert config_from_hf(json.loads(json.dumps(document)), PATH, infills=False) == config


def test_side_files_give_license_and_template(tmp_path: Path) -> None:
    write_hf(tmp_path, GQA)
    (tmp_path / "README.md").write_text(
        "---\nlanguage: en\nlicense: apache-2.0\n---\n# license: x\n"
    )
    template = [{"name": "rag", "template": "R"}, {"name": "default", "template": "D"}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    metadata = HuggingFaceFolder(tmp_path).metadata
    assert metadata["general.license"] == "apache-2.0"
    assert metadata["tokenizer.chat_template"] == "D"
    (tmp_path / "chat_template.jinja").write_text("{{ x }}")
    assert HuggingFaceFolder(tmp_path).metadata["tokenizer.chat_template"] == "{{ x }}"


def test_storage_types(tmp_path: Path) -> None:
    write_hf(tmp_path, GQA, dtype="bfloat16")
    types = {layout.type for layout in HuggingFaceFolder(tmp_path).layouts.values()}
    assert types == {GGMLType.BF16}


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(["config.json", INDEX, "model-00001-of-00003.safetensors"]),
    st.lists(st.tuples(st.integers(0, 2000), st.binary(max_size=9)), min_size=1, max_size=3),
)
def test_mutated_folders(tmp_path: Path, file: str, edits: list[tuple[int, bytes]]) -> None:
    folder = tmp_path / "model"
    if not folder.exists():
        write_hf(folder, GQA, max_shard_size="200kB")
    original = (folder / file).read_bytes()
    data = bytearray(original)
    for position, patch in edits:
        start = position % len(data)
        data[start : start + len(patch)] = patch
    (folder / file).write_bytes(data)
    try:
        opened = HuggingFaceFolder(folder)
        for name in opened.layouts:
            opened.tensor(name)
    except ModelFileError as error:
        assert "\n" not in str(error)
    finally:
        (folder / file).write_bytes(original)
