"""One pass over the optimizer's state does what PyTorch's AdamW, clipping and rounding do."""

from __future__ import annotations

import shutil

import pytest
import torch
from torch import nn

from codellama.specialize.compiled import compile_update
from codellama.specialize.optimizer import MasterAdamW, OnePass, squares, update
from codellama.specialize.recipe import Optimizer

CONFIG = Optimizer(learning_rate=1e-2, weight_decay=0.1, clip=0.5)
SHAPES = {"matrix": (24, 16), "vector": (16,), "unused": (4, 4)}


def parameters(dtype: torch.dtype) -> dict[str, nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return {
        name: nn.Parameter(torch.randn(shape, generator=generator).to(dtype))
        for name, shape in SHAPES.items()
    }


def backward(optimizer: MasterAdamW, step: int, micro: int) -> None:
    """Gradients as `micro` backward passes leave them; the third parameter never has one."""
    generator = torch.Generator().manual_seed(step)
    for _ in range(micro):
        for name in ("matrix", "vector"):
            parameter = optimizer.parameters[name]
            slope = torch.randn(SHAPES[name], generator=generator).to(parameter.dtype)
            parameter.grad = slope if parameter.grad is None else parameter.grad + slope
        optimizer.collect()


def follow(ours: MasterAdamW, theirs: MasterAdamW, micro: int) -> None:
    for step in range(6):
        rate = 1e-2 / (step + 1)
        norms = []
        for optimizer in (ours, theirs):
            backward(optimizer, step, micro)
            norms.append(optimizer.step(rate))
        assert norms[0] == pytest.approx(norms[1], rel=1e-5)
    found, wanted = ours.state(), theirs.state()
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert torch.allclose(found[name], tensor, rtol=1e-4, atol=1e-6), name
    for name, parameter in theirs.parameters.items():
        assert torch.allclose(ours.parameters[name], parameter, rtol=1e-2, atol=1e-6), name
        assert ours.parameters[name].dtype == parameter.dtype


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("micro", [1, 3])
def test_one_pass_is_adamw(dtype: torch.dtype, micro: int) -> None:
    ours, theirs = (MasterAdamW(parameters(dtype), CONFIG) for _ in range(2))
    ours.one_pass = OnePass(squares, update)
    follow(ours, theirs, micro)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch.compile warns while it traces
@pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_so_is_the_compiled_one(dtype: torch.dtype) -> None:
    ours, theirs = (MasterAdamW(parameters(dtype), CONFIG) for _ in range(2))
    compile_update(ours)
    assert ours.one_pass is not None
    follow(ours, theirs, 2)


@pytest.mark.parametrize("at_once", [False, True])
def test_what_is_not_finite_updates_nothing(at_once: bool) -> None:
    optimizer = MasterAdamW(parameters(torch.bfloat16), CONFIG)
    if at_once:
        optimizer.one_pass = OnePass(squares, update)
    before = {name: tensor.clone() for name, tensor in optimizer.state().items()}
    for parameter in optimizer.parameters.values():
        parameter.grad = torch.full_like(parameter, torch.inf)
    optimizer.collect()
    assert not torch.tensor(optimizer.step(1e-2)).isfinite()
    after = optimizer.state()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    backward(optimizer, 0, 1)
    assert optimizer.step(1e-2) < 100, "the gradients of the bad step are still there"
