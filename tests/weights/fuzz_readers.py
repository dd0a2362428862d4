"""Coverage-guided fuzzing of the readers of weights, by atheris (libFuzzer).

    python tests/weights/fuzz_readers.py gguf|pickle|safetensors|torch [-max_total_time=180 …]

(`pip install atheris`; wheels for Linux on x86-64, Python 3.11 to 3.13.)

A reader must answer any bytes with a result or with a CodeLlamaError of one line; anything else is
a crash, whose input libFuzzer leaves in the working directory. It starts from small sound files of
its own making. test_fuzz_readers.py runs each for a few seconds; what hypothesis can do without
atheris is beside each reader's tests.
"""

from __future__ import annotations

import io
import json
import pickle
import struct
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import FunctionType, ModuleType

import atheris

from codellama.errors import CodeLlamaError
from codellama.weights import files, gguf_read, pickle_reader, safetensors, tensor, torch_zip

MATRIX = bytes(range(128))


def instrument(module: ModuleType) -> None:
    """Coverage of a module's functions and methods, in place: atheris's import hooks pass over
    packages that are installed for editing.
    """
    for value in vars(module).values():
        if getattr(value, "__module__", None) != module.__name__:
            continue
        for each in vars(value).values() if isinstance(value, type) else [value]:
            function = each.fget if isinstance(each, property) else each
            if isinstance(function, FunctionType):
                atheris.instrument_func(function)


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def gguf_seed() -> bytes:
    """Every kind of metadata, and two float32 tensors."""
    values = [
        ("general.alignment", 4, struct.pack("<I", 32)), ("s", 8, text("llama")),
        ("f", 6, struct.pack("<f", 0.5)), ("b", 7, b"\1"), ("q", 11, struct.pack("<q", -1)),
        ("strings", 9, struct.pack("<IQ", 8, 2) + text("a") + text("b")),
        ("ints", 9, struct.pack("<IQ2i", 5, 2, 1, 2)),
    ]  # fmt: skip
    head = b"GGUF" + struct.pack("<IQQ", 3, 2, len(values))
    for key, kind, value in values:
        head += text(key) + struct.pack("<I", kind) + value
    head += text("a") + struct.pack("<I2QIQ", 2, 8, 4, 0, 0)
    head += text("b") + struct.pack("<IQIQ", 1, 8, 0, 128)
    return head + bytes(-len(head) % 32) + MATRIX + MATRIX[:32]


def pickle_seed() -> bytes:
    """The program that torch.save writes for a state dict of one tensor, shortened."""
    storage = b"(X\x07\0\0\0storagectorch\nHalfStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x40tQ"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\0K\x08K\x08\x86K\x08K\x01\x86"
    return (
        b"\x80\x02}q\0(X\x01\0\0\0wq\x01" + tensor
        + b"\x89ccollections\nOrderedDict\n)RtRq\x02u."
    )  # fmt: skip


def safetensors_seed() -> bytes:
    header = json.dumps(
        {
            "__metadata__": {"format": "pt"},
            "a": {"dtype": "F16", "shape": [8, 8], "data_offsets": [0, 128]},
        }
    ).encode()
    return struct.pack("<Q", len(header)) + header + MATRIX


def archive(data: bytes) -> bytes:
    """A checkpoint around a pickle, stored without compression as torch.save does."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr("archive/data.pkl", data)
        file.writestr("archive/data/0", MATRIX)
        file.writestr("archive/version", b"3\n")
    return out.getvalue()


def read_gguf_whole(path: Path) -> None:
    for each in gguf_read.read_gguf(path).tensors.values():
        each.data.sum()


def read_safetensors_whole(path: Path) -> None:
    file = safetensors.read_safetensors(path)
    for name in file.entries:
        file.data(name).sum()


def read_torch_whole(path: Path) -> None:
    file = torch_zip.read_torch_file(path)
    for name in file.records:
        file.data(name).sum()
        file.type(name)


def once(read: Callable[[], object]) -> None:
    try:
        read()
    except CodeLlamaError as error:
        if "\n" in str(error):
            raise AssertionError(f"more than one line: {error!r}") from error


def target(reader: str, path: Path) -> tuple[Callable[[bytes], None], list[bytes]]:
    """What is run for each input, and the inputs to start from."""

    def through_file(read: Callable[[Path], None]) -> Callable[[bytes], None]:
        def run(data: bytes) -> None:
            path.write_bytes(data)
            once(lambda: read(path))

        return run

    if reader == "pickle":
        plain = pickle.dumps({"w": (1, -2, True, None, "x" * 300)}, protocol=2)
        return lambda data: once(lambda: pickle_reader.read_state_dict(data)), [
            pickle_seed(),
            plain,
        ]
    readers = {
        "gguf": (read_gguf_whole, gguf_seed()),
        "safetensors": (read_safetensors_whole, safetensors_seed()),
        "torch": (read_torch_whole, archive(pickle_seed())),
    }
    read, seed = readers[reader]
    return through_file(read), [seed]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        for module in (files, gguf_read, pickle_reader, safetensors, tensor, torch_zip):
            instrument(module)
        run, seeds = target(sys.argv[1], Path(folder) / "input")
        corpus = Path(folder) / "corpus"
        corpus.mkdir()
        for i, seed in enumerate(seeds):
            run(seed)
            (corpus / str(i)).write_bytes(seed)
        # 4 GB: a reader that believes a length takes more.
        arguments = [sys.argv[0], "-rss_limit_mb=4096", "-timeout=10", *sys.argv[2:], str(corpus)]
        atheris.Setup(arguments, run)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
