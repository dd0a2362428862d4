"""The typed face of the native engine: shapes and arrays in, logits out.

Imports nothing of ours: tensors arrive as (name, storage type number, shape, bytes). Knows Meta's
tensor names, because the extension addresses weights by slot and layer. Does not read files,
schedule, sample, or check weight values.

Shape legend: T new tokens, S sequences, B blocks of the longest table, R wanted rows, V
vocabulary, D dim.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

import codellama.native._native as _native

__all__ = ["BLOCK_SIZE", "NativeModel", "Shape", "available_isas", "default_threads"]

BLOCK_SIZE = 16

Float32 = npt.NDArray[np.float32]
Int32 = npt.NDArray[np.int32]
UInt8 = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The numbers of a Llama that the kernels need; fields as in the model's configuration."""

    dim: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    ffn_dim: int
    vocab_size: int
    norm_eps: float
    rope_theta: float
    rope_factor: float = 1.0


def available_isas() -> list[str]:
    """Instruction sets of this build and machine, best first; always ends in "portable"."""
    return list(_native.available_isas())


def default_threads() -> int:
    """One thread per core this process may use, no more than a container's CPU quota grants."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    quota = _cgroup_cores()
    return max(1, min(cores, quota) if quota else cores)


def _cgroup_cores() -> int | None:
    """Whole cores of the cgroup v2 or v1 CPU quota, rounded up; None without one."""
    try:
        with open("/sys/fs/cgroup/cpu.max") as file:
            quota, period = file.read().split()
    except (OSError, ValueError):
        try:
            with open("/sys/fs/cgroup/cpu/cpu.cfs_quota_us") as file:
                quota = file.read().strip()
            with open("/sys/fs/cgroup/cpu/cpu.cfs_period_us") as file:
                period = file.read().strip()
        except OSError:
            return None
    if not quota.isdigit() or not period.isdigit() or int(period) == 0:
        return None
    return -(-int(quota) // int(period))


def _address(name: str) -> tuple[str, int]:
    """Slot and layer: ("wq", 3) of layers.3.attention.wq.weight, ("norm", -1) of norm.weight."""
    match = _NAME.fullmatch(name)
    if match is None:
        raise ValueError(f"unknown tensor name {name!r}")
    return match["slot"], int(match["layer"] or -1)


_NAME = re.compile(
    r"(?:layers\.(?P<layer>[0-9]{1,6})\.(?:attention\.|feed_forward\.)?)?(?P<slot>\w+)\.weight"
)


class NativeModel:
    """A Llama in the engine's own weight layout, with a paged KV cache of 16-token blocks.

    Add every tensor, then `finish()`, then `allocate_cache()`, then `step()`. Weights are copied
    bit for bit into the kernels' layout as they are added: the source bytes may be dropped
    afterwards.

    Args:
        shape: the model's numbers.
        n_threads: worker threads, this one included; default one per usable core.
        isa: instruction set by name; default CODELLAMA_ISA, else the best this machine has.

    Raises ValueError for shapes, types or instruction sets that the kernels do not serve.
    """

    def __init__(
        self, shape: Shape, *, n_threads: int | None = None, isa: str | None = None
    ) -> None:
        self.shape = shape
        self._noted: list[tuple[str, UInt8]] = []  # the engine has only the addresses of the bytes
        self._model = _native.Model(
            dim=shape.dim,
            n_layers=shape.n_layers,
            n_heads=shape.n_heads,
            n_kv_heads=shape.n_kv_heads,
            head_dim=shape.head_dim,
            ffn_dim=shape.ffn_dim,
            vocab_size=shape.vocab_size,
            norm_eps=shape.norm_eps,
            rope_theta=shape.rope_theta,
            rope_factor=shape.rope_factor,
            n_threads=n_threads or default_threads(),
            isa=isa if isa is not None else os.environ.get("CODELLAMA_ISA", ""),
        )

    def add_matrix(self, name: str, type_number: int, shape: Sequence[int], data: UInt8) -> None:
        """Add a matrix [rows, columns] by Meta's name, e.g. "layers.0.attention.wq.weight"."""
        self.note_matrix(name, type_number, shape, data)
        self.pack()

    def note_matrix(self, name: str, type_number: int, shape: Sequence[int], data: UInt8) -> None:
        """Add a matrix at the next `pack`: many together are packed without Python in between."""
        if len(shape) != 2:
            raise ValueError(f"a matrix has two dimensions, not {len(shape)}")
        rows, columns = shape
        self._model.add_matrix(*_address(name), int(type_number), rows, columns, data)
        self._noted.append((name, data))

    def pack(self) -> None:
        """Pack the matrices noted. Raises ValueError, which names it, for one with NaN or Inf."""
        noted, self._noted = self._noted, []
        bad = self._model.pack()
        if bad >= 0:
            raise ValueError(f"{noted[bad][0]}: the weights contain NaN or infinite values")

    def add_norm(self, name: str, weight: Float32) -> None:
        """Add an RMSNorm weight [D] by Meta's name, e.g. "layers.0.attention_norm.weight"."""
        self._model.set_norm(*_address(name), np.ascontiguousarray(weight, np.float32))

    def set_rope_frequency_factors(self, factors: Float32) -> None:
        """Divide RoPE frequencies by factors [head_dim / 2] (`rope_freqs` of Llama 3 files)."""
        self._model.set_rope_frequency_factors(np.ascontiguousarray(factors, np.float32))

    def finish(self) -> None:
        """Check that every tensor is there in its shape."""
        self._model.check_complete()

    def allocate_cache(self, n_blocks: int, kv_type: str = "f16") -> None:
        """Make room for n_blocks · 16 tokens; memory is taken as it is first touched.

        Args:
            kv_type: "f16", or "q8_0": int8 with a scale per position and kv head.
        """
        self._model.allocate_cache(n_blocks, kv_type)

    def copy_block(self, source: int, target: int) -> None:
        """Copy one block's keys and values in every layer."""
        self._model.copy_block(source, target)

    @property
    def block_bytes(self) -> int:
        """Bytes of one block's keys and values in every layer."""
        return int(self._model.block_bytes)

    def read_block(self, block: int, out: UInt8) -> None:
        """Copy a block out, as `block_bytes` bytes in the engine's own layout."""
        self._model.read_block(block, out)

    def write_block(self, block: int, data: UInt8) -> None:
        """Put back what `read_block` gave."""
        self._model.write_block(block, data)

    def step(
        self,
        tokens_T: Int32,
        starts_S1: Int32,
        past_S: Int32,
        blocks_SB: Int32,
        rows_R: Int32,
        *,
        n_exact: int | None = None,
        hidden: bool = False,
        out: Float32 | None = None,
    ) -> Float32:
        """Run one ragged batch; returns logits [R, V], or the normalised last hidden states [R, D].

        Tokens from n_exact on belong to prompts (default: none do). Instruction sets with a matrix
        unit compute those in bfloat16, the others with int8 activations; either way a token's
        result depends on its own sequence alone.

        `out` is written and returned when given. Raises, before anything is computed, ValueError
        for token ids, blocks or rows that do not exist and for block tables that are too short,
        TypeError for arrays of another type or layout: none is converted.
        """
        if out is None:
            width = self.shape.dim if hidden else self.shape.vocab_size
            out = np.empty((len(rows_R), width), np.float32)
        exact = len(tokens_T) if n_exact is None else n_exact
        self._model.step(tokens_T, starts_S1, past_S, blocks_SB, rows_R, exact, out, hidden)
        return out

    @property
    def isa(self) -> str:
        return str(self._model.isa)

    @property
    def n_threads(self) -> int:
        return int(self._model.n_threads)

    @property
    def n_blocks(self) -> int:
        return int(self._model.n_blocks)

    @property
    def weight_bytes(self) -> int:
        return int(self._model.weight_bytes)

    @property
    def cache_bytes(self) -> int:
        return int(self._model.cache_bytes)

    @property
    def kv_type(self) -> str:
        return str(self._model.kv_type)
