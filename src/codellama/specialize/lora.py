"""Low-rank adapters (arXiv 2106.09685) on every matrix of the layers, and the few embedding rows of
new tokens that are trained with them.

`add_lora` freezes the model and puts a LoraLinear in the place of wq, wk, wv, wo, w1, w2, w3. A
tied model's new rows serve as embedding and as output, as all its rows do. The base may be held in
bfloat16 (export.py adds the products to the base's own file, which that rounding does not touch),
or stay quantized as its file has it and be dequantized matrix by matrix (QLoRA, arXiv 2305.14314,
over any GGUF type): a quarter of the memory, and slower.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codellama.errors import RequestError
from codellama.model.llama import Llama
from codellama.specialize.recipe import Lora
from codellama.weights.adapter_file import Adapter
from codellama.weights.blocks import dequantize
from codellama.weights.tensor import Tensor as Stored

__all__ = ["LoraLinear", "NewRows", "add_lora", "average_with", "lora_layers", "start_from"]

_ATTENTION, _FEED_FORWARD = ("wq", "wk", "wv", "wo"), ("w1", "w2", "w3")


class LoraLinear(nn.Module):
    """x·Wᵀ + scale · (x·Aᵀ)·Bᵀ with W frozen; B starts at zero, so the start changes nothing."""

    def __init__(
        self, base: nn.Linear, lora: Lora, generator: torch.Generator, stored: Stored | None
    ) -> None:
        super().__init__()
        self.stored = stored
        self.weight = base.weight if stored is None else None
        self.scale = lora.scale
        out, width = base.weight.shape
        a = torch.empty(lora.rank, width)
        nn.init.uniform_(a, -1 / math.sqrt(width), 1 / math.sqrt(width), generator=generator)
        self.a = nn.Parameter(a)
        self.b = nn.Parameter(torch.zeros(out, lora.rank))

    def forward(self, x: Tensor) -> Tensor:
        frozen = self.weight if self.stored is None else self.stored
        out: Tensor = _AdaptedLinear.apply(  # type: ignore[no-untyped-call]
            x, frozen, self.a, self.b, self.scale
        )
        return out

    def update(self) -> Tensor:
        """scale · B·A in float32: what training added to W."""
        return self.scale * (self.b.float() @ self.a.float())


class _AdaptedLinear(torch.autograd.Function):
    """x·(W + scale·B·A)ᵀ with W frozen. The sum is cheaper than passes over the activations of
    2,048 tokens. It is summed in float32 and rounded once to the type of x, as the weights of full
    fine-tuning are, and kept for the backward pass (212 MB for SmolLM2-135M), but for a quantized
    W, whose memory is what counts there.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, frozen: Tensor | Stored, a: Tensor, b: Tensor, scale: float
    ) -> Tensor:
        ctx.frozen, ctx.scale = frozen, scale
        weight = _adapted(frozen, a, b, scale, x)
        kept = weight if isinstance(frozen, Tensor) else None
        ctx.save_for_backward(x, a, b, kept)
        return F.linear(x, weight)

    @staticmethod
    def backward(ctx: Any, *slopes: Any) -> tuple[Tensor | None, ...]:
        (slope,) = slopes
        x, a, b, weight = ctx.saved_tensors
        x_TI, slope_TO = x.flatten(0, -2), slope.flatten(0, -2)
        if weight is None:
            weight = _adapted(ctx.frozen, a, b, ctx.scale, x)
        grad_a = (slope_TO @ b).T @ x_TI
        grad_b = slope_TO.T @ F.linear(x_TI, a)
        return slope @ weight, None, grad_a * ctx.scale, grad_b * ctx.scale, None


def _adapted(frozen: Tensor | Stored, a: Tensor, b: Tensor, scale: float, like: Tensor) -> Tensor:
    weight = frozen if isinstance(frozen, Tensor) else _dequantized(frozen, like)
    return torch.addmm(weight, b, a, alpha=scale)


def _dequantized(stored: Stored, like: Tensor) -> Tensor:
    values = torch.from_numpy(np.array(dequantize(stored))).reshape(stored.shape)
    return values.to(like.device, like.dtype)


