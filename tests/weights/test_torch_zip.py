"""The .pth reader: what torch.save writes is read exactly; hostile bytes never run nor escape."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from codellama.errors import ModelFileError
from codellama.weights.torch_zip import read_torch_file

STATE = {
    "a": torch.arange(12, dtype=torch.float32).reshape(3, 4),
    "b": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
    "c": torch.zeros(0, 4, dtype=torch.float16),
}


def saved(value: object, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def read_all(path: Path) -> dict[str, bytes]:
    file = read_torch_file(path)
    return {name: file.data(name).tobytes() for name in file.records}


def raw(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("kind", [dict, OrderedDict])
def test_reads_what_torch_saves(tmp_path: Path, protocol: int, kind: type) -> None:
    path = tmp_path / "x.pth"
    path.write_bytes(saved(kind(STATE), pickle_protocol=protocol))
    assert read_all(path) == {name: raw(tensor) for name, tensor in STATE.items()}


def test_reads_a_module_with_parameters_and_metadata(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    layer = torch.nn.Linear(3, 2)
    path.write_bytes(saved(layer.state_dict()))
    assert read_all(path)["weight"] == raw(layer.weight.detach())
    path.write_bytes(saved({"p": layer.weight}))
    assert read_all(path)["p"] == raw(layer.weight.detach())


def test_views_of_one_storage(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    whole = torch.arange(10, dtype=torch.float32)
    path.write_bytes(saved({"tail": whole[4:], "whole": whole}))
    assert read_all(path)["tail"] == raw(whole[4:])


def test_zip64_archives(tmp_path: Path) -> None:
    """torch's writer uses zip64 beyond 4 GB; Python's can be made to for small members."""
    path = tmp_path / "x.pth"
    with zipfile.ZipFile(io.BytesIO(saved(STATE))) as old, zipfile.ZipFile(path, "w") as new:
        for item in old.infolist():
            with new.open(item.filename, "w", force_zip64=True) as member:
                member.write(old.read(item))
    assert read_all(path)["a"] == raw(STATE["a"])


# Refusals


class Evil:
    """Unpickled by Python's own machine, this would call what it holds."""

    def __init__(self, function: object, *arguments: object) -> None:
        self._reduced = (function, arguments)

    def __reduce__(self) -> Any:
        return self._reduced


