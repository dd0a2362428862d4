"""The forward and the loss of training, over pieces packed one after another without padding.

The model is model/llama.py's, run layer by layer: positions start anew with every piece and each
piece attends to itself alone, by one causal attention per piece (a dense mask over a row of 2,048
would cost four times the attention of four pieces of 512). The loss never holds all logits: 2,048
tokens of SmolLM2 would need 403 MB in float32.

Shape legend: T tokens of the micro-batch, D dim, V vocabulary, N query heads, K kv heads, H
head_dim.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from codellama.model.llama import Attention, Llama, rope_angles
from codellama.specialize.attention import SoftmaxSlopes, attend_pieces, softmax_slopes
from codellama.specialize.context import Context
from codellama.specialize.lora import NewRows

__all__ = [
    "Entropy", "PackedLoss", "chunked_loss", "entropy", "head_weight", "packed_hidden", "positions",
]  # fmt: skip

STEP = 64
"""Tokens come in multiples of it, the last of no weight: see attention.py."""

CHUNK = 512
"""Tokens whose logits are looked at in float32 at one time: 100 MB for a vocabulary of 49,152, and
several times that where nothing is compiled.
"""

GROUP = 2048
"""Tokens whose slopes a gradient of the head is made of at once, 201 MB in bfloat16: a sum over
groups takes three passes over a matrix in float32.
"""

Embed = Callable[[Tensor], Tensor]
Entropy = Callable[[Tensor, Tensor, Tensor], Tensor]


class PackedLoss(nn.Module):
    """The loss of packed pieces as one module: what is trained, and what FSDP shards.

    Args:
        new_rows: the few trainable rows of a frozen embedding, or None.
        recompute: see `packed_hidden`.

    Attributes:
        entropy: loss and slopes of a chunk; training may put a compiled version in its place.
        slopes: of the softmax of short pieces; the same.
        context: where a row is cut over processes, this one among them; then the loss is that of
            its tokens alone.
    """

    def __init__(
        self,
        model: Llama,
        new_rows: NewRows | None = None,
        *,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        self.model, self.new_rows, self.recompute = model, new_rows, recompute
        self.entropy: Entropy = entropy
        self.slopes: SoftmaxSlopes = softmax_slopes
        self.context: Context | None = None

    def forward(self, tokens_T: Tensor, lengths: Sequence[int], weights_T: Tensor) -> Tensor:
        """Σ weight · cross-entropy; weights_T[i] is that of predicting token i + 1 from i."""
        rows, context = self.new_rows, self.context
        targets_T = tokens_T.roll(-1)
        if context is not None:
            tokens_T, pieces, weights_T = context.padded(tokens_T, lengths, weights_T)
            targets_T, lengths = context.own(tokens_T.roll(-1)), pieces
            tokens_T, weights_T = context.own(tokens_T), context.own(weights_T)
        elif more := -len(tokens_T) % STEP:
            tokens_T, targets_T, weights_T = (
                F.pad(x, (0, more)) for x in (tokens_T, targets_T, weights_T)
            )
            lengths = [*lengths, more]
        hidden_TD = packed_hidden(
            self.model, tokens_T, lengths, embed=rows, recompute=self.recompute,
            slopes=self.slopes, context=context,
        )  # fmt: skip
        return chunked_loss(
            hidden_TD,
            head_weight(self.model),
            targets_T,
            weights_T,
            rows_RD=None if rows is None else rows.rows,
            row_ids_R=None if rows is None else rows.ids,
            entropy=self.entropy,
        )


def positions(lengths: Sequence[int]) -> Tensor:
    """0, 1, … anew for every piece, int64 [T]."""
    return torch.cat([torch.arange(length) for length in lengths])


def packed_hidden(
    model: Llama,
    tokens_T: Tensor,
    lengths: Sequence[int],
    *,
    embed: Embed | None = None,
    recompute: bool = False,
    slopes: SoftmaxSlopes = softmax_slopes,
    context: Context | None = None,
) -> Tensor:
    """Normalized last states [T, D] of pieces of `lengths` tokens each.

    Args:
        embed: replaces the model's embedding (lora.py trains a few of its rows).
        recompute: activation checkpointing: keep only each layer's input for the backward pass.
        slopes: see attention.py.
        context: tokens_T are this process's of a padded row, `lengths` those of all of it.
    """
    at_T = positions(lengths).to(tokens_T.device)
    if context is not None:
        at_T = context.own(at_T)
    angles_1Th = rope_angles(model.config, at_T, model.rope_factors)[None]
    sizes = list(lengths)

    def attend(attention: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if context is not None:
            shared_BTD: Tensor = attention.wo(context.attend(q, k, v, sizes))
            return shared_BTD
        if len(sizes) == 1:
            return attention.attend(q, k, v, None)
        out_BTD: Tensor = attention.wo(attend_pieces(q, k, v, sizes, slopes))
        return out_BTD

    x_1TD = (embed or model.tok_embeddings)(tokens_T)[None]
    for block in model.layers:
        if recompute and torch.is_grad_enabled():
            x_1TD = checkpoint(block, x_1TD, angles_1Th, attend, use_reentrant=False)
        else:
            x_1TD = block(x_1TD, angles_1Th, attend)
    out_TD: Tensor = model.norm(x_1TD[0])
    return out_TD


def head_weight(model: Llama) -> Tensor:
    """[V, D]: the output matrix, which a tied model shares with its embeddings."""
    weight: Tensor = (model.tok_embeddings if model.output is None else model.output).weight
    return weight


def entropy(logits_cV: Tensor, targets_c: Tensor, weights_c: Tensor) -> Tensor:
    """Σ weight · cross-entropy in float32. Its derivative by the logits takes their place."""
    logits, at_c1, weights_c1 = logits_cV.float(), targets_c[:, None], weights_c[:, None]
    norm_c1 = logits.logsumexp(1, keepdim=True)
    chosen_c1 = logits.gather(1, at_c1)
    loss = (weights_c1 * (norm_c1 - chosen_c1)).sum()
    logits_cV.copy_((logits - norm_c1).exp() * weights_c1)
    hit_c1 = ((chosen_c1 - norm_c1).exp() - 1) * weights_c1
    logits_cV.scatter_(1, at_c1, hit_c1.to(logits_cV.dtype))
    return loss


def chunked_loss(
    hidden_TD: Tensor,
    head_VD: Tensor,
    targets_T: Tensor,
    weights_T: Tensor,
    *,
    rows_RD: Tensor | None = None,
    row_ids_R: Tensor | None = None,
    chunk: int = CHUNK,
    group: int = GROUP,
    entropy: Entropy = entropy,
) -> Tensor:
    """Σ weight · cross-entropy over tokens, float32; positions of weight 0 are not computed.

    The gradients are computed with the loss, so logits are made once. They come with the weights'
    size: a caller who divides those by the weights of the whole batch spares a pass over them.

    Args:
        rows_RD, row_ids_R: trainable rows of a frozen head, whose values the head already holds.
        chunk, group: see CHUNK and GROUP; a frozen head has no use for groups.
    """
    used = weights_T.nonzero().squeeze(1)
    more = -len(used) % STEP
    if len(used) + more < len(weights_T):
        weights_T = F.pad(weights_T[used], (0, more))
        used = F.pad(used, (0, more))  # the first token again, of no weight
        hidden_TD, targets_T = hidden_TD[used], targets_T[used]
    loss: Tensor = _ChunkedLoss.apply(  # type: ignore[no-untyped-call]
        hidden_TD, head_VD, rows_RD, targets_T, weights_T, row_ids_R, (chunk, group), entropy
    )
    return loss


class _ChunkedLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_TD: Tensor,
        head_VD: Tensor,
        rows_RD: Tensor | None,
        targets_T: Tensor,
        weights_T: Tensor,
        row_ids_R: Tensor | None,
        sizes: tuple[int, int],
        entropy: Entropy,
    ) -> Tensor:
        chunk, group = sizes
        if not ctx.needs_input_grad[1]:
            group = chunk
        total = torch.zeros((), device=hidden_TD.device)
        grad_hidden = torch.empty_like(hidden_TD)
        grad_head: Tensor | None = None
        grad_rows = None if rows_RD is None else torch.zeros_like(rows_RD, dtype=torch.float32)
        scratch_gV = hidden_TD.new_empty(min(group, len(hidden_TD)), len(head_VD))
        for begin in range(0, len(hidden_TD), group):
            part = slice(begin, begin + group)
            h_gD = hidden_TD[part]
            slope_gV = scratch_gV[: len(h_gD)]
            total += _slopes(
                h_gD, head_VD, targets_T[part], weights_T[part], slope_gV, chunk, entropy
            )
            torch.mm(slope_gV, head_VD, out=grad_hidden[part])
            if ctx.needs_input_grad[1]:
                more = slope_gV.T @ h_gD
                grad_head = more if grad_head is None else grad_head.float().add_(more)
            if grad_rows is not None:
                grad_rows += slope_gV[:, row_ids_R].T.float() @ h_gD.float()
        ctx.save_for_backward(grad_hidden, grad_head, grad_rows)
        ctx.dtypes = (head_VD.dtype, None if rows_RD is None else rows_RD.dtype)
        return total

    @staticmethod
    def backward(ctx: Any, *slopes: Any) -> tuple[Tensor | None, ...]:
        (slope,) = slopes
        hidden, head, rows = ctx.saved_tensors
        head_type, rows_type = ctx.dtypes
        if slope != 1:
            hidden, head, rows = (x if x is None else x * slope for x in (hidden, head, rows))
        return (
            hidden,
            None if head is None else head.to(head_type),
            None if rows is None else rows.to(rows_type),
            None, None, None, None, None,
        )  # fmt: skip


def _slopes(
    h_gD: Tensor,
    head_VD: Tensor,
    targets_g: Tensor,
    weights_g: Tensor,
    out_gV: Tensor,
    chunk: int,
    entropy: Entropy,
) -> Tensor:
    """The loss of a group; `out_gV` becomes its derivative by the logits."""
    total = torch.zeros((), device=h_gD.device)
    for begin in range(0, len(h_gD), chunk):
        part = slice(begin, begin + chunk)
        torch.mm(h_gD[part], head_VD.T, out=out_gV[part])
        total += entropy(out_gV[part], targets_g[part], weights_g[part])
    return total
