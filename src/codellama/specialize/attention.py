"""Causal attention inside every piece of a packed row.

Pieces are functions of a hundred tokens or two, for which PyTorch's attention on a CPU is slow
backward: its own backward of one piece of 256 is 3.3 ms. Short pieces therefore have a backward of
plain batched products here; long ones, and other devices, PyTorch's.

Shape legend: T tokens of the row, n of one piece, N query heads, K kv heads, G query heads of a kv
head, H head_dim.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["SHORT", "SoftmaxSlopes", "attend_pieces", "softmax_slopes"]

SoftmaxSlopes = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]

SHORT = 384
"""Longest piece whose scores are held whole: [9, 384, 384] float32 are 5 MB, about a core's L2. A
multiple of STEP.
"""

STEP = 16
"""Pieces are lengthened to a multiple on a CPU, where PyTorch's library compiles products for every
size that it meets and keeps the last 1,024, and every size of memory is a hole of its own.
"""


def softmax_slopes(
    scores: Tensor, inner: Tensor, norm: Tensor, drift: Tensor, mask_nn: Tensor
) -> tuple[Tensor, Tensor]:
    """(softmax of masked scores, the loss's derivative by them), both in the scores' type.

    Args:
        scores, inner: q·k and slope·v, [K, G, n, n].
        norm, drift: log of the softmax's sum, and Σ slope · out, of every row, float32.
        mask_nn: 0, and −∞ for what is not seen.
    """
    weights = (scores.float() + mask_nn - norm).exp()
    return weights.to(scores.dtype), (weights * (inner.float() - drift)).to(scores.dtype)


def attend_pieces(
    q_1TNH: Tensor,
    k_1TKH: Tensor,
    v_1TKH: Tensor,
    sizes: list[int],
    slopes: SoftmaxSlopes = softmax_slopes,
) -> Tensor:
    """softmax(q·k/√H)·v of every piece alone, [1, T, N · H].

    Args:
        slopes: `softmax_slopes` or a compiled version of it.
    """
    heads = (q_1TNH.shape[2], k_1TKH.shape[2])
    parts = zip(*(torch.split(x, sizes, 1) for x in (q_1TNH, k_1TKH, v_1TKH)), strict=True)
    outs = []
    for q, k, v in parts:
        size = q.shape[1]
        if q.device.type == "cpu" and size % STEP:
            # Nobody sees what comes after: the last rows and columns change nothing before them.
            q, k, v = (F.pad(x, (0, 0, 0, 0, 0, -size % STEP)) for x in (q, k, v))
        if q.device.type == "cpu" and size <= SHORT:
            out: Tensor = _ShortPiece.apply(q, k, v, slopes)  # type: ignore[no-untyped-call]
        else:
            out = F.scaled_dot_product_attention(
                q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2),
                is_causal=True, enable_gqa=heads[0] != heads[1],
            ).transpose(1, 2)  # fmt: skip
        outs.append(out[:, :size])
    return torch.cat(outs, 1).flatten(-2)


class _ShortPiece(torch.autograd.Function):
    """One piece: PyTorch's forward, and its derivative written out (arXiv 2205.14135, §B.4)."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, slopes: SoftmaxSlopes) -> Tensor:
        out_1NnH, norm_1Nn = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), 0.0, True
        )
        out: Tensor = out_1NnH.transpose(1, 2)
        ctx.save_for_backward(q, k, v, out, norm_1Nn)
        ctx.slopes = slopes
        return out

    @staticmethod
    def backward(ctx: Any, *slopes: Any) -> tuple[Tensor | None, ...]:
        (slope,) = slopes
        q, k, v, out, norm_1Nn = ctx.saved_tensors
        n, N, H = q.shape[1:]
        K = k.shape[2]
        G, scale = N // K, 1 / math.sqrt(H)
        rows, square = (K, G, n, 1), (K, G, n, n)
        q_KrH, slope_KrH = _grouped(q * scale, K), _grouped(slope.contiguous(), K)
        k_KnH, v_KnH = k[0].transpose(0, 1), v[0].transpose(0, 1)
        drift = _grouped((slope.float() * out).sum(-1, keepdim=True), K).view(rows)

        scores, inner = torch.bmm(q_KrH, k_KnH.mT), torch.bmm(slope_KrH, v_KnH.mT)
        mask_nn = _mask(SHORT)[:n, :n]
        both = ctx.slopes(
            scores.view(square), inner.view(square), norm_1Nn.reshape(rows), drift, mask_nn
        )
        weights, inner_slope = (x.view(K, G * n, n) for x in both)
        grad_v = torch.bmm(weights.mT, slope_KrH)
        grad_q = torch.bmm(inner_slope, k_KnH).mul_(scale)
        grad_k = torch.bmm(inner_slope.mT, q_KrH)
        return (
            grad_q.view(K, G, n, H).permute(2, 0, 1, 3).reshape(1, n, N, H),
            grad_k.transpose(0, 1)[None],
            grad_v.transpose(0, 1)[None],
            None,
        )


@cache
def _mask(size: int) -> Tensor:
    """[size, size]: −∞ above the diagonal."""
    return torch.full((size, size), -math.inf).triu_(1)


def _grouped(x_1nNH: Tensor, kv_heads: int) -> Tensor:
    """[K, G · n, H]: the rows of all query heads that share a kv head, one head after another."""
    _, n, N, H = x_1nNH.shape
    x_KGnH = x_1nNH.view(n, kv_heads, N // kv_heads, H).permute(1, 2, 0, 3)
    return x_KGnH.reshape(kv_heads, -1, H)
