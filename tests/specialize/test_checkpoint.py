"""Checkpoints as files: pieces that make a whole, and files that say nonsense about themselves."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from codellama.errors import ModelFileError, RequestError
from codellama.specialize import checkpoint
from codellama.specialize.checkpoint import Saver, latest, load_checkpoint

TENSORS = {
    "matrix": torch.arange(6.0).view(2, 3),
    "vector": torch.arange(3.0),
    "step": torch.ones(()),
}
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["matrix", "vector", "step", "x"]), inner, max_size=3)
    ),
    max_leaves=8,
)


def blank() -> dict[str, torch.Tensor]:
    return {name: torch.full_like(tensor, -1) for name, tensor in TENSORS.items()}


def same(tensors: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS)


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    saver = Saver(tmp_path, 2)
    for step in (1, 2, 3):
        saver.begin(step, TENSORS, {"key": "k"})
        saver.finish()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000002", "step-00000003"]
    path, tensors = latest(tmp_path), blank()
    assert path is not None
    found, state = load_checkpoint(path, "k", {**tensors, "more": torch.zeros(2)})
    assert found == set(TENSORS) and same(tensors)
    assert state == {"key": "k", "step": 3}
    untouched = blank()
    with pytest.raises(RequestError, match="another recipe"):
        load_checkpoint(path, "other", untouched)
    assert not any(torch.equal(untouched[name], TENSORS[name]) for name in TENSORS)


def test_what_is_written_is_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors change, and nothing is seen, while the disk is slow."""
    go, written = threading.Event(), checkpoint.synced_write

    def slow(path: Path, data: bytes) -> None:
        go.wait()
        written(path, data)

    monkeypatch.setattr(checkpoint, "synced_write", slow)
    (tmp_path / ".step-00000003.partial").mkdir()  # of a run that was killed
    saver, tensors = Saver(tmp_path, 2), {name: t.clone() for name, t in TENSORS.items()}
    assert not saver.written()
    saver.begin(4, tensors, {"key": "k"})
    for tensor in tensors.values():
        tensor.fill_(7)
    assert saver.step == 4 and not saver.written() and latest(tmp_path) is None
    with pytest.raises(RuntimeError, match="step 4 is not finished"):
        saver.begin(5, tensors, {"key": "k"})
    go.set()
    while not saver.written():
        pass
    saver.finish()
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000004"]
    path, found = latest(tmp_path), blank()
    assert path is not None
    load_checkpoint(path, "k", found)
    assert same(found) and saver.step is None


def test_what_cannot_be_written_is_told_when_it_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, data: bytes) -> None:
        path.write_bytes(data[:100])
        raise OSError(28, "No space left on device")

    saver = Saver(tmp_path, 2)
    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "synced_write", full)
        saver.begin(1, TENSORS, {"key": "k"})
        with pytest.raises(ModelFileError, match="step-00000001: cannot be written: No space"):
            saver.finish()
    assert list(tmp_path.iterdir()) == []
    saver.finish()  # nothing is under way
    saver.begin(2, TENSORS, {"key": "k"})
    saver.finish()
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000002"]


def test_pieces_from_several_files(tmp_path: Path) -> None:
    """Cut along either dimension, some of it written twice."""
    (tmp_path / "state.json").write_text('{"key": "k"}')
    pieces = (
        ({"matrix": TENSORS["matrix"][:, :2], "step": TENSORS["step"]}, {"matrix": [0, 0]}),
        ({"matrix": TENSORS["matrix"][:, 2:], "vector": TENSORS["vector"][1:]},
         {"matrix": [0, 2], "vector": [1]}),
        ({"vector": TENSORS["vector"][:1]}, {}),
    )  # fmt: skip
    for i, (tensors, offsets) in enumerate(pieces):
        data = {name: tensor.contiguous() for name, tensor in tensors.items()}
        path = tmp_path / f"tensors-{i:05d}.safetensors"
        save_file(data, path, {"offsets": json.dumps(offsets)})
    tensors = blank()
    assert load_checkpoint(tmp_path, "k", tensors)[0] == set(TENSORS)
    assert same(tensors)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(offsets=ANYTHING.map(json.dumps) | st.text(max_size=20))
def test_nonsense_about_places_is_damage(tmp_path: Path, offsets: str) -> None:
    (tmp_path / "state.json").write_text('{"key": "k"}')
    save_file(TENSORS, tmp_path / "tensors.safetensors", {"offsets": offsets})
    tensors = blank()
    try:
        load_checkpoint(tmp_path, "k", tensors)
    except ModelFileError as error:
        assert "remove it to use the one before" in str(error)
    else:
        assert same(tensors)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.binary(max_size=300), at=st.integers(0, 400))
def test_damaged_files_are_damage(tmp_path: Path, data: bytes, at: int) -> None:
    (tmp_path / "state.json").write_text('{"key": "k"}')
    path = tmp_path / "tensors.safetensors"
    save_file(TENSORS, path)
    whole = path.read_bytes()
    path.write_bytes(whole[:at] + data)
    try:
        load_checkpoint(tmp_path, "k", blank())
    except ModelFileError as error:
        assert "remove it to use the one before" in str(error)
