"""The PyTorch forward as a Runner: for GPUs, and as the slow, obvious twin of the native runner.

Keys and values lie in one paged cache on the device, [layers, blocks · 16, kv heads, head_dim]; a
sequence's rows are gathered by its block table. One pass over the ragged batch per layer, one
attention per sequence.

Shape legend: T new tokens of the step, S tokens of one sequence, D dim, K kv heads, H head_dim, V
vocabulary.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from codellama.engine.runner import BLOCK_SIZE, Batch, Logits
from codellama.model.llama import Block, Llama, rope_angles
from codellama.weights.torch_model import load_llama

__all__ = ["TorchRunner", "load_llama"]


class TorchRunner:
    """engine.runner.Runner on any PyTorch device.

    Args:
        model: from `load_llama`, on its device.
        context: longest sequence; n_blocks: KV blocks, default enough for one such sequence.
    """

    def __init__(
        self, model: Llama, *, context: int | None = None, n_blocks: int | None = None
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
        self._keys = torch.zeros(shape, device=weight.device, dtype=weight.dtype)
        self._values = torch.zeros_like(self._keys)

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
        for cache in (self._keys, self._values):
            cache[:, to : to + BLOCK_SIZE] = cache[:, from_ : from_ + BLOCK_SIZE]

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
            self._keys[layer, new_slots] = k[0]
            self._values[layer, new_slots] = v[0]
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
            k, v = self._keys[layer, rows][None], self._values[layer, rows][None]
            new = torch.arange(len(rows) - (end - begin), len(rows), device=self._device)
            mask_TS = new[:, None] >= torch.arange(len(rows), device=self._device)
            outs.append(block.attention.attend(q_1TNH[:, begin:end], k, v, mask_TS)[0])
        return torch.cat(outs)
