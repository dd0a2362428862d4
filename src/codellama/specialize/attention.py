"""Causal attention inside every piece of a packed row.

Pieces are functions of a hundred tokens or two, for which PyTorch's attention on a CPU is slow
backward: its own backward of one piece of 256 is 3.3 ms. Short pieces therefore have a backward of
plain batched products here, several of like lengths at once: eight of 128 tokens take 2.9 ms, one
after the other 7.5. Long ones, and other devices, have PyTorch's.

Shape legend: T tokens of the row, B pieces of a batch, n tokens of each, N query heads, K kv heads,
G query heads of a kv head, H head_dim.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import cache, lru_cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["SHORT", "SoftmaxSlopes", "attend_pieces", "softmax_slopes"]

SoftmaxSlopes = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]

SHORT = 384
"""Longest piece whose scores are held whole: [9, 384, 384] float32 are 5 MB, about a core's L2. A
multiple of what `_step` gives.
"""

_BATCH_BYTES = 5 << 20
"""Of the scores of a batch of pieces."""


def _step(dtype: torch.dtype) -> int:
    """Pieces are lengthened to a multiple on a CPU, where PyTorch's library compiles products for
    every size that it meets and keeps the last 1,024, and every size of memory is a hole of its
    own. Where the processor has bfloat16, products cost less than their calls.
    """
    return 64 if dtype == torch.bfloat16 else 16


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
    on_cpu = q_1TNH.device.type == "cpu"
    short = [on_cpu and size <= SHORT for size in sizes]
    qkv = (q_1TNH, k_1TKH, v_1TKH)
    if all(short):
        return _attend_short(*qkv, sizes, slopes).flatten(-2)
    parts = list(zip(*(torch.split(x, sizes, 1) for x in qkv), strict=True))
    done: Iterator[Tensor] = iter(())
    if few := [part for part, is_short in zip(parts, short, strict=True) if is_short]:
        q, k, v = (torch.cat(x, 1) for x in zip(*few, strict=True))
        lengths = [size for size, is_short in zip(sizes, short, strict=True) if is_short]
        done = iter(torch.split(_attend_short(q, k, v, lengths, slopes), lengths, 1))
    outs = [
        next(done) if is_short else _attend_long(*part)
        for part, is_short in zip(parts, short, strict=True)
    ]
    return torch.cat(outs, 1).flatten(-2)


def _attend_long(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    size = q.shape[1]
    if q.device.type == "cpu":
        # Nobody sees what comes after: the last rows and columns change nothing before them.
        more = -size % _step(q.dtype)
        q, k, v = (F.pad(x, (0, 0, 0, 0, 0, more)) for x in (q, k, v))
    out: Tensor = F.scaled_dot_product_attention(
        q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2),
        is_causal=True, enable_gqa=q.shape[2] != k.shape[2],
    ).transpose(1, 2)[:, :size]  # fmt: skip
    return out


def _attend_short(
    q_1TNH: Tensor, k_1TKH: Tensor, v_1TKH: Tensor, sizes: list[int], slopes: SoftmaxSlopes
) -> Tensor:
    pair_bytes = q_1TNH.shape[2] * q_1TNH.element_size()
    batches = _batches(tuple(sizes), _step(q_1TNH.dtype), _BATCH_BYTES // pair_bytes)
    out_TNH: Tensor = _ShortPieces.apply(  # type: ignore[no-untyped-call]
        q_1TNH[0], k_1TKH[0], v_1TKH[0], batches, slopes
    )
    return out_TNH[None]


class _Batch(NamedTuple):
    """Pieces that are attended at once, each lengthened to n tokens by zeros.

    Attributes:
        tokens: places in T of the pieces' tokens.
        places: where these lie among B · n; None where they are all of them.
    """

    B: int
    n: int
    tokens: Tensor
    places: Tensor | None

    def take(self, x_Tkh: Tensor) -> Tensor:
        """[B, n, …]"""
        own = x_Tkh.index_select(0, self.tokens)
        if self.places is not None:
            whole = own.new_zeros(self.B * self.n, *own.shape[1:])
            own = whole.index_copy_(0, self.places, own)
        return own.view(self.B, self.n, *own.shape[1:])

    def put(self, x_Bnkh: Tensor, out_Tkh: Tensor) -> None:
        own = x_Bnkh.flatten(0, 1)
        if self.places is not None:
            own = own.index_select(0, self.places)
        out_Tkh.index_copy_(0, self.tokens, own)


@lru_cache(2)  # every layer asks anew, and so does recomputing
def _batches(sizes: tuple[int, ...], step: int, most_pairs: int) -> list[_Batch]:
    """Pieces of one length, after lengthening, together: one, or as many as have at most so many
    pairs of tokens.
    """
    groups: dict[int, list[tuple[int, int]]] = {}
    begin = 0
    for size in sizes:
        if size:
            groups.setdefault(size + -size % step, []).append((begin, size))
        begin += size
    made = []
    for n, pieces in groups.items():
        most = max(1, most_pairs // (n * n))
        for first in range(0, len(pieces), most):
            part = torch.tensor(pieces[first : first + most])
            at_n = torch.arange(n)
            own_Bn = at_n < part[:, 1:]
            places = None if bool(own_Bn.all()) else own_Bn.flatten().nonzero().squeeze(1)
            made.append(_Batch(len(part), n, (part[:, :1] + at_n)[own_Bn], places))
    return made


class _ShortPieces(torch.autograd.Function):
    """PyTorch's forward, and its derivative written out (arXiv 2205.14135, §B.4)."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, batches: list[_Batch], slopes: SoftmaxSlopes
    ) -> Tensor:
        out, norms = torch.empty_like(q), []
        for batch in batches:
            out_BNnH, norm_BNn = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
                *(batch.take(x).transpose(1, 2) for x in (q, k, v)), 0.0, True
            )
            batch.put(out_BNnH.transpose(1, 2), out)
            norms.append(norm_BNn)
        ctx.save_for_backward(q, k, v, out, *norms)
        ctx.batches, ctx.slopes = batches, slopes
        return out

    @staticmethod
    def backward(ctx: Any, *slopes: Any) -> tuple[Tensor | None, ...]:
        (slope,) = slopes
        q, k, v, out, *norms = ctx.saved_tensors
        drift_TN1 = (slope.float() * out).sum(-1, keepdim=True)
        gradients = [torch.empty_like(x) for x in (q, k, v)]
        for batch, norm in zip(ctx.batches, norms, strict=True):
            found = _backward(
                batch.take(q), batch.take(k), batch.take(v), batch.take(slope),
                batch.take(drift_TN1), norm, ctx.slopes,
            )  # fmt: skip
            for part, whole in zip(found, gradients, strict=True):
                batch.put(part, whole)
        return (*gradients, None, None)


