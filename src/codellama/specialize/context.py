"""Context parallelism: a row cut over processes, each of which holds a run of its tokens.

Keys and values are gathered, queries stay. Everything but one layer's keys and values takes a
process's share of the memory; the products of the weights, its share of the time. Runs on every
backend: PyTorch's own ring attention has no sharding rule for CPU tensors in 2.13.

Runs are equal and in order, so later ones have more to attend to: the last process of n does
about twice the attention of the mean. Knows no weights and no mesh.

Shape legend: T tokens of the row, C of this process, N query heads, K kv heads, H head_dim.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Context", "gathered_attention"]


class Context:
    """This process's place among those that share a row.

    Args:
        group: of torch.distributed, whose processes hold the runs in the order of their ranks.
    """

    def __init__(self, group: Any) -> None:
        self.group = group
        self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)

    def padded(
        self, tokens_T: Tensor, lengths: Sequence[int], weights_T: Tensor
    ) -> tuple[Tensor, list[int], Tensor]:
        """A row whose tokens divide among the processes: a piece of weight 0 may be added."""
        missing = -len(tokens_T) % self.size
        if not missing:
            return tokens_T, list(lengths), weights_T
        return F.pad(tokens_T, (0, missing)), [*lengths, missing], F.pad(weights_T, (0, missing))

    def own(self, x_T: Tensor) -> Tensor:
        """This process's run of a padded row."""
        return x_T.chunk(self.size)[self.rank]

    def attend(
        self, q_1CNH: Tensor, k_1CKH: Tensor, v_1CKH: Tensor, lengths: Sequence[int]
    ) -> Tensor:
        """See `gathered_attention`; heads side by side, [1, C, N · H]."""
        return gathered_attention(q_1CNH, k_1CKH, v_1CKH, lengths, self.group).flatten(-2)


def gathered_attention(
    q_1CNH: Tensor, k_1CKH: Tensor, v_1CKH: Tensor, lengths: Sequence[int], group: Any
) -> Tensor:
    """Causal attention inside pieces for this rank's C tokens of a row cut over the ranks.

    Args:
        lengths: of the pieces of the whole row; they add up to C · ranks.

    Returns:
        [1, C, N, H].
    """
    rank, own = dist.get_rank(group), q_1CNH.shape[1]
    k_1TKH: Tensor = _Gather.apply(k_1CKH, group)  # type: ignore[no-untyped-call]
    v_1TKH: Tensor = _Gather.apply(v_1CKH, group)  # type: ignore[no-untyped-call]
    grouped = q_1CNH.shape[2] != k_1TKH.shape[2]
    low, high = rank * own, (rank + 1) * own
    outs, start = [], 0
    for length in lengths:
        begin, end = max(start, low), min(start + length, high)
        if begin < end:
            q = q_1CNH[:, begin - low : end - low]
            k, v = k_1TKH[:, start:end], v_1TKH[:, start:end]
            rows = torch.arange(begin - start, end - start, device=q.device)
            seen = rows[:, None] >= torch.arange(end - start, device=q.device)
            out = F.scaled_dot_product_attention(
                q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2),
                attn_mask=seen, enable_gqa=grouped,
            )  # fmt: skip
            outs.append(out.transpose(1, 2))
        start += length
    return torch.cat(outs, 1)


class _Gather(torch.autograd.Function):
    """All ranks' chunks joined along dim 1; the gradient of a chunk is summed over the ranks."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any) -> Tensor:
        ctx.group = group
        parts = [torch.empty_like(x) for _ in range(dist.get_world_size(group))]
        dist.all_gather(parts, x.contiguous(), group=group)
        return torch.cat(parts, 1)

    @staticmethod
    def backward(ctx: Any, *slopes: Any) -> tuple[Tensor, None]:
        (slope,) = slopes
        size, rank = dist.get_world_size(ctx.group), dist.get_rank(ctx.group)
        total = slope.contiguous()
        dist.all_reduce(total, group=ctx.group)
        return total.chunk(size, 1)[rank].contiguous(), None