def archive(pickled: bytes, *, folder: str = "x", compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file:
        file.writestr(f"{folder}/data.pkl", pickled)
        file.writestr(f"{folder}/data/0", bytes(48))
    return buffer.getvalue()


MARKER = "codellama_was_here"
ATTACKS = {
    "posix.system": Evil(os.system, f"touch {MARKER}"),
    "builtins.eval": Evil(eval, f"open('{MARKER}', 'w')"),
    "builtins.exec": Evil(exec, f"open('{MARKER}', 'w')"),
    "builtins.getattr": Evil(getattr, "x", "y"),
    "nested": {"weights": [{"deep": (Evil(os.system, f"touch {MARKER}"),)}]},
}


@pytest.mark.parametrize("protocol", [0, 1, 2, 4, 5])
@pytest.mark.parametrize("name", ATTACKS)
def test_code_in_a_pickle_never_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, protocol: int
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "x.pth"
    path.write_bytes(archive(pickle.dumps(ATTACKS[name], protocol)))
    with pytest.raises(ModelFileError) as caught:
        read_torch_file(path)
    assert not (tmp_path / MARKER).exists()
    if protocol >= 2 and name != "nested":
        assert name.split(".")[1] in str(caught.value)


HOSTILE = {
    "a global behind an allowed module": b"\x80\x02ctorch\nload\n(tR.",
    "an attribute path": b"\x80\x04\x8c\x05torch\x8c\x0fserialization.io\x93.",
    "a module with a space": b"\x80\x04\x8c\x12torch._utils _rebui\x8c\x02ld\x93.",
    "calling a storage type": b"\x80\x02ctorch\nHalfStorage\n(tR.",
    "calling a number": b"\x80\x02K\x01)R.",
    "an extension code": b"\x80\x02\x82\x01.",
    "an instance": b"(ios\nsystem\n.",
    "an object": b"(cos\nsystem\no.",
    "a class by NEWOBJ": b"\x80\x02ccollections\nOrderedDict\n)\x81.",
    "state set on a tensor": b"\x80\x02K\x01}b.",
    "unhashable keys": b"\x80\x02}}K\x01s.",
    "a deep tuple as key": b"\x80\x02}K\x01" + b"\x85" * 100_000 + b"K\x01s.",
    "a mark taken for a value": b"\x80\x02(0.",
    "an empty stack": b"\x80\x02.",
    "a memo that is not there": b"\x80\x02h\x05.",
    "a huge string length": b"\x80\x02X\xff\xff\xff\x7fabc.",
    "a huge 8-byte length": b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x7fabc.",
    "a huge integer": b"\x80\x02\x8a\xff" + b"\xff" * 255 + b".",
    "a decimal integer": b"I" + b"9" * 5000 + b"\n.",
    "no end": b"\x80\x02}",
    "nothing": b"",
    "no dictionary": b"\x80\x02K\x01.",
    "a persistent id that is no tuple": b"\x80\x02K\x01Q.",
    "an unknown opcode": b"\x80\x02\xff.",
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_pickles_are_refused(tmp_path: Path, what: str) -> None:
    path = tmp_path / "x.pth"
    path.write_bytes(archive(HOSTILE[what]))
    with pytest.raises(ModelFileError):
        read_torch_file(path)


def test_a_huge_memo_index_takes_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    path.write_bytes(archive(b"\x80\x02}r\xff\xff\xff\x7f."))
    assert read_torch_file(path).records == {}


def test_shared_references_do_not_multiply(tmp_path: Path) -> None:
    """A list of two references to a list of two references … 2^200 leaves if anyone walked it."""
    lists = b"]q\x00" + b"".join(b"](h%ch%ceq%c" % (i, i, i + 1) for i in range(200))
    path = tmp_path / "x.pth"
    path.write_bytes(archive(b"\x80\x02}X\x01\x00\x00\x00a(" + lists + b"ts."))
    assert read_torch_file(path).records == {}


def tensor_pickle(
    length: int, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]
) -> bytes:
    """A state dict with one float32 tensor "w" over storage "0", as torch would describe it."""

    class Storage:
        pass

    class Pickler(pickle.Pickler):
        def persistent_id(self, value: object) -> Any:
            if isinstance(value, Storage):
                return ("storage", torch.FloatStorage, "0", "cpu", length)
            return None

    arguments = (Storage(), offset, shape, strides, False, OrderedDict())
    buffer = io.BytesIO()
    Pickler(buffer, 2).dump({"w": Evil(torch._utils._rebuild_tensor_v2, *arguments)})
    return buffer.getvalue()


def test_the_crafted_pickle_is_read_when_honest(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    path.write_bytes(archive(tensor_pickle(12, 2, (2, 5), (5, 1))))
    assert read_torch_file(path).data("w").size == 40


@pytest.mark.parametrize(
    ("length", "offset", "shape", "strides", "message"),
    [
        (12, 0, (13,), (1,), "beyond its storage"),
        (12, 11, (2,), (1,), "beyond its storage"),
        (13, 0, (12,), (1,), "missing or too short"),
        (1 << 40, 0, (12,), (1,), "missing or too short"),
        (12, 0, (2, 3), (1, 2), "gaps"),
        (12, 0, (2, 3), (0, 0), "gaps"),
        (12, 0, (1 << 20, 1 << 20), (1 << 20, 1), "beyond its storage"),
        (12, -1, (2,), (1,), "damaged"),
        (12, 0, (-2,), (1,), "damaged"),
        (12, 0, (2, 3), (1,), "damaged"),
    ],
)
def test_tensors_stay_inside_their_storage(
    tmp_path: Path,
    length: int,
    offset: int,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    message: str,
) -> None:
    path = tmp_path / "x.pth"
    path.write_bytes(archive(tensor_pickle(length, offset, shape, strides)))
    with pytest.raises(ModelFileError, match=message):
        read_torch_file(path).data("w")


def test_a_name_from_the_file_is_shown_short_and_on_one_line(tmp_path: Path) -> None:
    path, name = tmp_path / "x.pth", "a\n" * 300
    path.write_bytes(saved({name: torch.zeros(2, dtype=torch.int64)}))
    with pytest.raises(ModelFileError, match="stored as Long") as caught:
        read_torch_file(path).type(name)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_the_old_format_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    path.write_bytes(saved(STATE, _use_new_zipfile_serialization=False))
    with pytest.raises(ModelFileError, match=r"before 1\.6"):
        read_torch_file(path)


def test_compressed_archives_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    path.write_bytes(archive(pickle.dumps({}), compression=zipfile.ZIP_DEFLATED))
    with pytest.raises(ModelFileError, match="compressed"):
        read_torch_file(path)


@pytest.mark.parametrize("keep", [0, 1, 10, 100, -1, -30, -200])
def test_truncated_files_are_refused(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "x.pth"
    path.write_bytes(saved(STATE)[:keep])
    with pytest.raises(ModelFileError):
        read_torch_file(path)


def test_big_endian_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("x/data.pkl", pickle.dumps({}, 2))
        file.writestr("x/byteorder", "big")
    with pytest.raises(ModelFileError, match="big-endian"):
        read_torch_file(path)


# Fuzzing: whatever the bytes, an answer or ModelFileError


def survives(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    try:
        file = read_torch_file(path)
        for name in file.records:
            np.asarray(file.data(name)).sum()
            file.type(name)
    except ModelFileError as error:
        assert "\n" not in str(error)


VALID = saved(STATE)
VALID_PICKLE = zipfile.ZipFile(io.BytesIO(VALID)).read("archive/data.pkl")
FUZZ = settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])


@FUZZ
@given(st.lists(st.tuples(st.integers(0, len(VALID) - 1), st.binary(max_size=9)), max_size=4))
def test_mutated_archives(tmp_path: Path, edits: list[tuple[int, bytes]]) -> None:
    data = bytearray(VALID)
    for position, patch in edits:
        data[position : position + len(patch)] = patch
    survives(tmp_path / "x.pth", bytes(data))


@FUZZ
@given(
    st.lists(st.tuples(st.integers(0, len(VALID_PICKLE) - 1), st.binary(max_size=9)), max_size=4)
)
def test_mutated_pickles(tmp_path: Path, edits: list[tuple[int, bytes]]) -> None:
    data = bytearray(VALID_PICKLE)
    for position, patch in edits:
        data[position : position + len(patch)] = patch
    survives(tmp_path / "x.pth", archive(bytes(data)))


@FUZZ
@given(st.binary(max_size=60))
def test_random_pickles(tmp_path: Path, data: bytes) -> None:
    survives(tmp_path / "x.pth", archive(b"\x80\x02" + data + b"."))


SNIPPETS = (
    b"(", b")", b"]", b"}", b"N", b"\x88", b"K\x01", b"J\xff\xff\xff\xff", b"\x8a\x02\x00\x01",
    b"X\x01\x00\x00\x00w", b"\x8c\x010", b"X\x07\x00\x00\x00storage", b"q\x00", b"q\x01", b"\x94",
    b"h\x00", b"h\x01", b"\x85", b"\x86", b"\x87", b"t", b"a", b"e", b"s", b"u", b"R", b"b", b"Q",
    b"ctorch\nHalfStorage\n", b"ctorch._utils\n_rebuild_tensor_v2\n",
    b"ccollections\nOrderedDict\n",
    b"ctorch._utils\n_rebuild_parameter\n", b"\x93", b"G" + bytes(8),
)  # fmt: skip
"""Every opcode that the machine knows, with arguments that mean something to it."""


@settings(max_examples=600, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(SNIPPETS), max_size=30))
def test_random_programs(tmp_path: Path, program: list[bytes]) -> None:
    survives(tmp_path / "x.pth", archive(b"\x80\x02" + b"".join(program) + b"."))
