"""The element-wise parts of training compiled by torch.compile: one pass over memory where there
were three to eight. SmolLM2-135M with LoRA on two cores: 858 tokens a second, where it was 672
(benchmarks/training.py).

The compiler needs about 25 s at the first step, and on a CPU a C++ compiler; where it fails, the
plain functions stay, and the caller is told.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from codellama.model.llama import Pointwise, rms_norm, swiglu
from codellama.specialize.attention import softmax_slopes
from codellama.specialize.forward import PackedLoss, entropy
from codellama.specialize.optimizer import MasterAdamW, OnePass, squares, update

__all__ = ["WORTH_STEPS", "compile_loss", "compile_update", "pays"]

WORTH_STEPS = 100
"""Steps that win back the time that compiling takes: 25 s at 0.4 s a step, and some."""


def pays(steps: int) -> bool:
    """Whether to compile for this many steps, if it was not said."""
    return steps >= WORTH_STEPS and any(shutil.which(name) for name in ("c++", "g++", "clang++"))


def compile_loss(module: PackedLoss, device: torch.device, dtype: torch.dtype) -> None:
    """Compile what `module` computes element by element, or leave it as it is.

    Raises whatever the compiler raises (RuntimeError's kinds, OSError).
    """
    pointwise, loss = _pointwise(device, dtype), _compiled(entropy)
    logits = torch.ones(3, 48, device=device, dtype=dtype)
    loss(logits, torch.zeros(3, dtype=torch.int64, device=device), torch.ones(3, device=device))
    slopes = _compiled(softmax_slopes)
    square, column = logits[:, :3].expand(3, 3, 3, 3), torch.ones(3, 3, 3, 1, device=device)
    slopes(square, square, column, column, torch.zeros(3, 3, device=device))
    module.model.use_pointwise(pointwise)
    module.entropy, module.slopes = loss, slopes


@torch.no_grad()
def compile_update(optimizer: MasterAdamW) -> None:
    """Compile the optimizer's step on a CPU. Elsewhere PyTorch's own has a kernel for all tensors
    at once, and shards are updated by PyTorch.

    Raises as `compile_loss` does.
    """
    if optimizer.sharded or any(m.device.type != "cpu" for m in optimizer.masters.values()):
        return
    one_pass = OnePass(_compiled(squares), _compiled(update))
    dtypes = {parameter.dtype for parameter in optimizer.parameters.values()}
    for dtype in dtypes:
        gradient, *rest = (torch.ones(24, dtype=t) for t in (dtype, *[torch.float32] * 3))
        one_pass.squares(gradient.view(4, 6))
        rounded = None if dtype == torch.float32 else gradient.clone()
        one_pass.update(rest[0], gradient, *rest[1:], rounded, torch.ones(8))
    optimizer.one_pass = one_pass


def _pointwise(device: torch.device, dtype: torch.dtype) -> Pointwise:
    """Compiled versions, tried once forward and backward."""
    norm, gate = (_compiled(f) for f in (rms_norm, swiglu))
    pointwise = Pointwise(norm, _turned, gate)
    x = torch.ones(1, 24, 2, 8, device=device, dtype=dtype, requires_grad=True)
    weight = torch.ones(8, device=device, dtype=dtype)
    angles = torch.ones(1, 24, 4, device=device)
    y: Tensor = _turned(norm(x, weight, 1e-5), angles.cos(), angles.sin())
    gate(y, y).sum().backward()
    return pointwise


def _turned(x_BTNH: Tensor, cos_BTh: Tensor, sin_BTh: Tensor) -> Tensor:
    """`rotate` as products of complex numbers, as in Meta's code: for those PyTorch has vectors,
    where the compiler takes pairs apart one by one (2,048 tokens of 9 heads: 0.6 and 1.4 ms).
    """
    out: Tensor = _Turn.apply(x_BTNH, cos_BTh, sin_BTh)  # type: ignore[no-untyped-call]
    return out


def _turn(x_BTNH: Tensor, cos_BTh: Tensor, sin_BTh: Tensor) -> Tensor:
    pairs_BTNh = torch.view_as_complex(x_BTNH.float().reshape(*x_BTNH.shape[:-1], -1, 2))
    turned_BTNh = pairs_BTNh * torch.complex(cos_BTh, sin_BTh).unsqueeze(-2)
    return torch.view_as_real(turned_BTNh).flatten(-2).to(x_BTNH.dtype)


class _Turn(torch.autograd.Function):
    """The derivative of a rotation is the rotation back."""

    @staticmethod
    def forward(ctx: Any, x_BTNH: Tensor, cos_BTh: Tensor, sin_BTh: Tensor) -> Tensor:
        ctx.save_for_backward(cos_BTh, sin_BTh)
        return _turn(x_BTNH, cos_BTh, sin_BTh)

    @staticmethod
    def backward(ctx: Any, *slopes: Any) -> tuple[Tensor | None, ...]:
        cos_BTh, sin_BTh = ctx.saved_tensors
        return _turn(slopes[0], cos_BTh, -sin_BTh), None, None


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """For any number of tokens: `dynamic` compiles once, not for every length of a row."""
    compiled: Callable[..., Any] = torch.compile(function, dynamic=True)
    return compiled
