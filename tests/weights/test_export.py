"""Quantizing and exporting to GGUF: types, values, metadata, and nothing half written."""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from codellama.errors import ModelFileError, RequestError
from codellama.weights import convert, export
from codellama.weights.blocks import dequantize
from codellama.weights.convert import converted
from codellama.weights.export import export_gguf, export_hf, quantize_model
from codellama.weights.file_types import WRITABLE, canonical, plan_types
from codellama.weights.load import ModelFile, open_model
from codellama.weights.tensor import GGMLType, Tensor
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
WIDE = replace(
    CONFIG, dim=256, n_heads=4, n_kv_heads=2, head_dim=64, ffn_dim=512, n_layers=3, tied=True
)
"""Rows that divide into blocks of 256, grouped heads, tied."""


@pytest.fixture(scope="module")
def meta_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("meta")
    write_meta(folder, random_weights(CONFIG), shards=2)
    (folder / "LICENSE").write_text("LLAMA 2 COMMUNITY LICENSE AGREEMENT\n")
    return write_sentencepiece(folder, VOCAB, infills=True)


@pytest.fixture(scope="module")
def wide_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wide")
    write_hf(folder, WIDE)
    return write_byte_level(folder, VOCAB)


def tensors(model: ModelFile) -> dict[str, tuple[GGMLType, bytes]]:
    out = {}
    for name in model.names:
        tensor = model.tensor(name)
        out[name] = (tensor.type, tensor.data.tobytes())
    return out


# To GGUF as it is


@pytest.mark.parametrize("shards", [1, 4])
def test_meta_to_gguf_keeps_every_bit(tmp_path: Path, shards: int) -> None:
    weights = random_weights(CONFIG)
    write_sentencepiece(write_meta(tmp_path / "meta", weights, shards=shards), VOCAB)
    source = open_model(tmp_path / "meta")
    export_gguf(source, tmp_path / "m.gguf")
    written = open_model(tmp_path / "m.gguf")
    assert replace(written.config, norm_eps=1e-5) == source.config
    assert written.quantization == "BF16"
    for name in source.names:
        tensor = written.tensor(name)
        assert tensor.type == (GGMLType.F32 if "norm" in name else GGMLType.BF16)
        np.testing.assert_array_equal(as_float32(tensor), weights[name], err_msg=name)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_hf_to_gguf_to_hf_to_gguf_keeps_every_bit(tmp_path: Path, dtype: str) -> None:
    write_byte_level(tmp_path / "hf", VOCAB)
    write_hf(tmp_path / "hf", WIDE, dtype=dtype)
    first = open_model(tmp_path / "hf")
    export_gguf(first, tmp_path / "a.gguf")
    export_hf(open_model(tmp_path / "a.gguf"), tmp_path / "again")
    assert tensors(open_model(tmp_path / "again")) == tensors(first)
    export_gguf(open_model(tmp_path / "again"), tmp_path / "b.gguf")
    assert tensors(open_model(tmp_path / "b.gguf")) == tensors(open_model(tmp_path / "a.gguf"))


def test_the_gguf_package_reads_what_we_write(tmp_path: Path, meta_folder: Path) -> None:
    source = open_model(meta_folder)
    export_gguf(source, tmp_path / "m.gguf")
    reader = gguf.GGUFReader(tmp_path / "m.gguf")
    assert len(reader.tensors) == len(source.names)

    def field(key: str) -> Any:
        found = reader.get_field(key)
        assert found is not None, key
        return found.contents()

    assert field("general.architecture") == "llama"
    assert field("general.license") == "llama2"
    assert field("general.file_type") == 32 and field("general.quantization_version") == 2
    assert len(field("tokenizer.ggml.tokens")) == VOCAB
    # Published Code Llama files have the sentinels as ordinary pieces; other engines rely on it.
    assert field("tokenizer.ggml.token_type")[-16:] == [1] * 16
    pre, suf, mid, eot = VOCAB - 9, VOCAB - 8, VOCAB - 7, VOCAB - 6  # ids 32007 … 32010 of 32016
    for key, id in (
        ("fim_pre", pre), ("fim_suf", suf), ("fim_mid", mid), ("fim_eot", eot),
        ("prefix", pre), ("suffix", suf), ("middle", mid), ("eot", eot),
    ):  # fmt: skip
        assert field(f"tokenizer.ggml.{key}_token_id") == id, key
    infill = open_model(tmp_path / "m.gguf").tokenizer().infill
    assert infill is not None and (infill.pre, infill.eot) == (pre, eot)
    assert open_model(tmp_path / "m.gguf").config.infills


