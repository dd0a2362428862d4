"""The GGUF container: read and written against the gguf package, and fed with what is no GGUF."""

from __future__ import annotations

import mmap
import struct
from pathlib import Path
from typing import Any, cast

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codellama.errors import CodeLlamaError, ModelFileError
from codellama.weights.gguf import (
    LazyTensor,
    gguf_name,
    metadata_from_config,
    read_gguf,
    write_gguf,
)
from codellama.weights.gguf_read import _Cursor
from codellama.weights.load import open_model
from codellama.weights.tensor import GGMLType
from tiny_checkpoints import TINY, random_weights

METADATA: dict[str, Any] = {
    "general.architecture": "llama", "count": 7, "large": 1 << 40, "negative": -3, "yes": True,
    "no": False, "half": 0.5, "text": "ünï 😀", "texts": ["a", "", "▁<PRE>"],
    "integers": [0, -1, 2147483647], "wide": [1 << 33, 0], "floats": [0.25, -1.0],
    "switches": [True, False, True], "empty": "",
}  # fmt: skip
MATRIX = np.arange(64, dtype=np.float32).reshape(2, 32)


def lazy(name: str, array: np.ndarray, type: GGMLType = GGMLType.F32) -> LazyTensor:
    raw = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return LazyTensor(name, array.shape, type, lambda: [raw[:100], raw[100:]])


def written(path: Path) -> Path:
    norm = np.ones(3, np.float32)
    write_gguf(path, METADATA, [lazy("a.weight", MATRIX), lazy("b", norm), lazy("c", MATRIX.T)])
    return path


def test_what_is_written_is_read(tmp_path: Path) -> None:
    file = read_gguf(written(tmp_path / "m.gguf"))
    assert (file.version, file.alignment) == (3, 32)
    assert file.metadata == METADATA
    assert list(file.tensors) == ["a.weight", "b", "c"]
    for name, want in (("a.weight", MATRIX), ("c", np.ascontiguousarray(MATRIX.T))):
        tensor = file.tensors[name]
        assert tensor.shape == want.shape
        np.testing.assert_array_equal(tensor.data.view(np.float32).reshape(want.shape), want)


def test_the_gguf_package_reads_it(tmp_path: Path) -> None:
    reader = gguf.GGUFReader(written(tmp_path / "m.gguf"))
    for key, value in METADATA.items():
        assert reader.get_field(key).contents() == value, key
    assert [t.name for t in reader.tensors] == ["a.weight", "b", "c"]
    np.testing.assert_array_equal(reader.tensors[0].data, MATRIX)


def test_it_reads_the_gguf_package(tmp_path: Path) -> None:
    """Every scalar type, and an alignment of its own."""
    path = tmp_path / "theirs.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_custom_alignment(128)
    numbers = {"uint8": 255, "int8": -128, "uint16": 65535, "int16": -32768, "uint32": 1 << 31,
               "int32": -(1 << 31), "uint64": 1 << 63, "int64": -(1 << 63)}  # fmt: skip
    for kind, value in numbers.items():
        getattr(writer, f"add_{kind}")(kind, value)
    writer.add_float32("float32", 0.1)
    writer.add_float64("float64", 0.1)
    writer.add_bool("bool", True)
    writer.add_array("list", ["x", "y"])
    writer.add_tensor("w", MATRIX)
    writer.add_tensor("v", MATRIX[0])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    file = read_gguf(path)
    assert {key: file.metadata[key] for key in numbers} == numbers
    assert file.metadata["float64"] == 0.1
    assert file.metadata["float32"] == np.float32(0.1)
    assert file.metadata["bool"] is True
    assert file.metadata["list"] == ["x", "y"]
    assert file.alignment == 128
    np.testing.assert_array_equal(file.tensors["v"].data.view(np.float32), MATRIX[0])


def test_version_2_is_read_and_others_are_not(tmp_path: Path) -> None:
    whole = bytearray(written(tmp_path / "m.gguf").read_bytes())
    for version in (1, 2, 3, 4, 0x03000000):  # the last is version 3 in big-endian order
        whole[4:8] = struct.pack("<I", version)
        (tmp_path / "v.gguf").write_bytes(whole)
        if version in (2, 3):
            assert read_gguf(tmp_path / "v.gguf").version == version
        else:
            with pytest.raises(ModelFileError, match=f"version {version} is not supported"):
                read_gguf(tmp_path / "v.gguf")


def container(
    infos: list[tuple[str, list[int], int, int]], data: int = 4096, pairs: bytes = b"", n: int = 0
) -> bytes:
    """A file of tensor descriptions (name, dimensions, type, offset) as they are given."""
    head = b"GGUF" + struct.pack("<IQQ", 3, len(infos), n) + pairs
    for name, dims, kind, offset in infos:
        head += struct.pack("<Q", len(name)) + name.encode() + struct.pack("<I", len(dims))
        head += struct.pack(f"<{len(dims)}QIQ", *dims, kind, offset)
    return head + bytes(-len(head) % 32) + bytes(data)


def pair(key: bytes, kind: int, payload: bytes) -> bytes:
    return struct.pack("<Q", len(key)) + key + struct.pack("<I", kind) + payload


NAME = "a\n" * 300
"""Names come from the file: an error shows them short and on one line."""

