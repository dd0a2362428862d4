"""Others' adapters against products written out: llama.cpp's GGUF by the gguf package, PEFT's
against a Hugging Face model with the product already in it.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from codellama.errors import ModelFileError
from codellama.weights.adapter import open_adapted
from codellama.weights.adapter_formats import packed_peft
from codellama.weights.blocks import dequantize
from codellama.weights.export import export_gguf, quantize_model
from codellama.weights.load import ModelFile, open_model
from codellama.weights.tensor import GGMLType
from tiny_checkpoints import TINY as CHECKPOINT
from tiny_checkpoints import random_weights, write_hf, write_meta, write_sentencepiece

TINY = replace(CHECKPOINT, vocab_size=512)  # what a tokenizer.model needs at least
CONFIG = replace(TINY, n_kv_heads=4)
RANK, ALPHA = 3, 6.0
WQ = "layers.1.attention.wq.weight"


def matrices(shape: tuple[int, int], seed: int = 0) -> tuple[Any, Any]:
    generator = np.random.default_rng(seed)
    out, width = shape
    a = generator.standard_normal((RANK, width)).astype(np.float32)
    return a, generator.standard_normal((out, RANK)).astype(np.float32)


def values(model: ModelFile, name: str) -> Any:
    return np.array(dequantize(model.tensor(name))).reshape(model.layout(name).shape)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_meta(tmp_path_factory.mktemp("base"), random_weights(TINY))
    return write_sentencepiece(folder, TINY.vocab_size)


def write_lora(
    path: Path, tensors: dict[str, Any], *, kind: str = "lora", alpha: Any = ALPHA
) -> Path:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, kind)
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, alpha)
    for name, data in tensors.items():
        writer.add_tensor(name, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize(("alpha", "scale"), [(ALPHA, ALPHA / RANK), (0.0, 1.0)])
def test_a_gguf_adapter_is_added(base: Path, tmp_path: Path, alpha: float, scale: float) -> None:
    plain = open_model(base)
    a, b = matrices(plain.layout(WQ).shape)  # type: ignore[arg-type]
    tensors = {"blk.1.attn_q.weight.lora_a": a, "blk.1.attn_q.weight.lora_b": b}
    path = write_lora(tmp_path / "blob", tensors, alpha=alpha)
    merged = open_adapted(plain, path)
    np.testing.assert_allclose(values(merged, WQ), values(plain, WQ) + scale * b @ a, atol=1e-5)
    other = WQ.replace("wq", "wv")
    assert (values(merged, other) == values(plain, other)).all()
    assert merged.config == plain.config
    assert merged.tokenizer().pieces == plain.tokenizer().pieces


def test_merged_matrices_keep_the_base_s_precision(base: Path, tmp_path: Path) -> None:
    plain = open_model(base)
    a, b = matrices(plain.layout(WQ).shape)  # type: ignore[arg-type]
    tensors = {"blk.1.attn_q.weight.lora_a": a, "blk.1.attn_q.weight.lora_b": b}
    path = write_lora(tmp_path / "lora.gguf", tensors)
    assert open_adapted(plain, path, None).layout(WQ).type is GGMLType.BF16
    quantize_model(plain, tmp_path / "q.gguf", "Q4_0")
    coarse = open_adapted(open_model(tmp_path / "q.gguf"), path, None)
    assert coarse.layout(WQ).type is GGMLType.Q8_0
    assert coarse.layout(WQ.replace("wq", "wv")).type is GGMLType.Q4_0


def test_a_folder_with_adapters_is_the_adapted_model(base: Path, tmp_path: Path) -> None:
    export_gguf(open_model(base), tmp_path / "model.gguf")
    plain = open_model(tmp_path / "model.gguf")
    wanted = values(plain, WQ)
    for n in range(2):
        a, b = matrices(plain.layout(WQ).shape, seed=n)  # type: ignore[arg-type]
        tensors = {"blk.1.attn_q.weight.lora_a": a, "blk.1.attn_q.weight.lora_b": b}
        write_lora(tmp_path / f".adapter-{n}", tensors)
        wanted = wanted + ALPHA / RANK * b @ a
    np.testing.assert_allclose(values(open_model(tmp_path), WQ), wanted, rtol=0.02, atol=0.1)
    assert (values(open_model(tmp_path / "model.gguf"), WQ) == values(plain, WQ)).all()


@pytest.mark.parametrize(
    ("name", "shape", "said"),
    [
        ("blk.1.attn_q.weight.lora_a", (RANK, 64), "only one of its two"),
        ("token_embd.weight.lora_a", (RANK, 64), "only one of its two"),
        ("blk.1.attn_q.bias", (RANK, 64), "not supported"),
        ("blk.1.attn_x.weight.lora_a", (RANK, 64), "not supported"),
    ],
)
def test_gguf_adapters_that_are_more_or_less(
    base: Path, tmp_path: Path, name: str, shape: tuple[int, int], said: str
) -> None:
    path = write_lora(tmp_path / "lora.gguf", {name: np.zeros(shape, np.float32)})
    with pytest.raises(ModelFileError, match=said):
        open_adapted(open_model(base), path)


def test_adapters_of_another_base_or_kind(base: Path, tmp_path: Path) -> None:
    plain = open_model(base)
    a, b = matrices((64, 128))
    tensors = {"blk.1.attn_q.weight.lora_a": a, "blk.1.attn_q.weight.lora_b": b}
    with pytest.raises(ModelFileError, match="does not fit base"):
        open_adapted(plain, write_lora(tmp_path / "wide.gguf", tensors))
    a, b = matrices((TINY.vocab_size, 64))
    tensors = {"token_embd.weight.lora_a": a, "token_embd.weight.lora_b": b}
    with pytest.raises(ModelFileError, match="does not fit base"):
        open_adapted(plain, write_lora(tmp_path / "rows.gguf", tensors))
    a, b = matrices((64, 64))
    tensors = {"blk.1.attn_q.weight.lora_a": a * np.inf, "blk.1.attn_q.weight.lora_b": b}
    with pytest.raises(ModelFileError, match="NaN or infinite"):
        open_adapted(plain, write_lora(tmp_path / "inf.gguf", tensors))
    with pytest.raises(ModelFileError, match="another kind"):
        open_adapted(plain, write_lora(tmp_path / "kind.gguf", {}, kind="control"))
    with pytest.raises(ModelFileError, match="no matrices"):
        open_adapted(plain, write_lora(tmp_path / "none.gguf", {}))


def peft_file(path: Path, modules: dict[str, tuple[Any, Any]]) -> Path:
    arrays = {}
    for module, (a, b) in modules.items():
        arrays[f"base_model.model.{module}.lora_A.weight"] = a
        arrays[f"base_model.model.{module}.lora_B.weight"] = b
    save_file(arrays, path)
    return path


@pytest.mark.parametrize("rooted", [False, True])
def test_peft_is_what_hugging_face_would_compute(tmp_path: Path, rooted: bool) -> None:
    model = write_hf(tmp_path / "hf", CONFIG)
    write_sentencepiece(tmp_path / "hf", CONFIG.vocab_size)
    plain = open_model(tmp_path / "hf")
    modules, scale = {}, ALPHA / (RANK**0.5 if rooted else RANK)
    with torch.no_grad():
        for n, name in enumerate(("q_proj", "k_proj", "v_proj")):
            weight = getattr(model.model.layers[1].self_attn, name).weight
            a, b = matrices(tuple(weight.shape), seed=n)
            modules[f"model.layers.1.self_attn.{name}"] = a, b
            weight += torch.from_numpy(scale * b @ a)
        weight = model.model.layers[0].mlp.down_proj.weight
        a, b = matrices(tuple(weight.shape), seed=9)
        modules["model.layers.0.mlp.down_proj"] = a, b
        weight += torch.from_numpy(scale * b @ a)
    model.save_pretrained(tmp_path / "wanted")
    write_sentencepiece(tmp_path / "wanted", CONFIG.vocab_size)
    wanted = open_model(tmp_path / "wanted")
    path = peft_file(tmp_path / "adapter_model.safetensors", modules)
    about = {"peft_type": "LORA", "lora_alpha": ALPHA, "r": RANK, "use_rslora": rooted}
    (tmp_path / "ours").write_bytes(packed_peft(path, about, plain.config))
    merged = open_adapted(plain, tmp_path / "ours")
    for name in plain.names:
        np.testing.assert_allclose(values(merged, name), values(wanted, name), atol=1e-5)


MORE: list[dict[str, Any]] = [
    {"use_dora": True},
    {"bias": "all"},
    {"modules_to_save": ["lm_head"]},
    {"peft_type": "IA3"},
    {"rank_pattern": {"q_proj": 2}},
    {"lora_alpha": "much"},
    {"lora_alpha": float("nan")},
]


@pytest.mark.parametrize("settings", MORE, ids=str)
def test_peft_that_is_more_than_plain_lora_is_refused(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    path = peft_file(tmp_path / "a", {"model.layers.0.self_attn.q_proj": matrices((64, 64))})
    with pytest.raises(ModelFileError):
        packed_peft(path, {"lora_alpha": 1} | settings, CONFIG)


KEYS = st.sampled_from(
    ["peft_type", "bias", "use_dora", "lora_alpha", "use_rslora", "rank_pattern", "r"]
)
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2)
    ),
    max_leaves=4,
)
NAMES = st.sampled_from(["model.layers.0.self_attn.q_proj", "lm_head", "model.layers.0.x", ""])


@given(found=st.dictionaries(KEYS, JSON, max_size=4), name=NAMES, rows=st.integers(0, 70))
@settings(max_examples=60, deadline=None)
def test_any_settings_and_shapes_give_an_adapter_or_one_line(
    tmp_path_factory: pytest.TempPathFactory, found: dict[str, Any], name: str, rows: int
) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "a.safetensors"
    peft_file(path, {name: matrices((rows, 64))})
    try:
        assert packed_peft(path, found, CONFIG)
    except ModelFileError as error:
        assert "\n" not in str(error)
