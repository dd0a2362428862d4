"""The PyTorch forward as a Runner: for GPUs, and as the slow, obvious twin of the native runner.

Keys and values lie in one paged cache on the device, [layers, blocks · 16, kv heads, head_dim], in
the model's own type or as the native engine's q8_0; a sequence's rows are gathered by its block
table. One pass over the ragged batch per layer, one
attention per sequence.

Shape legend: T new tokens of the step, S tokens of one sequence, D dim, K kv heads, H head_dim, V
vocabulary.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from codellama.engine.runner import BLOCK_SIZE, Batch, Logits
from codellama.model.config import KvType
from codellama.model.llama import Block, Llama, rope_angles
from codellama.weights.torch_model import load_llama

__all__ = ["TorchRunner", "load_llama"]


class _Plain:
    """Keys or values [layers, slots, kv heads, head_dim] as they come."""

    def __init__(self, shape: tuple[int, ...], like: Tensor) -> None:
        self._x = torch.zeros(shape, device=like.device, dtype=like.dtype)
        self.stores = [self._x]

    def write(self, layer: int, slots: Tensor, x_TKH: Tensor) -> None:
        self._x[layer, slots] = x_TKH

    def read(self, layer: int, slots: Tensor) -> Tensor:
        return self._x[layer, slots]


class _Quantized:
    """The same as int8 and a float32 scale per slot and kv head."""

    def __init__(self, shape: tuple[int, ...], like: Tensor) -> None:
        self._dtype = like.dtype
        self._codes = torch.zeros(shape, device=like.device, dtype=torch.int8)
        self._scales = torch.zeros((*shape[:-1], 1), device=like.device)
        self.stores = [self._codes, self._scales]

    def write(self, layer: int, slots: Tensor, x_TKH: Tensor) -> None:
        x_TKH = x_TKH.float()
        largest_TK1 = x_TKH.abs().amax(-1, keepdim=True)
        inverse_TK1 = torch.where(largest_TK1 > 0, 127 / largest_TK1, 0)
        self._codes[layer, slots] = (x_TKH * inverse_TK1).round().to(torch.int8)
        self._scales[layer, slots] = largest_TK1 / 127

    def read(self, layer: int, slots: Tensor) -> Tensor:
        return (self._codes[layer, slots] * self._scales[layer, slots]).to(self._dtype)


def hadamard(head_dim: int, like: Tensor) -> Tensor:
    """What keys and queries of q8_0 are multiplied with: orthonormal, of blocks of the largest
    power of two that divides head_dim.
    """
    width = head_dim & -head_dim
    block = torch.ones(1, 1)
    while len(block) < width:
        block = torch.cat([torch.cat([block, block], 1), torch.cat([block, -block], 1)])
    blocks = torch.kron(torch.eye(head_dim // width), block / width**0.5)
    return blocks.to(like.device, like.dtype)


class TorchRunner:
    """engine.runner.Runner on any PyTorch device.

    Args:
        model: from `load_llama`, on its device.
        context: longest sequence; n_blocks: KV blocks, default enough for one such sequence.
        kv_type: "f16" keeps keys and values as the model computes them.
    """

    def __init__(
        self,
        model: Llama,
        *,
        context: int | None = None,
        n_blocks: int | None = None,
        kv_type: KvType = "f16",
    ) -> None:
        self.model = model
        config = self.model.config
        self._context = context or config.context
        self._n_blocks = n_blocks or -(-self._context // BLOCK_SIZE)
        weight = self.model.tok_embeddings.weight
        self._device = weight.device
        shape = (
            config.n_layers,
            self._n_blocks * BLOCK_SIZE,
            config.n_kv_heads,
            config.head_dim,
        )
        self.kv_type = kv_type
        mixed = kv_type == "q8_0"
        cache = _Quantized if mixed else _Plain
        self._keys = cache(shape, weight)
        self._values = cache(shape, weight)
        self._mixer_HH = hadamard(config.head_dim, weight) if mixed else None

    @property
    def vocab_size(self) -> int:
        return self.model.config.vocab_size

    @property
    def context(self) -> int:
        return self._context

    @property
    def n_blocks(self) -> int:
        return self._n_blocks

    def run(self, batch: Batch) -> Logits:
        """Logits [R, V]."""
        logits: Logits = self.model.logits(self._hidden(batch)).cpu().numpy()
        return logits

    def hidden(self, batch: Batch) -> Logits:
        """Normalised last hidden states [R, D]."""
        states: Logits = self._hidden(batch).float().cpu().numpy()
        return states

    def copy_block(self, source: int, target: int) -> None:
        from_, to = source * BLOCK_SIZE, target * BLOCK_SIZE
        for store in (*self._keys.stores, *self._values.stores):
            store[:, to : to + BLOCK_SIZE] = store[:, from_ : from_ + BLOCK_SIZE]

    @torch.inference_mode()
    def _hidden(self, batch: Batch) -> Tensor:
        model = self.model
        positions_T, slots = self._places(batch)
        new_slots = torch.cat([s[p:] for s, p in zip(slots, batch.past_S.tolist(), strict=True)])
        angles_Th = rope_angles(model.config, positions_T, model.rope_factors)
        tokens_T = torch.from_numpy(batch.tokens_T.astype(np.int64)).to(self._device)
        x_TD = model.tok_embeddings(tokens_T)
        for layer, block in enumerate(model.layers):
            assert isinstance(block, Block)
            q, k, v = block.attention.qkv(block.attention_norm(x_TD)[None], angles_Th[None])
            if self._mixer_HH is not None:
                q, k = q @ self._mixer_HH, k @ self._mixer_HH
            self._keys.write(layer, new_slots, k[0])
            self._values.write(layer, new_slots, v[0])
            x_TD = x_TD + self._attend(block, layer, q, slots, batch)
            x_TD = x_TD + block.feed_forward(block.ffn_norm(x_TD))
        rows_R = torch.from_numpy(batch.rows_R.astype(np.int64)).to(self._device)
        out_RD: Tensor = model.norm(x_TD[rows_R])
        return out_RD

    def _places(self, batch: Batch) -> tuple[Tensor, list[Tensor]]:
        """Position of every new token [T]; per sequence the cache rows of all its tokens [S]."""
        positions, slots = [], []
        for s, past in enumerate(batch.past_S.tolist()):
            n = int(batch.starts_S1[s + 1] - batch.starts_S1[s])
            at = np.arange(past + n)
            positions.append(at[past:])
            rows = batch.blocks_SB[s, at // BLOCK_SIZE].astype(np.int64) * BLOCK_SIZE
            slots.append(torch.from_numpy(rows + at % BLOCK_SIZE).to(self._device))
        return torch.from_numpy(np.concatenate(positions)).to(self._device), slots

    def _attend(
        self, block: Block, layer: int, q_1TNH: Tensor, slots: list[Tensor], batch: Batch
    ) -> Tensor:
        outs = []
        for s, rows in enumerate(slots):
            begin, end = int(batch.starts_S1[s]), int(batch.starts_S1[s + 1])
            k, v = self._keys.read(layer, rows)[None], self._values.read(layer, rows)[None]
            new = torch.arange(len(rows) - (end - begin), len(rows), device=self._device)
            mask_TS = new[:, None] >= torch.arange(len(rows), device=self._device)
            outs.append(block.attention.attend(q_1TNH[:, begin:end], k, v, mask_TS)[0])
        return torch.cat(outs)
