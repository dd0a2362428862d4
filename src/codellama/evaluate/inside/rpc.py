"""A Python candidate and the tests that judge it, in two boxes, joined by one socket.

    python rpc.py candidate FD     runs the untrusted code; answers calls
    python rpc.py judge FD         runs the tests, where calls to the candidate cross the socket

Only plain values cross, by exact type, so what comes back has no `__eq__` of the candidate's own:
an int subclass arrives as the int it holds. Anything else (instances, functions, iterators) stays
where it is and crosses as a handle; the judge may call it, read its attributes and iterate over it,
but compares it by identity. The judge believes nothing that it reads: it parses JSON of bounded
size, and ends with "failed" at the first thing that is not well formed.

The judge reads {"prelude", "remote", "tests"} from standard input and prints one line of JSON:
{"verdict": "passed"} or {"verdict": "failed", "detail": traceback}.
"""

from __future__ import annotations

import builtins
import json
import os
import sys
from collections import OrderedDict, deque
from types import CodeType
from typing import Any

LIMIT = 64 << 20
DETAIL = 4000


class Channel:
    """Lines of JSON on a descriptor."""

    def __init__(self, fd: int) -> None:
        self.reader = os.fdopen(os.dup(fd), "rb")
        self.writer = os.fdopen(fd, "wb", buffering=0)

    def send(self, message: Any) -> None:
        line = json.dumps(message).encode() + b"\n"
        if len(line) > LIMIT:
            raise ValueError("a value of more than 64 MB")
        self.writer.write(line)

    def receive(self) -> Any:
        line = self.reader.readline(LIMIT)
        if not line.endswith(b"\n"):
            raise EOFError("the program ended before its answer")
        return json.loads(line)


class Side:
    """One end: encodes values, and keeps the objects that the other end holds handles of."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.kept: list[Any] = []

    def encode(self, value: Any) -> Any:
        kind: type = type(value)
        if value is None or kind in (bool, int, float, str):
            return value
        if kind is list:
            return [self.encode(each) for each in value]
        if kind is dict:
            return {"d": [[self.encode(k), self.encode(v)] for k, v in dict.items(value)]}
        for name, base in (("t", tuple), ("s", set), ("z", frozenset), ("q", deque)):
            if kind is base:
                return {name: [self.encode(each) for each in base.__iter__(value)]}
        if kind is OrderedDict:
            return {"o": [[self.encode(k), self.encode(v)] for k, v in value.items()]}
        if kind in (bytes, bytearray):
            return {"b": bytes(value).hex()}
        if kind is complex:
            return {"c": [value.real, value.imag]}
        if kind is type and vars(builtins).get(getattr(value, "__name__", "")) is value:
            return {"y": getattr(value, "__name__", "")}
        return self.encode_other(value)

    def encode_other(self, value: Any) -> Any:
        raise NotImplementedError

    def decode(self, data: Any) -> Any:
        if type(data) is list:
            return [self.decode(each) for each in data]
        if type(data) is not dict:
            return data
        ((name, inner),) = data.items()
        if name in ("d", "o"):
            pairs = [(self.decode(k), self.decode(v)) for k, v in inner]
            return dict(pairs) if name == "d" else OrderedDict(pairs)
        if name in ("t", "s", "z", "q"):
            base: Any = {"t": tuple, "s": set, "z": frozenset, "q": deque}[name]
            return base(self.decode(each) for each in inner)
        if name == "b":
            return bytes.fromhex(inner)
        if name == "c":
            return complex(*inner)
        if name == "y" and type(getattr(builtins, inner)) is type:
            return getattr(builtins, inner)
        return self.decode_other(name, inner)

    def decode_other(self, name: str, inner: Any) -> Any:
        raise NotImplementedError


class Candidate(Side):
    """The untrusted end. Whatever it does, it can only send values."""

    def encode_other(self, value: Any) -> Any:
        # The value inside a subclass, taken by the base's own methods.
        if isinstance(value, int):
            return int.__add__(value, 0)
        if isinstance(value, float):
            return float.__add__(value, 0.0)
        if isinstance(value, str):
            return str.__str__(value)[:] if type(str.__str__(value)) is str else "".join(value)
        if isinstance(value, dict):
            return {"d": [[self.encode(k), self.encode(v)] for k, v in dict.items(value)]}
        if isinstance(value, list):
            return [self.encode(each) for each in list.__iter__(value)]
        if isinstance(value, tuple):
            return {"t": [self.encode(each) for each in tuple.__iter__(value)]}
        if isinstance(value, set | frozenset):
            return {"s": [self.encode(each) for each in value]}
        self.kept.append(value)
        return {"h": len(self.kept) - 1}

    def decode_other(self, name: str, inner: Any) -> Any:
        if name == "h":
            return self.kept[inner]
        raise ValueError(name)

    def serve(self) -> None:
        program = self.channel.receive()
        space: dict[str, Any] = {"__name__": "candidate", "__builtins__": builtins}
        try:
            exec(compile(program["code"], "candidate.py", "exec"), space)
        except BaseException as error:
            self.channel.send(failure(error))
            return
        self.channel.send({"value": sorted(name for name in space if isinstance(name, str))})
        while True:
            try:
                action, *words = self.channel.receive()
            except EOFError:
                return
            try:
                answer = {"value": self.encode(self.act(space, action, words))}
            except BaseException as error:
                answer = failure(error)
            self.channel.send(answer)

    def act(self, space: dict[str, Any], action: str, words: list[Any]) -> Any:
        if action == "global":
            return space[words[0]]
        target = self.kept[words[0]]
        if action == "call":
            args, kwargs = self.decode(words[1]), self.decode(words[2])
            result = target(*args, **kwargs)
            # Arguments that the call changed in place go back, too.
            return (result, [arg if isinstance(arg, list | dict | set) else None for arg in args])
        if action == "get":
            return getattr(target, words[1])
        if action == "set":
            return setattr(target, words[1], self.decode(words[2]))
        if action == "iterate":
            return list(target)
        if action == "item":
            return target[self.decode(words[1])]
        if action == "length":
            return len(target)
        if action == "text":
            return str(target)
        raise ValueError(action)


class Remote:
    """The judge's view of an object of the candidate's."""

    __slots__ = ("_handle", "_judge")

    def __init__(self, judge: Judge, handle: int) -> None:
        object.__setattr__(self, "_judge", judge)
        object.__setattr__(self, "_handle", handle)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        judge = self._judge
        encoded = judge.encode(list(args)), judge.encode(kwargs)
        result, changed = judge.ask("call", self._handle, *encoded)
        for arg, now in zip(args, changed, strict=True):
            if now is not None and now != arg:
                restore(arg, now)
        return result

    def __getattr__(self, name: str) -> Any:
        return self._judge.ask("get", self._handle, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._judge.ask("set", self._handle, name, self._judge.encode(value))

    def __iter__(self) -> Any:
        return iter(self._judge.ask("iterate", self._handle))

    def __getitem__(self, key: Any) -> Any:
        return self._judge.ask("item", self._handle, self._judge.encode(key))

    def __len__(self) -> int:
        return int(self._judge.ask("length", self._handle))

    def __bool__(self) -> bool:
        return True

    def __str__(self) -> str:
        return str(self._judge.ask("text", self._handle))


class RemoteError(Exception):
    """An exception of the candidate's that is not a built-in one."""