def test_embeddings_with_unused_rows_get_padding_tokens(tmp_path: Path) -> None:
    write_hf(tmp_path / "hf", CONFIG)
    write_byte_level(tmp_path / "hf", VOCAB - 3)
    export_gguf(open_model(tmp_path / "hf"), tmp_path / "m.gguf")
    model = open_model(tmp_path / "m.gguf")
    assert model.metadata["tokenizer.ggml.tokens"][-3:] == ["[PAD397]", "[PAD398]", "[PAD399]"]
    assert model.metadata["tokenizer.ggml.token_type"][-3:] == [5, 5, 5]
    assert model.tokenizer().vocab_size == VOCAB
    assert model.chat_template == "{{ messages[0].content }}"


# Quantizing


@pytest.mark.parametrize("name", WRITABLE)
def test_every_type(tmp_path: Path, wide_folder: Path, name: str) -> None:
    source = open_model(wide_folder)
    quantize_model(source, tmp_path / "m.gguf", name.lower())
    model = open_model(tmp_path / "m.gguf")
    assert model.quantization == canonical(name)
    plan = plan_types(canonical(name), WIDE, {n: source.layout(n) for n in source.names})
    assert {n: model.layout(n).type for n in model.names} == plan
    bits = {"F": 32, "B": 16}.get(name[0]) or int(name[1])
    for tensor_name in ("layers.1.feed_forward.w1.weight", "tok_embeddings.weight"):
        exact = as_float32(source.tensor(tensor_name))
        error = dequantize(model.tensor(tensor_name)) - exact
        # A uniform quantizer over ±3σ in blocks errs by less than 6σ / 2^bits.
        assert np.sqrt(np.mean(error**2)) < 6 * exact.std() / 2 ** min(bits, 9)


def test_rows_of_64_fall_back_as_in_llama_cpp(tmp_path: Path, meta_folder: Path) -> None:
    quantize_model(open_model(meta_folder), tmp_path / "m.gguf", "Q4_K_M")
    model = open_model(tmp_path / "m.gguf")
    types = Counter(model.layout(name).type.name for name in model.names)
    # w2 has rows of 256; all others fall back: Q4_K → Q5_0, Q6_K → Q8_0. The second of two layers
    # counts as the last eighth, which gets more bits.
    assert types == {"F32": 5, "Q5_0": 12, "Q8_0": 2, "Q4_K": 1, "Q6_K": 1}


