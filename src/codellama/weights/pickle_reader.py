"""The pickle inside a PyTorch checkpoint, read without running it.

A pickle is a program for a small stack machine, and Python's own machine calls what the program
names. This one is ours: it knows the two dozen opcodes that torch.save emits for a state dict, and
a handful of globals, each of which becomes an inert description (a storage, a tensor over it).
Nothing is imported, called or hashed that the file chooses. Everything else is refused by name:
an opcode, a global, a key that is not a string.

Knows nothing of zip files (torch_zip.py) or models (meta.py). Does not check ranges against the
storages' real sizes; torch_zip.py does.

Source of the opcodes: pickletools of the standard library; of the globals: torch/_utils.py,
`_rebuild_tensor_v2`, and torch/serialization.py, `persistent_id`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from codellama.errors import ModelFileError

__all__ = ["Storage", "TensorRecord", "read_state_dict"]

_SIZE_LIMIT = (
    4 << 20
)  # a shard of the 70B model has 0.2 MB of pickle; one opcode can take 100 bytes
_LONGEST_INT = 8  # bytes
_MAX_DIMENSIONS = 8

_ELEMENT_BYTES = {
    "FloatStorage": 4, "HalfStorage": 2, "BFloat16Storage": 2, "DoubleStorage": 8,
    "LongStorage": 8, "IntStorage": 4, "ShortStorage": 2, "CharStorage": 1, "ByteStorage": 1,
    "BoolStorage": 1, "ComplexFloatStorage": 8,
}  # fmt: skip
_MARK = object()


@dataclass(frozen=True, slots=True)
class Storage:
    """A run of `length` elements kept in the archive's member `data/<key>`."""

    kind: str  # "HalfStorage", …
    key: str
    length: int

    @property
    def element_bytes(self) -> int:
        return _ELEMENT_BYTES[self.kind]


@dataclass(frozen=True, slots=True)
class TensorRecord:
    """A tensor as torch.save describes it; offset and strides count elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def is_contiguous(self) -> bool:
        """Row-major without gaps; strides of dimensions of size 1 say nothing."""
        step = 1
        for size, stride in zip(reversed(self.shape), reversed(self.strides), strict=True):
            if size != 1 and stride != step:
                return False
            step *= size
        return True


@dataclass(frozen=True, slots=True)
class _Global:
    """An allowed name; `kind` is its last part."""

    kind: str


_GLOBALS: dict[tuple[str, str], _Global] = {
    (module, kind): _Global(kind)
    for module, kind in (
        ("collections", "OrderedDict"),
        ("torch._utils", "_rebuild_tensor_v2"),
        ("torch._utils", "_rebuild_parameter"),
        *(("torch", kind) for kind in _ELEMENT_BYTES),
    )
}


def read_state_dict(data: bytes) -> dict[str, TensorRecord]:
    """The tensors of a pickled state dict by name; entries that are no tensors are left out.

    Raises:
        ModelFileError: the pickle is damaged, or asks for anything beyond tensors in a dict: the
            forbidden name is in the message. The message does not name the file; the caller does.
    """
    if len(data) > _SIZE_LIMIT:
        raise ModelFileError(f"its pickle of {len(data):,} bytes is larger than any checkpoint's")
    result = _Machine(data).run()
    if not isinstance(result, dict):
        raise ModelFileError("its pickle holds no dictionary of tensors")
    return {name: value for name, value in result.items() if isinstance(value, TensorRecord)}


class _Machine:
    """The stack machine. Values are None, bool, int, float, str, tuple, list, dict and the
    descriptions above; a dict's keys are strings.
    """

    def __init__(self, program: bytes) -> None:
        self._program = program
        self._position = 0
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def run(self) -> Any:
        try:
            while (opcode := self.take(1)) != b".":
                action = _ACTIONS.get(opcode)
                if action is None:
                    raise ModelFileError(
                        f"its pickle uses {_opcode_name(opcode)}, which weights never need"
                    )
                action(self)
            return self.pop()
        except (ValueError, IndexError, KeyError, MemoryError) as error:
            raise ModelFileError(f"its pickle is damaged ({type(error).__name__})") from None

    # The program

    def take(self, size: int) -> bytes:
        """The next `size` bytes of the program."""
        taken = self._program[self._position : self._position + size]
        if len(taken) < size:
            raise ValueError
        self._position += size
        return taken

    def unsigned(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def signed(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little", signed=True)

    def long(self) -> int:
        size = self.unsigned(1)
        if size > _LONGEST_INT:
            raise ValueError
        return self.signed(size)

    def real(self) -> float:
        value: float = struct.unpack(">d", self.take(8))[0]
        return value

    def text(self, size: int) -> str:
        return self.take(size).decode("utf-8")

    def line(self) -> str:
        end = self._program.index(b"\n", self._position)
        text = self.text(end - self._position)
        self._position = end + 1
        return text

    # The stack

    def push(self, value: Any) -> None:
        self._stack.append(value)

    def pop(self) -> Any:
        value = self._stack.pop()
        if value is _MARK:
            raise ValueError
        return value

    def pop_to_mark(self) -> list[Any]:
        items: list[Any] = []
        while (value := self._stack.pop()) is not _MARK:
            items.append(value)
        return items[::-1]

    def remember(self, index: int | None) -> None:
        top = self._stack[-1]
        if top is _MARK:
            raise ValueError
        self._memo[len(self._memo) if index is None else index] = top

    def recall(self, index: int) -> None:
        self.push(self._memo[index])

    # Containers

    def make_tuple(self, size: int) -> None:
        self.push(tuple([self.pop() for _ in range(size)][::-1]))

    def append(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if not isinstance(target, list):
            raise ValueError
        target.extend(items)

    def set_items(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if not isinstance(target, dict) or len(items) % 2:
            raise ValueError
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(key) is not str:
                raise ModelFileError("its pickle holds a dictionary whose keys are not names")
            target[key] = value

    # What in another machine would run code

    def find_global(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise ValueError
        if (module, name) not in _GLOBALS:
            raise ModelFileError(
                f"its pickle asks for {f'{module}.{name}'[:100]!r}: weights never do; the file may "
                "be malicious and was not run"
            )
        self.push(_GLOBALS[module, name])

    def reduce(self) -> None:
        arguments, function = self.pop(), self.pop()
        if not isinstance(arguments, tuple) or not isinstance(function, _Global):
            raise ValueError
        maker = _MAKERS.get(function.kind)
        if maker is None:
            raise ValueError
        self.push(maker(arguments))

    def build(self) -> None:
        """An OrderedDict's attributes (torch keeps `_metadata` there): dropped."""
        self.pop()
        if not isinstance(self._stack[-1], dict):
            raise ValueError

    def load_storage(self) -> None:
        """The persistent id of torch.save: ("storage", type, key, device, elements)."""
        identity = self.pop()
        if not isinstance(identity, tuple):
            raise ValueError
        tag, kind, key, _device, length = identity
        if tag != "storage" or not isinstance(kind, _Global) or kind.kind not in _ELEMENT_BYTES:
            raise ValueError
        if type(key) is not str or not key.isalnum() or not _is_size(length):
            raise ValueError
        self.push(Storage(kind.kind, key, length))


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 48


