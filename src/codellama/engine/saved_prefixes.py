"""The prefix cache between runs: a file of the blocks that were used last, and their place in the
tree.

    magic, version · length of the header · header (JSON: model, KV type, block bytes, block size,
    count)
    · per block: parent's place, 16 tokens · per block: its bytes · SHA-256 of all before

A file is taken whole or not at all: another version, another model, another layout of the cache or
one flipped bit, and the cache stays as it is. `model` is whatever decides the numbers (weights, and
the kernels that computed them); who calls makes it. Written aside, then renamed, so that a crash
leaves the last whole file. Knows no text and no engine; runs inside an engine's turn.

The checksum finds accidents, not enemies: the file must lie where only its user can write.
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
import time
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
import numpy.typing as npt

from codellama.engine.kv_pool import KEY_BYTES, KVPool
from codellama.engine.runner import BLOCK_SIZE

__all__ = ["restore", "save"]

MAGIC = b"codellama prefixes\n"
VERSION = 1
LONGEST_HEADER = 1 << 16
_NODE = struct.Struct(f"<i{KEY_BYTES}s")
_CHUNK = 1 << 20
RUBBISH_AGE_S = 3600.0

UInt8 = npt.NDArray[np.uint8]


class BlockStore(Protocol):
    """The part of a runner that can give blocks away and take them back."""

    @property
    def kv_type(self) -> str: ...
    @property
    def block_bytes(self) -> int: ...
    def read_block(self, block: int, out: UInt8) -> None: ...
    def write_block(self, block: int, data: UInt8) -> None: ...


def save(pool: KVPool, runner: Any, path: Path, model: str, most_bytes: int) -> int:
    """Write at most `most_bytes` of blocks; the tokens that are in the file.

    Nothing is written for runners that keep their blocks to themselves, or for an empty cache.
    Raises OSError when the disk does; the old file is then still there.
    """
    store = _store(runner)
    if store is None:
        return 0
    nodes = pool.recent(max(0, most_bytes // store.block_bytes))
    if not nodes:
        return 0
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    _clear_rubbish(path)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            os.chmod(temporary, 0o600)  # prompts are in it
            _write(file, store, nodes, model)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
    return len(nodes) * BLOCK_SIZE


def _clear_rubbish(path: Path) -> None:
    """What killed processes left of this file; a young one may be another process at work."""
    for left in path.parent.glob(f"{path.name}.*.tmp"):
        with contextlib.suppress(OSError):
            if left.stat().st_mtime < time.time() - RUBBISH_AGE_S:
                left.unlink()


def restore(pool: KVPool, runner: Any, path: Path, model: str) -> int:
    """Add a file to the cache; its tokens that are there now, 0 where the file is of no use."""
    store = _store(runner)
    if store is None:
        return 0
    try:
        with path.open("rb") as file:
            count = _checked(file, store, model)
            nodes = _nodes(file.read(count * _NODE.size), count)
            blocks = pool.adopt(nodes)
            for block, is_new in blocks:
                data = file.read(store.block_bytes)
                if is_new:
                    store.write_block(block, np.frombuffer(data, np.uint8))
            return len(blocks) * BLOCK_SIZE
    except (OSError, ValueError):
        return 0


def _store(runner: Any) -> BlockStore | None:
    return runner if hasattr(runner, "read_block") else None


def _write(
    file: BinaryIO, store: BlockStore, nodes: list[tuple[int, int, bytes]], model: str
) -> None:
    import hashlib  # 3 ms, and it waits until a cache is saved or restored

    digest = hashlib.sha256()

    def put(data: bytes) -> None:
        digest.update(data)
        file.write(data)

    header = json.dumps(_header(store, model, len(nodes))).encode()
    put(MAGIC + struct.pack("<II", VERSION, len(header)) + header)
    place = {block: i for i, (block, _parent, _key) in enumerate(nodes)}
    put(b"".join(_NODE.pack(place.get(parent, -1), key) for _block, parent, key in nodes))
    data = np.empty(store.block_bytes, np.uint8)
    for block, _parent, _key in nodes:
        store.read_block(block, data)
        put(data.tobytes())
    file.write(digest.digest())


def _header(store: BlockStore, model: str, count: int) -> dict[str, Any]:
    return {
        "model": model,
        "kv_type": store.kv_type,
        "block_bytes": store.block_bytes,
        "block_size": BLOCK_SIZE,
        "count": count,
    }


def _checked(file: BinaryIO, store: BlockStore, model: str) -> int:
    """The number of blocks of a file that is whole and for this model; the file then stands at its
    nodes. Raises ValueError otherwise.
    """
    start = file.read(len(MAGIC) + 8)
    if len(start) != len(MAGIC) + 8 or not start.startswith(MAGIC):
        raise ValueError("not a file of prefixes")
    version, length = struct.unpack("<II", start[len(MAGIC) :])
    if version != VERSION or length > LONGEST_HEADER:
        raise ValueError("a file of another version")
    header = json.loads(file.read(length))
    count = header.get("count") if isinstance(header, dict) else None
    if not isinstance(count, int) or header != _header(store, model, count):
        raise ValueError("the prefixes of another model")
    body = file.tell()
    size = os.fstat(file.fileno()).st_size
    if count < 0 or size != body + count * (_NODE.size + store.block_bytes) + 32:
        raise ValueError("a file that was cut")
    import hashlib

    digest, left = hashlib.sha256(), size - 32
    file.seek(0)
    while left:
        part = file.read(min(_CHUNK, left))
        digest.update(part)
        left -= len(part)
    if file.read(32) != digest.digest():
        raise ValueError("a damaged file")
    file.seek(body)
    return count


def _nodes(raw: bytes, count: int) -> list[tuple[int, bytes]]:
    nodes = [_NODE.unpack_from(raw, i * _NODE.size) for i in range(count)]
    if any(not -1 <= parent < i for i, (parent, _key) in enumerate(nodes)):
        raise ValueError("a tree that is none")
    return nodes