class Judge(Side):
    """The trusted end: tests of the data set, and values from the candidate."""

    def encode_other(self, value: Any) -> Any:
        if type(value) is Remote:
            return {"h": value._handle}
        raise TypeError(f"a {type(value).__name__} cannot be given to the program")

    def decode_other(self, name: str, inner: Any) -> Any:
        if name == "h" and type(inner) is int:
            return Remote(self, inner)
        raise EOFError("not an answer")

    def ask(self, *message: Any) -> Any:
        self.channel.send(message)
        return self.answer(self.channel.receive())

    def answer(self, message: Any) -> Any:
        if "value" in message:
            return self.decode(message["value"])
        kind = getattr(builtins, str(message["error"]), None)
        text = f"{message['text']}\n{message['trace']}"
        if isinstance(kind, type) and issubclass(kind, Exception) and kind is not StopIteration:
            try:
                error = kind(text)
            except TypeError:  # such as UnicodeDecodeError, which wants five arguments
                error = RemoteError(text)
            raise error
        raise RemoteError(f"{message['error']}: {text}")

    def bind(self, space: dict[str, Any], remote: list[str], source: str) -> None:
        """Put the candidate's names that the tests use into their namespace."""
        used = names(compile(source, "tests.py", "exec"))
        for name in remote:
            if name in used:
                space[name] = self.ask("global", name)


def restore(old: Any, new: Any) -> None:
    """Make a list, dict or set hold what its copy in the candidate holds now."""
    if type(old) is type(new) is list:
        old[:] = new
    elif type(old) is type(new) and isinstance(old, dict | set):
        old.clear()
        old.update(new)


def names(code: CodeType) -> set[str]:
    """Every name that a compiled program and its functions mention."""
    found = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            found |= names(constant)
    return found


def failure(error: BaseException) -> dict[str, str]:
    import traceback  # 5 ms, which most programs do not need

    told = traceback.TracebackException.from_exception(error)
    # Our own frames tell nobody anything.
    own = failure.__code__.co_filename
    frames = [frame for frame in told.stack if frame.filename != own]
    told.stack = traceback.StackSummary.from_list(frames)
    trace = "".join(told.format())[-DETAIL:]
    return {"error": type(error).__name__, "text": str(error)[:DETAIL], "trace": trace}


def judge(channel: Channel) -> dict[str, str]:
    task = json.load(sys.stdin)
    side = Judge(channel)
    try:
        defined = side.answer(channel.receive())
        space: dict[str, Any] = {"__name__": "tests", "__builtins__": builtins}
        exec(compile(task["prelude"], "reference.py", "exec"), space)
        remote = [name for name in task["remote"] if name in defined]
        for name in task["remote"]:
            space.pop(name, None)
        side.bind(space, remote, task["tests"])
        exec(compile(task["tests"], "tests.py", "exec"), space)
    except BaseException as error:
        return {"verdict": "failed", "detail": failure(error)["trace"]}
    return {"verdict": "passed"}


def main() -> None:
    sys.set_int_max_str_digits(0)
    role, fd = sys.argv[1], int(sys.argv[2])
    channel = Channel(fd)
    if role == "candidate":
        Candidate(channel).serve()
        return
    verdict = judge(channel)
    sys.stdout.write("\n" + json.dumps(verdict) + "\n")
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