HOSTILE = {
    "ends at byte": container([(NAME, [32, 4], 0, 0)], data=100),
    "not aligned": container([(NAME, [32], 0, 4)]),
    "overlap": container([(NAME, [32, 2], 0, 0), ("b", [32], 0, 128)]),
    "appears twice": container([(NAME, [32], 0, 0), (NAME, [32], 0, 128)]),
    "0 dimensions": container([(NAME, [], 0, 0)]),
    "5 dimensions": container([(NAME, [1] * 5, 0, 0)]),
    "impossible|dimensions|shape": container([(NAME, [1 << 62, 1 << 62], 0, 0)]),
    "storage type 200": container([(NAME, [32], 200, 0)]),
    "announces": b"GGUF" + struct.pack("<IQQ", 3, 1 << 60, 0) + bytes(100),
    "unknown metadata type 77": container([], pairs=pair(b"k", 77, b""), n=1),
    "strings does not fit": container([], pairs=pair(b"k", 9, struct.pack("<IQ", 8, 1 << 60)), n=1),
    "array of type 9": container([], pairs=pair(b"k", 9, struct.pack("<IQ", 9, 1)), n=1),
    "more were announced": container([], pairs=pair(b"k", 8, struct.pack("<Q", 1 << 62)), n=1),
    "not UTF-8": container([], pairs=pair(b"k", 8, struct.pack("<Q", 2) + b"\xff\xfe"), n=1),
    "no power of two": container(
        [], pairs=pair(b"general.alignment", 4, struct.pack("<I", 48)), n=1
    ),
    "does not begin with GGUF": b"GGML" + bytes(100),
    "empty": b"",
}


@pytest.mark.parametrize("message", HOSTILE)
def test_hostile_files_cost_one_line(message: str, tmp_path: Path) -> None:
    path = tmp_path / "hostile.gguf"
    path.write_bytes(HOSTILE[message])
    with pytest.raises(ModelFileError, match=message) as caught:
        read_gguf(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.fixture(scope="module")
def whole_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small complete Llama with its vocabulary."""
    path = tmp_path_factory.mktemp("gguf") / "whole.gguf"
    weights = random_weights(TINY)
    metadata = {
        **metadata_from_config(TINY),
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": ["<unk>", "<s>", "</s>"] + [f"▁{i}" for i in range(93)],
        "tokenizer.ggml.scores": [0.0] * 96,
        "tokenizer.ggml.token_type": [2, 3, 3] + [1] * 93,
    }
    write_gguf(path, metadata, [lazy(gguf_name(n), array) for n, array in weights.items()])
    return path


EDITS = st.lists(
    st.tuples(
        st.integers(0, 6000),
        st.one_of(
            st.binary(min_size=1, max_size=4),
            st.integers(0, 2**64 - 1).map(lambda n: struct.pack("<Q", n)),
            st.sampled_from([b"\xff" * 8, bytes(8), struct.pack("<Q", 1 << 63)]),
        ),
    ),
    min_size=1,
    max_size=4,
)


@settings(max_examples=300, deadline=None)
@given(edits=EDITS, cut=st.none() | st.integers(0, 8000))
def test_damaged_headers_open_or_are_refused(
    edits: list[tuple[int, bytes]], cut: int | None, whole_model: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:  # fmt: skip
    """Fuzzed: whatever the header says, opening ends in a model or in one clear line, and every
    tensor of a model lies inside the file.
    """
    damaged = bytearray(whole_model.read_bytes())
    for at, patch in edits:
        damaged[at : at + len(patch)] = patch
    path = tmp_path_factory.getbasetemp() / "fuzzed.gguf"
    path.write_bytes(damaged[:cut])
    try:
        model = open_model(path)
        for name in model.names:
            tensor = model.tensor(name)
            assert tensor.data.nbytes == model.layout(name).n_bytes
            assert int(tensor.data[-1]) >= 0  # readable to its last byte
        model.tokenizer().encode("1 2 3")
    except CodeLlamaError as error:
        assert "\n" not in str(error)


ordinary = st.text(
    st.characters(min_codepoint=1, exclude_categories=["Cs"]), min_size=1, max_size=9
)
odd = st.sampled_from(["", "\0", "a\0", "\0" * 8 + "a", "é" * 127, "x" * 255, "x" * 256, "\t" * 9])


@settings(max_examples=300, deadline=None)
@given(
    texts=st.lists(ordinary, min_size=1, max_size=30),
    odds=st.lists(st.tuples(st.integers(0, 30), odd), max_size=2),
    patches=st.lists(st.tuples(st.integers(0, 400), st.binary(max_size=9)), max_size=2),
    tail=st.binary(max_size=400),
)
def test_string_arrays_read_at_once_are_those_read_one_by_one(
    texts: list[str], odds: list[tuple[int, str]], patches: list[tuple[int, bytes]], tail: bytes
) -> None:
    for at, text in odds:
        texts.insert(at, text)
    raws = [text.encode() for text in texts]
    data = bytearray(b"".join(struct.pack("<Q", len(raw)) + raw for raw in raws))
    for at, patch in patches:
        data[at : at + len(patch)] = patch
    whole = cast(mmap.mmap, bytes(data) + tail)
    at_once = _Cursor(whole, "m.gguf")
    found = at_once.usual_texts(len(texts))
    if not odds and not patches and sum(map(len, raws)) < 16 * len(texts):
        assert found == texts
    if found is not None:
        one_by_one = _Cursor(whole, "m.gguf")
        assert found == one_by_one.texts(len(texts))
        assert at_once.at == one_by_one.at


def test_a_folder_is_no_target(tmp_path: Path) -> None:
    for target in (tmp_path, tmp_path / ".", Path(".")):
        with pytest.raises(ModelFileError, match="is a folder"):
            write_gguf(target, {}, [])


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    path = written(tmp_path / "m.gguf")
    before = path.read_bytes()
    short = LazyTensor("a", (2, 32), GGMLType.F32, lambda: [np.zeros(4, np.uint8)])
    with pytest.raises(ModelFileError, match="4 bytes, 256 announced"):
        write_gguf(path, METADATA, [short])
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
