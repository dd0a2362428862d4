"""The native engine as a Runner: a model file's tensors packed into it, its paged cache, one call
per step.

Knows weights and native, not text and not scheduling. Loads from the memory map 64 MB at a time and
gives their pages back to the system, so that peak memory is one copy of the weights plus that, or
the largest tensor.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from codellama.engine.runner import BLOCK_SIZE, Batch, Logits
from codellama.engine.source import TensorSource
from codellama.errors import ModelFileError, RequestError
from codellama.model.config import KvType, ModelConfig
from codellama.native import NativeModel, Shape
from codellama.weights.blocks import dequantize
from codellama.weights.tensor import Bytes, Tensor, drop_pages

__all__ = ["NativeRunner"]

Progress = Callable[[int, int], None]

ROPE_FACTORS = "rope_freqs.weight"
BATCH = 64 << 20  # bytes packed in one call, without Python's lock


class NativeRunner:
    """engine.runner.Runner over codellama.native.

    Args:
        source: an open model file.
        context: longest sequence served, in tokens; default the model's own.
        n_blocks: KV blocks of 16 tokens; default enough for one sequence of `context` tokens.
        threads: default one per usable core.
        isa: instruction set by name; default the best, or CODELLAMA_ISA.
        kv_type: how keys and values are kept.
        progress: called with (tensors loaded, tensors in all).

    Raises:
        ModelFileError: a tensor is missing, misshapen, or holds NaN or Inf.
        RequestError: the instruction set is not available here.
    """

    def __init__(
        self,
        source: TensorSource,
        *,
        context: int | None = None,
        n_blocks: int | None = None,
        threads: int | None = None,
        isa: str | None = None,
        kv_type: KvType = "f16",
        progress: Progress | None = None,
    ) -> None:
        config = source.config
        self._context = context or config.context
        try:
            self._model = NativeModel(_shape(config), n_threads=threads, isa=isa)
        except ValueError as error:
            raise RequestError(str(error)) from None
        noted: list[Tensor] = []
        for index, name in enumerate(source.names):
            noted.append(source.tensor(name))
            self._note(noted[-1])
            last = index + 1 == len(source.names)
            if last or sum(tensor.data.size for tensor in noted) >= BATCH:
                self._pack(noted)
            if progress is not None:
                progress(index + 1, len(source.names))
        try:
            self._model.finish()
        except ValueError as error:
            raise ModelFileError(f"{config.name}: {error}") from None
        self._model.allocate_cache(n_blocks or -(-self._context // BLOCK_SIZE), kv_type)
        self._out_RV = np.empty((0, config.vocab_size), np.float32)

    def _note(self, tensor: Tensor) -> None:
        try:
            if tensor.name == ROPE_FACTORS:
                self._model.set_rope_frequency_factors(dequantize(tensor))
            elif len(tensor.shape) == 1:
                weight_D = dequantize(tensor)
                if not np.isfinite(weight_D).all():
                    raise ValueError("the weights contain NaN or infinite values")
                self._model.add_norm(tensor.name, weight_D)
            else:
                self._model.note_matrix(tensor.name, tensor.type, tensor.shape, tensor.data)
        except ValueError as error:
            raise ModelFileError(f"{tensor.name}: {error}") from None

    def _pack(self, noted: list[Tensor]) -> None:
        """Everything noted; the list is empty then."""
        try:
            self._model.pack()
        except ValueError as error:
            raise ModelFileError(str(error)) from None
        for tensor in noted:
            drop_pages(tensor.data)
        noted.clear()

    @property
    def vocab_size(self) -> int:
        return self._model.shape.vocab_size

    @property
    def context(self) -> int:
        return self._context

    @property
    def n_blocks(self) -> int:
        return self._model.n_blocks

    @property
    def isa(self) -> str:
        return self._model.isa

    @property
    def threads(self) -> int:
        return self._model.n_threads

    @property
    def weight_bytes(self) -> int:
        return self._model.weight_bytes

    @property
    def cache_bytes(self) -> int:
        return self._model.cache_bytes

    @property
    def kv_type(self) -> str:
        return self._model.kv_type

    def run(self, batch: Batch) -> Logits:
        """Logits [R, V]; the array is reused by the next run."""
        n_rows = len(batch.rows_R)
        if len(self._out_RV) < n_rows:
            self._out_RV = np.empty((n_rows, self.vocab_size), np.float32)
        out_RV = self._out_RV[:n_rows]
        self._step(batch, out_RV, hidden=False)
        return out_RV

    def hidden(self, batch: Batch) -> Logits:
        """Normalised last hidden states [R, D], for embeddings."""
        out_RD = np.empty((len(batch.rows_R), self._model.shape.dim), np.float32)
        self._step(batch, out_RD, hidden=True)
        return out_RD

    def _step(self, batch: Batch, out: Logits, *, hidden: bool) -> None:
        self._model.step(
            batch.tokens_T,
            batch.starts_S1,
            batch.past_S,
            batch.blocks_SB,
            batch.rows_R,
            n_exact=batch.n_decode,
            out=out,
            hidden=hidden,
        )

    def copy_block(self, source: int, target: int) -> None:
        self._model.copy_block(source, target)

    @property
    def block_bytes(self) -> int:
        return self._model.block_bytes

    def read_block(self, block: int, out: Bytes) -> None:
        self._model.read_block(block, out)

    def write_block(self, block: int, data: Bytes) -> None:
        self._model.write_block(block, data)


def _shape(config: ModelConfig) -> Shape:
    return Shape(
        dim=config.dim,
        n_layers=config.n_layers,
        n_heads=config.n_heads,
        n_kv_heads=config.n_kv_heads,
        head_dim=config.head_dim,
        ffn_dim=config.ffn_dim,
        vocab_size=config.vocab_size,
        norm_eps=config.norm_eps,
        rope_theta=config.rope_theta,
        rope_factor=config.rope_scaling.factor,
    )
