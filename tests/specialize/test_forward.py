"""Packed documents are computed as if each were alone; the chunked loss is PyTorch's own."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from codellama.model.llama import Llama
from codellama.specialize.attention import softmax_slopes
from codellama.specialize.forward import (
    PackedLoss,
    chunked_loss,
    entropy,
    head_weight,
    packed_hidden,
)
from codellama.specialize.lora import LoraLinear, NewRows, add_lora, lora_layers
from codellama.specialize.recipe import Lora
from codellama.weights.export import quantize_model
from codellama.weights.load import open_model
from codellama.weights.torch_model import load_llama
from tiny_checkpoints import write_byte_level, write_hf

from .conftest import TINY

WIDE = replace(TINY, dim=64, head_dim=16, ffn_dim=128)  # rows of whole blocks of 32

LENGTHS = [5, 1, 9, 3]


@pytest.fixture
def model() -> Llama:
    torch.manual_seed(0)
    model = Llama(TINY)
    model.init_weights()
    return model


def tokens(count: int = sum(LENGTHS)) -> torch.Tensor:
    return torch.randint(0, TINY.vocab_size, (count,), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("recompute", [False, True])
def test_packed_is_unpacked(model: Llama, recompute: bool) -> None:
    tokens_T = tokens()
    packed = model.logits(packed_hidden(model, tokens_T, LENGTHS, recompute=recompute))
    alone = torch.cat([model(part[None])[0] for part in tokens_T.split(LENGTHS)])
    assert torch.allclose(packed, alone, atol=1e-5)
    documents = torch.repeat_interleave(torch.arange(4), torch.tensor(LENGTHS))[None]
    at = torch.cat([torch.arange(n) for n in LENGTHS])[None]
    masked = model(tokens_T[None], documents_BT=documents, positions_BT=at)[0]
    assert torch.allclose(packed, masked, atol=1e-5)


def test_recomputing_changes_no_gradient(model: Llama) -> None:
    other = copy.deepcopy(model)
    for m, recompute in ((model, False), (other, True)):
        packed_hidden(m, tokens(), LENGTHS, recompute=recompute).square().sum().backward()
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad) if a.grad is not None else b.grad is None


@pytest.mark.parametrize(("chunk", "group"), [(1, 8), (7, 21), (512, 64), (512, 2048)])
@pytest.mark.parametrize("size", [20, 400])
def test_loss_and_gradients_are_those_of_cross_entropy(chunk: int, group: int, size: int) -> None:
    generator = torch.Generator().manual_seed(3)
    hidden = torch.randn(size, 16, generator=generator)
    head = torch.randn(50, 16, generator=generator)
    targets = torch.randint(0, 50, (size,), generator=generator)
    weights = torch.tensor([0.0, 1.0, 2.0, 0.5]).repeat(size // 4)
    results = []
    for own in (True, False):
        h, w = hidden.clone().requires_grad_(), head.clone().requires_grad_()
        if own:
            loss = chunked_loss(h, w, targets, weights, chunk=chunk, group=group)
        else:
            loss = (F.cross_entropy(F.linear(h, w), targets, reduction="none") * weights).sum()
        (loss * 0.5).backward()
        results.append((loss.detach(), h.grad, w.grad))
    for ours, theirs in zip(*results, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-4)
    if hasattr(F, "linear_cross_entropy"):
        keep = weights > 0
        theirs = F.linear_cross_entropy(hidden[keep], head, targets[keep], reduction="sum")
        ours = chunked_loss(hidden[keep], head, targets[keep], torch.ones(int(keep.sum())))
        assert torch.allclose(ours, theirs, atol=1e-4)


def test_products_have_few_sizes(model: Llama) -> None:
    """Whatever the lengths of pieces and the number of weighted tokens, which change in every step:
    the library compiles a product for every size.
    """
    rows, squares = set(), set()

    def spied(logits: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        rows.add(len(logits))
        return entropy(logits, *rest)

    def slopes(scores: torch.Tensor, *rest: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        squares.add(tuple(scores.shape[-2:]))
        return softmax_slopes(scores, *rest)

    module = PackedLoss(model)
    module.entropy, module.slopes = spied, slopes
    for lengths in ([5, 90, 33], [64, 61], [100, 27, 1, 70], [128]):
        tokens_T, weights_T = tokens(sum(lengths)), torch.ones(sum(lengths))
        weights_T[::3] = 0
        loss = module(tokens_T, lengths, weights_T)
        loss.backward()
        model.zero_grad()
        hidden = packed_hidden(model, tokens_T, lengths)
        logits = F.linear(hidden, head_weight(model))
        want = F.cross_entropy(logits, tokens_T.roll(-1), reduction="none") * weights_T
        assert torch.allclose(loss, want.sum(), rtol=1e-5)
    assert rows == {128, 192}
    assert {n for square in squares for n in square} <= {16, 32, 48, 64, 80, 96, 112}


def test_new_rows_get_the_gradient_of_a_whole_tied_embedding(model: Llama) -> None:
    """Of their use as input and as output."""
    ids = [7, 3]
    tokens_T, weights_T = torch.tensor([7, 9, 3, 7, 1]), torch.tensor([1.0, 1, 1, 1, 0])
    targets_T = tokens_T.roll(-1)
    whole = packed_hidden(model, tokens_T, [5])
    chunked_loss(whole, head_weight(model), targets_T, weights_T).backward()
    want = model.tok_embeddings.weight.grad[ids].clone()
    model.requires_grad_(False)
    rows = NewRows(model.tok_embeddings, ids)
    hidden = packed_hidden(model, tokens_T, [5], embed=rows)
    chunked_loss(
        hidden, head_weight(model), targets_T, weights_T, rows_RD=rows.rows, row_ids_R=rows.ids
    ).backward()
    assert torch.allclose(rows.rows.grad, want, atol=1e-5)
    with torch.no_grad():
        rows.rows += 1
    rows.sync()
    assert torch.equal(model.tok_embeddings.weight[ids], rows.rows)


def test_adapters_start_without_effect_and_train_alone(model: Llama) -> None:
    want = packed_hidden(model, tokens(), LENGTHS).detach()
    add_lora(model, Lora(rank=4, alpha=8), seed=0)
    got = packed_hidden(model, tokens(), LENGTHS)
    assert torch.allclose(got, want, atol=1e-6)
    got.sum().backward()
    trained = {n for n, p in model.named_parameters() if p.grad is not None}
    assert trained and all(n.endswith((".a", ".b")) for n in trained)
    names = [name for name, _ in lora_layers(model)]
    assert len(names) == 7 * TINY.n_layers
    assert "layers.1.feed_forward.w2.weight" in names
    _, adapter = next(lora_layers(model))
    assert isinstance(adapter, LoraLinear)
    torch.nn.init.normal_(adapter.b)
    x = torch.randn(3, TINY.dim)
    merged = F.linear(x, adapter.weight + adapter.update())
    assert torch.allclose(adapter(x), merged, atol=1e-5)


def test_an_adapter_has_the_gradients_of_its_definition(model: Llama) -> None:
    add_lora(model, Lora(rank=4, alpha=8), seed=0)
    _, adapter = next(lora_layers(model))
    torch.nn.init.normal_(adapter.b)
    x = torch.randn(2, 5, TINY.dim, requires_grad=True)
    parts = (x, adapter.a, adapter.b)
    written = F.linear(x, adapter.weight) + adapter.scale * F.linear(
        F.linear(x, adapter.a), adapter.b
    )
    slope = torch.randn_like(written)
    want = torch.autograd.grad(written, parts, slope)
    got = torch.autograd.grad(adapter(x), parts, slope)
    for a, b in zip(got, want, strict=True):
        assert torch.allclose(a, b, atol=1e-4)


@pytest.mark.parametrize("type", ["Q4_1", "Q8_0", "F32"])
def test_adapters_on_a_quantized_base(tmp_path: Path, type: str) -> None:
    """The same products and gradients as over the dequantized weights, which are not kept."""
    write_hf(tmp_path / "hf", WIDE)
    write_byte_level(tmp_path / "hf", WIDE.vocab_size)
    quantize_model(open_model(tmp_path / "hf"), tmp_path / "small.gguf", type)
    source = open_model(tmp_path / "small.gguf")
    results = []
    for quantized in (False, True):
        model = load_llama(source)
        add_lora(model, Lora(rank=4, alpha=8, quantized=quantized), 0, source.tensor)
        hidden = packed_hidden(model, tokens(), LENGTHS)
        hidden.square().sum().backward()
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        results.append((hidden.detach(), gradients, sum(p.numel() for p in model.parameters())))
    (a, grads_a, whole), (b, grads_b, rest) = results
    assert torch.equal(a, b)
    assert len(grads_a) == len(grads_b) == 2 * 7 * WIDE.n_layers
    assert all(torch.allclose(x, y, atol=1e-6) for x, y in zip(grads_a, grads_b, strict=True))
    assert rest < whole / 2
