"""Meta's folders: shards merged exactly, nothing copied that lies in one shard, clear refusals."""

from __future__ import annotations

import json
import mmap
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from codellama.errors import ModelFileError
from codellama.weights.meta import MetaFolder
from codellama.weights.tensor import GGMLType
from tiny_checkpoints import TINY, as_float32, random_weights, write_meta

PARAMS = {"dim": 64, "n_layers": 2, "n_heads": 8, "multiple_of": 256, "norm_eps": 1e-5}


@pytest.mark.parametrize("shards", [1, 2, 4, 8])
def test_shards_merge_to_the_whole(tmp_path: Path, shards: int) -> None:
    weights = random_weights(TINY)
    opened = MetaFolder(write_meta(tmp_path, weights, shards=shards))
    assert opened.config == replace(TINY, name=tmp_path.name)
    assert set(opened.layouts) == set(weights)
    for name, expected in weights.items():
        tensor = opened.tensor(name)
        assert tensor.type == GGMLType.BF16
        np.testing.assert_array_equal(as_float32(tensor), expected, err_msg=name)


@pytest.mark.parametrize(
    ("dtype", "type"),
    [
        (torch.float32, GGMLType.F32),
        (torch.float16, GGMLType.F16),
        (torch.bfloat16, GGMLType.BF16),
    ],
)
def test_every_storage_type(tmp_path: Path, dtype: torch.dtype, type: GGMLType) -> None:
    weights = random_weights(TINY)
    opened = MetaFolder(write_meta(tmp_path, weights, shards=2, dtype=dtype))
    tensor = opened.tensor("layers.1.feed_forward.w2.weight")
    assert tensor.type == type
    np.testing.assert_array_equal(as_float32(tensor), weights[tensor.name])


def test_one_shard_is_read_in_place(tmp_path: Path) -> None:
    opened = MetaFolder(write_meta(tmp_path, random_weights(TINY)))
    base: object = opened.tensor("output.weight").data
    while isinstance(base, np.ndarray | memoryview):
        base = base.base if isinstance(base, np.ndarray) else base.obj
    assert isinstance(base, mmap.mmap)


def test_grouped_query_heads_and_a_stated_vocabulary(tmp_path: Path) -> None:
    config = replace(TINY, n_kv_heads=2, rope_theta=1e4, context=4096)
    weights = random_weights(config)
    params = {**PARAMS, "n_kv_heads": 2, "vocab_size": 96}
    opened = MetaFolder(write_meta(tmp_path, weights, shards=2, params=params))
    assert opened.config == replace(config, name=tmp_path.name)
    tensor = opened.tensor("layers.0.attention.wk.weight")
    np.testing.assert_array_equal(as_float32(tensor), weights[tensor.name])


def test_embeddings_split_by_rows_as_llama_3_does(tmp_path: Path) -> None:
    weights = random_weights(TINY)
    write_meta(tmp_path, weights, shards=2)
    for index in range(2):
        path = tmp_path / f"consolidated.{index:02d}.pth"
        state = torch.load(path)
        rows = torch.from_numpy(weights["tok_embeddings.weight"]).chunk(2, dim=0)[index]
        state["tok_embeddings.weight"] = rows.contiguous().to(torch.bfloat16)
        torch.save(state, path)
    tensor = MetaFolder(tmp_path).tensor("tok_embeddings.weight")
    np.testing.assert_array_equal(as_float32(tensor), weights[tensor.name])


def test_a_missing_first_or_middle_shard_is_named(tmp_path: Path) -> None:
    write_meta(tmp_path, random_weights(TINY), shards=4)
    (tmp_path / "consolidated.01.pth").unlink()
    with pytest.raises(ModelFileError, match=r"consolidated\.01\.pth is missing"):
        MetaFolder(tmp_path)


def test_missing_last_shards_are_counted(tmp_path: Path) -> None:
    write_meta(tmp_path, random_weights(TINY), shards=4)
    for index in (2, 3):
        (tmp_path / f"consolidated.{index:02d}.pth").unlink()
    with pytest.raises(ModelFileError, match="2 of 4 shards"):
        MetaFolder(tmp_path)


