"""The safetensors reader: what the package writes is read exactly; hostile headers are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save, save_file

from codellama.errors import ModelFileError
from codellama.weights.safetensors import read_safetensors

TENSORS = {
    "a": torch.arange(6, dtype=torch.float32).reshape(2, 3),
    "b": torch.tensor([1.5, -2.0, 3.0], dtype=torch.bfloat16),
    "c": torch.zeros(0, 4, dtype=torch.float16),
    "d": torch.tensor([1, 2], dtype=torch.int64),
}


def crafted(header: Any, data: bytes = b"", *, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def entry(begin: int, end: int, shape: list[Any], dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def test_reads_what_the_package_writes(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file(TENSORS, path, metadata={"format": "pt"})
    file = read_safetensors(path)
    assert file.metadata == {"format": "pt"}
    assert file.entries.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert file.entries[name].shape == tuple(tensor.shape)
        expected = tensor.view(torch.uint8).numpy().tobytes() if tensor.numel() else b""
        assert file.data(name).tobytes() == expected


def test_unaligned_data_is_copied_into_place(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    values = np.array([1.0, 2.0], np.float32)
    header = json.dumps({"w": entry(0, 8, [2])}).encode()
    header += b" " * ((1 - len(header)) % 4)  # the data begin at an odd address
    path.write_bytes(crafted(header, values.tobytes()))
    data = read_safetensors(path).data("w").view(np.float32)
    assert data.flags.aligned
    np.testing.assert_array_equal(data, values)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "0 bytes long"),
        (b"1234567", "7 bytes long"),
        (crafted({}, length=100), "truncated inside its header"),
        (crafted({}, length=(1 << 64) - 1), "header of 18,446,744,073,709,551,615 bytes"),
        (crafted(b"[]"), "no JSON object"),
        (crafted(b"{"), "not valid JSON"),
        (crafted(b"\xff\xff"), "not valid JSON"),
        (crafted(b"[" * 100_000), "nested too deeply"),
        (crafted(b'{"__metadata__": {"x": NaN}}'), "NaN is no JSON number"),
        (crafted({"__metadata__": {"x": 1}}), "__metadata__"),
        (crafted(b'{"a": 1, "a": 2}'), "'a' appears twice"),
        (crafted({"a": 1}), "not described"),
        (crafted({"a": {**entry(0, 4, [1]), "more": 1}}, bytes(4)), "not described"),
        (crafted({"a": entry(0, 4, [1], "X9")}, bytes(4)), "unknown dtype 'X9'"),
        (crafted({"a": entry(0, 4, [1], ["F32"])}, bytes(4)), "unknown dtype"),
        (crafted({"a": entry(0, 4, [-1])}, bytes(4)), "no valid shape"),
        (crafted({"a": entry(0, 4, [True])}, bytes(4)), "no valid shape"),
        (crafted({"a": entry(0, 4, [1.0])}, bytes(4)), "no valid shape"),
        (crafted({"a": entry(0, 4, [1] * 9)}, bytes(4)), "no valid shape"),
        (crafted({"a": entry(4, 0, [1])}, bytes(4)), "no valid data_offsets"),
        (crafted({"a": entry(0, 4, [2])}, bytes(4)), "its shape and its 4 bytes differ"),
        (crafted({"a": entry(0, 4, [1 << 40, 1 << 40])}, bytes(4)), "differ"),
        (crafted({"a": entry(0, 8, [2])}, bytes(4)), "truncated: 4 bytes are missing"),
        (crafted({"a": entry(0, 4, [1])}, bytes(5)), "1 bytes follow"),
        (crafted({"a": entry(0, 8, [2]), "b": entry(4, 12, [2])}, bytes(12)), "'b' overlaps"),
        (crafted({"a": entry(0, 4, [1]), "b": entry(8, 12, [1])}, bytes(12)), "'b' leaves a gap"),
    ],
)
def test_hostile_files_get_one_clear_line(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(data)
    with pytest.raises(ModelFileError, match=message) as caught:
        read_safetensors(path)
    assert "\n" not in str(caught.value)


VALID = save(TENSORS)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, len(VALID) - 1), st.binary(max_size=9)), max_size=4))
def test_mutated_files(tmp_path: Path, edits: list[tuple[int, bytes]]) -> None:
    data = bytearray(VALID)
    for position, patch in edits:
        data[position : position + len(patch)] = patch
    path = tmp_path / "x.safetensors"
    path.write_bytes(bytes(data))
    try:
        file = read_safetensors(path)
        for name in file.entries:
            file.data(name).sum()
    except ModelFileError as error:
        assert "\n" not in str(error)
