"""Compiled parts compute what the plain ones do; where nothing compiles, that is said."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path

import pytest
import torch

from codellama.model.llama import Llama, rotate
from codellama.specialize import compiled
from codellama.specialize.base import load_base
from codellama.specialize.compiled import WORTH_STEPS, compile_loss, pays
from codellama.specialize.dataset import Document, build_dataset
from codellama.specialize.forward import PackedLoss
from codellama.specialize.recipe import Profile
from codellama.specialize.trainer import Trainer

from .conftest import TINY
from .test_trainer import RECIPE


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch.compile warns while it traces
@pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler")
def test_compiled_is_plain() -> None:
    torch.manual_seed(0)
    plain = Llama(TINY)
    plain.init_weights()
    fast = copy.deepcopy(plain)
    exact, compiled = PackedLoss(plain), PackedLoss(fast)
    compile_loss(compiled, torch.device("cpu"), torch.float32)
    for count in (7, 40):
        tokens, weights = torch.randint(0, TINY.vocab_size, (count,)), torch.rand(count)
        losses = [module(tokens, [3, count - 3], weights) for module in (exact, compiled)]
        assert torch.allclose(losses[0], losses[1], rtol=1e-5)
        for loss in losses:
            loss.backward()
    for p, q in zip(plain.parameters(), fast.parameters(), strict=True):
        assert p.grad is not None and q.grad is not None
        assert torch.allclose(p.grad, q.grad, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_complex_products_rotate(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 20, 3, 16, generator=generator).to(dtype)
    angles = torch.randn(1, 20, 8, generator=generator)
    slope = torch.randn(x.shape, generator=generator).to(dtype)
    found = []
    for turn in (rotate, compiled._turned):
        leaf = x.clone().requires_grad_()
        out = turn(leaf, angles.cos(), angles.sin())
        out.backward(slope)
        assert leaf.grad is not None and out.dtype == leaf.grad.dtype == dtype
        found.append((out.detach(), leaf.grad))
    for want, got in zip(*found, strict=True):
        assert torch.allclose(want, got, rtol=1e-5 if dtype == torch.float32 else 1e-2, atol=1e-6)


def test_only_long_stages_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled.shutil, "which", lambda name: "/usr/bin/" + name)
    assert pays(WORTH_STEPS) and not pays(WORTH_STEPS - 1)
    monkeypatch.setattr(compiled.shutil, "which", lambda name: None)
    assert not pays(WORTH_STEPS)


def test_without_a_compiler_training_goes_on_and_says_so(
    tiny_base: Path, documents: list[Document], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("no C++ compiler found\nmore")

    monkeypatch.setattr("codellama.specialize.trainer.compile_loss", fails)
    said: list[str] = []
    base = load_base(tiny_base, infill=True)
    data = build_dataset(RECIPE, {"code": documents}, base.tokenizer, base.end, None)
    machine = Profile(compile=True)
    run = Trainer(base, RECIPE, machine, data, None, on_warning=said.append)
    assert run.train(until=1) == 1
    assert said == ["not compiled, training goes on slower: no C++ compiler found"]
