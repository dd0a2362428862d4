"""A base and an adapter as one file: merged once, never confused, and possible without a cache."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from codellama.api import merged
from codellama.api.merged import open_merged
from codellama.weights.adapter import open_adapted, write_adapter
from codellama.weights.blocks import dequantize
from codellama.weights.export import quantize_model
from codellama.weights.load import ModelFile, open_model
from codellama.weights.tensor import GGMLType
from tiny_checkpoints import TINY, write_byte_level, write_hf

SMALL = replace(TINY, vocab_size=320)  # bytes, and some merges

NAME = "layers.0.attention.wq.weight"


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_hf(tmp_path / "hf", SMALL)
    write_byte_level(tmp_path / "hf", SMALL.vocab_size)
    quantize_model(open_model(tmp_path / "hf"), tmp_path / "base.gguf", "Q8_0")
    return tmp_path / "base.gguf"


def adapter(base: Path, path: Path, scale: float = 1.0) -> Path:
    out, width = open_model(base).layout(NAME).shape
    generator = np.random.default_rng(0)
    arrays = {
        f"{NAME}.a": generator.standard_normal((2, width)).astype(np.float16),
        f"{NAME}.b": generator.standard_normal((out, 2)).astype(np.float16),
    }
    about = {
        "name": "mine", "base": str(base), "scale": scale, "rows": [], "pieces": [], "infill": [],
    }  # fmt: skip
    write_adapter(path, arrays, about)
    return path


def matrix(model: ModelFile) -> np.ndarray:
    return np.array(dequantize(model.tensor(NAME)))


def kept(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache" / "codellama" / "merged").iterdir())


def test_merged_once_and_the_same_as_in_memory(base: Path, tmp_path: Path) -> None:
    path = adapter(base, tmp_path / "mine.safetensors")
    want = matrix(open_adapted(open_model(base), path, GGMLType.Q8_0))
    assert not np.allclose(want, matrix(open_model(base)), atol=0.1)
    assert np.array_equal(matrix(open_merged(path)), want)
    (file,) = kept(tmp_path)
    written = file.stat().st_ino
    again = open_merged(path)
    assert np.array_equal(matrix(again), want) and again.path == file
    assert file.stat().st_ino == written


def test_another_adapter_or_base_is_another_file(base: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.safetensors"
    first = matrix(open_merged(adapter(base, path)))
    (old,) = kept(tmp_path)
    second = matrix(open_merged(adapter(base, path, scale=2.0)))
    assert not np.array_equal(first, second)
    assert len(kept(tmp_path)) == 2
    os.utime(old, (0, 0))  # nobody opened it for long
    quantize_model(open_model(tmp_path / "hf"), base, "F16")
    open_merged(path)
    assert len(kept(tmp_path)) == 2 and old not in kept(tmp_path)


def test_a_model_with_adapters_beside_it_is_merged_once(base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "view"  # as the store makes them
    folder.mkdir()
    (folder / "model.gguf").symlink_to(base)
    (folder / ".adapter-0").symlink_to(adapter(base, tmp_path / "mine.safetensors"))
    want = matrix(open_model(folder))
    assert np.array_equal(matrix(open_merged(folder)), want)
    (file,) = kept(tmp_path)
    assert open_merged(folder).path == file


def test_a_large_model_is_not_kept(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merged, "_LARGEST", 1000)
    path = adapter(base, tmp_path / "mine.safetensors")
    want = matrix(open_adapted(open_model(base), path, GGMLType.Q8_0))
    assert np.array_equal(matrix(open_merged(path)), want)
    assert not (tmp_path / "cache").exists()


def test_without_a_cache_it_is_merged_in_memory(base: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("no folder")
    path = adapter(base, tmp_path / "mine.safetensors")
    want = matrix(open_adapted(open_model(base), path, GGMLType.Q8_0))
    assert np.array_equal(matrix(open_merged(path)), want)


def test_other_files_are_opened_as_they_are(base: Path, tmp_path: Path) -> None:
    assert open_merged(base).path == base
    assert open_merged(tmp_path / "hf" / "model.safetensors").config.dim == SMALL.dim


def test_only_the_last_few_are_kept(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merged, "_MOST", 2)
    for scale in (1.0, 2.0, 3.0):
        open_merged(adapter(base, tmp_path / "mine.safetensors", scale))
    assert len(kept(tmp_path)) == 2