def _backward(
    q: Tensor, k: Tensor, v: Tensor, slope: Tensor, drift: Tensor, norm_BNn: Tensor,
    slopes: SoftmaxSlopes,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The derivatives of a batch by q, k and v."""
    B, n, N, H = q.shape
    K = k.shape[2]
    G, scale = N // K, 1 / math.sqrt(H)
    square = (B * K, G, n, n)
    q_brH, slope_brH = _grouped(q * scale, K), _grouped(slope, K)
    k_bnH, v_bnH = _grouped(k, K), _grouped(v, K)
    scores, inner = torch.bmm(q_brH, k_bnH.mT), torch.bmm(slope_brH, v_bnH.mT)
    both = slopes(
        scores.view(square), inner.view(square), norm_BNn.reshape(B * K, G, n, 1),
        _grouped(drift, K).view(B * K, G, n, 1), _mask(n),
    )  # fmt: skip
    weights, inner_slope = (x.view(B * K, G * n, n) for x in both)
    grad_v = torch.bmm(weights.mT, slope_brH)
    grad_q = torch.bmm(inner_slope, k_bnH).mul_(scale)
    grad_k = torch.bmm(inner_slope.mT, q_brH)
    return (
        grad_q.view(B, K, G, n, H).permute(0, 3, 1, 2, 4).reshape(q.shape),
        grad_k.view(B, K, n, H).transpose(1, 2),
        grad_v.view(B, K, n, H).transpose(1, 2),
    )


@cache
def _mask(size: int) -> Tensor:
    """[size, size]: −∞ above the diagonal."""
    return torch.full((size, size), -math.inf).triu_(1)


def _grouped(x_Bnkh: Tensor, kv_heads: int) -> Tensor:
    """[B · K, G · n, h]: the rows of all heads that share a kv head, one head after another."""
    B, n, heads, h = x_Bnkh.shape
    x_BKGnh = x_Bnkh.reshape(B, n, kv_heads, heads // kv_heads, h).permute(0, 2, 3, 1, 4)
    return x_BKGnh.reshape(B * kv_heads, -1, h)