class NewRows(nn.Module):
    """Trainable rows `ids` of an otherwise frozen embedding."""

    def __init__(self, embeddings: nn.Embedding, ids: Sequence[int]) -> None:
        super().__init__()
        self.embeddings = embeddings
        self.ids = torch.tensor(list(ids))
        self.rows = nn.Parameter(embeddings.weight.detach()[self.ids].clone())
        place = torch.full((embeddings.num_embeddings,), -1)
        place[self.ids] = torch.arange(len(self.ids))
        self.place = place

    def forward(self, tokens_T: Tensor) -> Tensor:
        x_TD: Tensor = self.embeddings(tokens_T)
        place_T = self.place[tokens_T]
        hits = (place_T >= 0).nonzero().squeeze(1)
        if not len(hits):
            return x_TD
        return x_TD.index_put((hits,), self.rows[place_T[hits]].to(x_TD.dtype))

    @torch.no_grad()
    def sync(self) -> None:
        """Write the rows into the embedding, from which a tied head computes its logits."""
        self.embeddings.weight[self.ids] = self.rows.to(self.embeddings.weight.dtype)


def add_lora(
    model: Llama, lora: Lora, seed: int, stored: Callable[[str], Stored] | None = None
) -> None:
    """Freeze `model` and give every matrix of its layers an adapter.

    Args:
        stored: the base's tensors by name as its file holds them; needed, and used, where the
            adapters stand on a quantized base.
    """
    model.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for layer, block in enumerate(model.layers):
        for module, names in (("attention", _ATTENTION), ("feed_forward", _FEED_FORWARD)):
            owner = getattr(block, module)
            for name in names:
                tensor = None
                if lora.quantized:
                    assert stored is not None
                    tensor = stored(f"layers.{layer}.{module}.{name}.weight")
                setattr(owner, name, LoraLinear(getattr(owner, name), lora, generator, tensor))


def lora_layers(model: Llama) -> Iterator[tuple[str, LoraLinear]]:
    """(name of the weight in the checkpoint, adapter) of every adapted matrix."""
    for name, module in model.named_modules():
        if isinstance(module, LoraLinear):
            yield f"{name}.weight", module


def start_from(model: Llama, rows: NewRows | None, adapter: Adapter) -> None:
    """Let adapters and new rows begin as `adapter` has them, so that its training goes on.

    Raises RequestError where it is of another shape than what is to be trained.
    """
    _mix(model, rows, adapter, 1.0)


def average_with(model: Llama, rows: NewRows | None, adapter: Adapter) -> None:
    """The mean, weight by weight, of what was trained and `adapter`, which it started from: often
    better than either (arXiv 2203.05482, 2109.01903).
    """
    _mix(model, rows, adapter, 0.5)


@torch.no_grad()
def _mix(model: Llama, rows: NewRows | None, adapter: Adapter, share: float) -> None:
    """Move adapters and rows by this share of the way to those of `adapter`."""
    layers = dict(lora_layers(model))
    names = {f"{name}.{part}" for name in layers for part in "ab"}
    if names != set(adapter.arrays) - {"rows"}:
        raise RequestError("the adapter to start from has other matrices than the recipe trains")
    for name, layer in layers.items():
        ratio = adapter.scale / layer.scale
        for own, part, times in ((layer.a, "a", 1.0), (layer.b, "b", ratio)):
            start = torch.from_numpy(np.array(adapter.arrays[f"{name}.{part}"], np.float32))
            if start.shape != own.shape:
                raise RequestError(
                    f"the adapter to start from has {name}.{part} of {tuple(start.shape)}, the "
                    f"recipe trains {tuple(own.shape)}: they must have one rank"
                )
            own.lerp_((start * times).to(own), share)
    if rows is None or not adapter.rows:
        return
    if tuple(rows.ids.tolist()) != adapter.rows:
        raise RequestError("the adapter to start from has other new tokens than the recipe trains")
    start = torch.from_numpy(np.array(adapter.arrays["rows"], np.float32))
    rows.rows.lerp_(start.to(rows.rows), share)
    rows.sync()