def test_threads_and_chunks_do_not_change_the_result(
    tmp_path: Path, wide_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = open_model(wide_folder)
    quantize_model(source, tmp_path / "a.gguf", "Q4_K_M", threads=1)
    monkeypatch.setattr(convert, "_CHUNK_ELEMENTS", 1000)
    quantize_model(source, tmp_path / "b.gguf", "Q4_K_M", threads=3)
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()


def test_quantizing_again_keeps_metadata_and_what_fits(tmp_path: Path, meta_folder: Path) -> None:
    quantize_model(open_model(meta_folder), tmp_path / "a.gguf", "Q8_0")
    first = open_model(tmp_path / "a.gguf")
    first.metadata |= {"custom.key": "kept", "split.count": 3}
    quantize_model(first, tmp_path / "b.gguf", "Q4_0")
    second = open_model(tmp_path / "b.gguf")
    assert second.metadata["custom.key"] == "kept"
    assert "split.count" not in second.metadata
    assert second.metadata["general.file_type"] == 2
    assert (
        second.tensor("output.weight").data.tobytes()
        == first.tensor("output.weight").data.tobytes()
    )


def test_older_files_learn_their_infilling_ids(tmp_path: Path, meta_folder: Path) -> None:
    export_gguf(open_model(meta_folder), tmp_path / "a.gguf")
    old = open_model(tmp_path / "a.gguf")
    for key in [key for key in old.metadata if "fim_" in key]:
        del old.metadata[key]
    export_gguf(old, tmp_path / "b.gguf")
    assert open_model(tmp_path / "b.gguf").metadata["tokenizer.ggml.fim_mid_token_id"] == VOCAB - 7


def test_progress_rises_to_the_end(tmp_path: Path, wide_folder: Path) -> None:
    seen: list[tuple[int, int]] = []
    quantize_model(
        open_model(wide_folder),
        tmp_path / "m.gguf",
        "Q4_0",
        lambda done, all: seen.append((done, all)),
    )
    done = [step for step, _ in seen]
    assert done == sorted(done) and done[-1] == seen[0][1] > 0
    assert len({total for _, total in seen}) == 1


def test_conversion_is_in_order_with_and_without_threads() -> None:
    values = np.arange(64 * 1000, dtype=np.float32).reshape(1000, 64)
    tensor = Tensor("w", values.shape, GGMLType.F32, values.reshape(-1).view(np.uint8))
    alone = np.concatenate(list(converted(tensor, GGMLType.Q8_0, None)))
    with ThreadPoolExecutor(3) as pool:
        together = np.concatenate(list(converted(tensor, GGMLType.Q8_0, pool)))
    np.testing.assert_array_equal(alone, together)


# Refusals, and nothing half written


def test_bad_requests(tmp_path: Path, meta_folder: Path) -> None:
    model = open_model(meta_folder)
    with pytest.raises(RequestError, match="known types: F32, F16"):
        quantize_model(model, tmp_path / "m.gguf", "Q9_Z")
    export_gguf(model, tmp_path / "m.gguf")
    before = (tmp_path / "m.gguf").read_bytes()
    with pytest.raises(RequestError, match="choose another name"):
        quantize_model(open_model(tmp_path / "m.gguf"), tmp_path / "m.gguf", "Q4_0")
    assert (tmp_path / "m.gguf").read_bytes() == before


@pytest.mark.parametrize(
    ("value", "type", "message"),
    [
        (np.nan, "Q4_0", "NaN or infinite"),
        (np.inf, "F32", "NaN or infinite"),
        (np.inf, "F16", "NaN or infinite"),
        (1e6, "F16", r"values up to 1e\+06 do not fit float16: choose BF16 or F32"),
    ],
)
def test_bad_values(tmp_path: Path, value: float, type: str, message: str) -> None:
    import torch

    weights = random_weights(CONFIG)
    weights["layers.1.feed_forward.w1.weight"][7, 3] = value
    folder = write_meta(tmp_path / "meta", weights, dtype=torch.float32)
    write_sentencepiece(folder, VOCAB)
    target = tmp_path / "out"
    target.mkdir()
    with pytest.raises(ModelFileError, match=f"layers.1.feed_forward.w1.weight: .*{message}"):
        quantize_model(open_model(folder), target / "m.gguf", type)
    if not np.isfinite(value):
        with pytest.raises(ModelFileError, match=message):
            export_hf(open_model(folder), target / "hf")
    assert list(target.iterdir()) == []


def full_disk(descriptor: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def interrupted(*_: object) -> Iterator[Any]:
    yield np.zeros(8, np.uint8)
    raise KeyboardInterrupt


@pytest.mark.parametrize("target", ["m.gguf", "hf"])
@pytest.mark.parametrize("failure", [ModelFileError, KeyboardInterrupt])
def test_a_failed_export_leaves_nothing(
    tmp_path: Path,
    meta_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    failure: type[BaseException],
    target: str,
) -> None:
    model = open_model(meta_folder)
    if failure is ModelFileError:
        monkeypatch.setattr(os, "fsync", full_disk)
    else:
        monkeypatch.setattr(export, "converted", interrupted)
        monkeypatch.setattr("codellama.weights.export_hf.converted", interrupted)
    write = export_hf if target == "hf" else export_gguf
    with pytest.raises(failure) as caught:
        write(model, tmp_path / target)
    if failure is ModelFileError:
        assert "No space left on device" in str(caught.value) and target in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_an_older_file_survives_a_failed_export(
    tmp_path: Path, meta_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "m.gguf").write_bytes(b"older")
    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(ModelFileError):
        export_gguf(open_model(meta_folder), tmp_path / "m.gguf")
    assert (tmp_path / "m.gguf").read_bytes() == b"older"
