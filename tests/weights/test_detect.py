"""What a path is: every accepted form is found, everything else is described."""

from __future__ import annotations

from pathlib import Path

import pytest

from codellama.errors import ModelFileError, NotFoundError
from codellama.weights.detect import find_weights


def touch(path: Path, data: bytes = b"") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def hf_folder(folder: Path) -> Path:
    touch(folder / "config.json", b"{}")
    touch(folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("name", ["m.gguf", "sha256-0123abcd", "model.bin"])
def test_gguf_is_known_by_its_bytes(tmp_path: Path, name: str) -> None:
    path = touch(tmp_path / name, b"GGUF....")
    assert find_weights(path) == ("gguf", path)


def test_any_part_of_a_split_gguf_means_the_first(tmp_path: Path) -> None:
    parts = [touch(tmp_path / f"m-0000{i}-of-00003.gguf", b"GGUF") for i in (1, 2, 3)]
    assert find_weights(parts[2]) == ("gguf", parts[0])
    assert find_weights(tmp_path) == ("gguf", parts[0])
    parts[0].unlink()
    with pytest.raises(ModelFileError, match=r"first part m-00001-of-00003\.gguf is missing"):
        find_weights(parts[1])


def test_folders(tmp_path: Path) -> None:
    hf = hf_folder(tmp_path / "hf")
    assert find_weights(hf) == ("safetensors", hf)
    assert find_weights(hf / "model.safetensors") == ("safetensors", hf)
    touch(tmp_path / "meta" / "params.json")
    shard = touch(tmp_path / "meta" / "consolidated.00.pth", b"PK\x03\x04")
    assert find_weights(shard.parent) == find_weights(shard) == ("meta", shard.parent)
    lone = touch(tmp_path / "one" / "m.gguf", b"GGUF")
    touch(tmp_path / "one" / "README.md")
    assert find_weights(lone.parent) == ("gguf", lone)


def cache(home: Path, repository: str, commits: list[str], main: str | None) -> Path:
    folder = home / "hub" / f"models--{repository}"
    for commit in commits:
        hf_folder(folder / "snapshots" / commit)
    if main:
        touch(folder / "refs" / "main", main.encode())
    return folder


def test_a_hugging_face_cache(tmp_path: Path) -> None:
    folder = cache(tmp_path, "org--repo", ["aaa", "bbb"], "bbb")
    snapshot = folder / "snapshots" / "bbb"
    for path in (snapshot, folder, folder.parent, tmp_path):
        assert find_weights(path) == ("safetensors", snapshot)


def test_a_cache_without_main_needs_a_single_snapshot(tmp_path: Path) -> None:
    folder = cache(tmp_path, "org--repo", ["aaa"], None)
    assert find_weights(folder) == ("safetensors", folder / "snapshots" / "aaa")
    hf_folder(folder / "snapshots" / "bbb")
    with pytest.raises(ModelFileError, match="2 snapshots"):
        find_weights(folder)


def test_refs_cannot_lead_elsewhere(tmp_path: Path) -> None:
    hf_folder(tmp_path / "outside")
    folder = cache(tmp_path, "org--repo", ["aaa"], "../../../outside")
    with pytest.raises(ModelFileError, match="refs/main tells none"):
        find_weights(folder)


def test_several_models_are_listed(tmp_path: Path) -> None:
    cache(tmp_path, "org--one", ["aaa"], "aaa")
    cache(tmp_path, "org--two", ["aaa"], "aaa")
    with pytest.raises(ModelFileError, match="2 models, name one: org/one, org/two"):
        find_weights(tmp_path)
    for name in ("a.gguf", "b.gguf"):
        touch(tmp_path / "many" / name, b"GGUF")
    with pytest.raises(ModelFileError, match=r"2 GGUF files, name one: a\.gguf, b\.gguf"):
        find_weights(tmp_path / "many")


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "empty"),
        (b"version https://git-lfs.github.com/spec/v1", "Git LFS pointer"),
        (b"PK\x03\x04", "ZIP archive"),
        (b"\x80\x02}.", "a pickle"),
        (b"<!DOCTYPE html>", "a web page"),
        (b"FUGG", "big-endian"),
        (b"tjgg", "before GGUF"),
        (b"\x00\x01\x02", "unknown contents"),
    ],
)
def test_other_files_are_described(tmp_path: Path, data: bytes, what: str) -> None:
    with pytest.raises(ModelFileError, match=f"{what}.*accepted are a GGUF file") as caught:
        find_weights(touch(tmp_path / "m.gguf", data))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("names", "what"),
    [
        ([], "it is empty"),
        (["a.txt", "b.txt"], r"it holds a\.txt, b\.txt"),
        ([f"{i}.txt" for i in range(9)], "and 4 more"),
        (["config.json", "pytorch_model.bin"], "convert them to safetensors"),
        (["model.safetensors"], r"\.safetensors files without config\.json"),
        (["consolidated.00.pth"], r"\.pth files without params\.json"),
        (["params.json"], r"params\.json without consolidated"),
    ],
)
def test_folders_without_a_model_are_described(tmp_path: Path, names: list[str], what: str) -> None:
    for name in names:
        touch(tmp_path / name)
    with pytest.raises(ModelFileError, match=f"{what}.*accepted are"):
        find_weights(tmp_path)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no such file or folder"):
        find_weights(tmp_path / "absent")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises((NotFoundError, ModelFileError)):
        find_weights(tmp_path / "loop")