def change(path: Path, **tensors: torch.Tensor | None) -> None:
    """Replace, add or (None) remove tensors of a checkpoint; `__` stands for a dot in names."""
    state = torch.load(path)
    for key, value in tensors.items():
        name = key.replace("__", ".")
        state.pop(name, None)
        if value is not None:
            state[name] = value
    torch.save(state, path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"norm__weight": None}, r"norm\.weight is missing"),
        ({"output__weight": None}, "vocab_size is missing"),
        ({"output__weight": torch.ones(95, 64)}, "vocabulary size"),
        ({"norm__weight": torch.ones(63)}, r"norm\.weight has the shape 63"),
        ({"norm__bias": torch.ones(64)}, r"'norm\.bias', which a Llama does not have"),
        ({"norm__weight": torch.ones(64, dtype=torch.float64)}, "stored as Double"),
        ({"norm__weight": torch.ones(128)[::2]}, "stored with gaps"),
    ],
)
def test_damaged_checkpoints_get_one_clear_line(
    tmp_path: Path, changes: dict[str, torch.Tensor | None], message: str
) -> None:
    write_meta(tmp_path, random_weights(TINY))
    change(tmp_path / "consolidated.00.pth", **changes)
    with pytest.raises(ModelFileError, match=message) as caught:
        MetaFolder(tmp_path)
    assert "\n" not in str(caught.value)


def test_shards_that_disagree_are_refused(tmp_path: Path) -> None:
    write_meta(tmp_path, random_weights(TINY), shards=2)
    change(tmp_path / "consolidated.01.pth", norm__weight=None)
    with pytest.raises(ModelFileError, match="not in every shard"):
        MetaFolder(tmp_path)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"n_heads": 8}, "dim is missing"),
        ({**PARAMS, "n_layers": 10**12}, "n_layers must be a whole number from 1 to 1,000"),
        ({**PARAMS, "n_kv_heads": 3}, "cannot share"),
        ({**PARAMS, "norm_eps": "x"}, "norm_eps must be a positive number"),
        ({**PARAMS, "use_scaled_rope": True}, "use_scaled_rope"),
        ({**PARAMS, "vocab_size": 100}, "vocabulary size"),
        ({**PARAMS, "ffn_dim_multiplier": 5.0}, "w1.weight has the shape"),
    ],
)
def test_bad_params_are_named(tmp_path: Path, params: dict[str, object], message: str) -> None:
    write_meta(tmp_path, random_weights(TINY))
    (tmp_path / "params.json").write_text(json.dumps(params))
    with pytest.raises(ModelFileError, match=message):
        MetaFolder(tmp_path)


def test_infilling_is_seen_in_the_vocabulary(tmp_path: Path) -> None:
    write_meta(tmp_path, random_weights(TINY))
    assert not MetaFolder(tmp_path).config.infills
    (tmp_path / "tokenizer.model").write_bytes(b"\x0a" + "▁<PRE>".encode())
    assert MetaFolder(tmp_path).config.infills


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(-4000, 8000), st.binary(max_size=9)), min_size=1, max_size=3))
def test_mutated_checkpoints(tmp_path: Path, edits: list[tuple[int, bytes]]) -> None:
    """The pickle lies at the file's beginning, the directory at its end: both are hit."""
    folder = tmp_path / "model"
    if not folder.exists():
        write_meta(folder, random_weights(TINY))
        (folder / "consolidated.00.pth").rename(tmp_path / "whole")
    data = bytearray((tmp_path / "whole").read_bytes())
    for position, patch in edits:
        start = position % len(data)
        data[start : start + len(patch)] = patch
    (folder / "consolidated.00.pth").write_bytes(data)
    try:
        opened = MetaFolder(folder)
        for name in opened.layouts:
            opened.tensor(name)
    except ModelFileError as error:
        assert "\n" not in str(error)