def _sizes(value: Any) -> tuple[int, ...]:
    if not isinstance(value, tuple) or len(value) > _MAX_DIMENSIONS:
        raise ValueError
    if not all(_is_size(n) for n in value):
        raise ValueError
    return value


def _tensor(arguments: tuple[Any, ...]) -> TensorRecord:
    """_rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks[, metadata])."""
    storage, offset, shape, strides = arguments[:4]
    shape, strides = _sizes(shape), _sizes(strides)
    if not isinstance(storage, Storage) or not _is_size(offset) or len(shape) != len(strides):
        raise ValueError
    return TensorRecord(storage, offset, shape, strides)


def _parameter(arguments: tuple[Any, ...]) -> TensorRecord:
    """_rebuild_parameter(tensor, requires_grad, hooks)."""
    if not isinstance(arguments[0], TensorRecord):
        raise ValueError
    return arguments[0]


def _ordered_dict(arguments: tuple[Any, ...]) -> dict[str, Any]:
    if arguments:
        raise ValueError
    return {}


_MAKERS: dict[str, Callable[[tuple[Any, ...]], Any]] = {
    "OrderedDict": _ordered_dict,
    "_rebuild_tensor_v2": _tensor,
    "_rebuild_parameter": _parameter,
}

_ACTIONS: dict[bytes, Callable[[_Machine], None]] = {
    b"\x80": lambda m: _ignore(m.take(1)),  # PROTO
    b"\x95": lambda m: _ignore(m.take(8)),  # FRAME
    b"(": lambda m: m.push(_MARK),
    b"N": lambda m: m.push(None),
    b"\x88": lambda m: m.push(True),
    b"\x89": lambda m: m.push(False),
    b"K": lambda m: m.push(m.unsigned(1)),  # BININT1
    b"M": lambda m: m.push(m.unsigned(2)),  # BININT2
    b"J": lambda m: m.push(m.signed(4)),  # BININT
    b"\x8a": lambda m: m.push(m.long()),  # LONG1
    b"G": lambda m: m.push(m.real()),  # BINFLOAT
    b"X": lambda m: m.push(m.text(m.unsigned(4))),  # BINUNICODE
    b"\x8c": lambda m: m.push(m.text(m.unsigned(1))),  # SHORT_BINUNICODE
    b"q": lambda m: m.remember(m.unsigned(1)),  # BINPUT
    b"r": lambda m: m.remember(m.unsigned(4)),  # LONG_BINPUT
    b"\x94": lambda m: m.remember(None),  # MEMOIZE
    b"h": lambda m: m.recall(m.unsigned(1)),  # BINGET
    b"j": lambda m: m.recall(m.unsigned(4)),  # LONG_BINGET
    b")": lambda m: m.push(()),
    b"\x85": lambda m: m.make_tuple(1),
    b"\x86": lambda m: m.make_tuple(2),
    b"\x87": lambda m: m.make_tuple(3),
    b"t": lambda m: m.push(tuple(m.pop_to_mark())),
    b"]": lambda m: m.push([]),
    b"}": lambda m: m.push({}),
    b"a": lambda m: m.append([m.pop()]),
    b"e": lambda m: m.append(m.pop_to_mark()),
    b"s": lambda m: m.set_items([m.pop(), m.pop()][::-1]),
    b"u": lambda m: m.set_items(m.pop_to_mark()),
    b"c": lambda m: m.find_global(m.line(), m.line()),  # GLOBAL
    b"\x93": lambda m: m.find_global(*[m.pop(), m.pop()][::-1]),  # STACK_GLOBAL
    b"R": lambda m: m.reduce(),
    b"b": lambda m: m.build(),
    b"Q": lambda m: m.load_storage(),  # BINPERSID
}


def _ignore(_: bytes) -> None:
    """The protocol's number and the length of a frame say nothing that the opcodes do not."""


def _opcode_name(opcode: bytes) -> str:
    import pickletools

    names = {known.code: known.name for known in pickletools.opcodes}
    return names.get(opcode.decode("latin-1"), f"the unknown opcode {opcode!r}")
