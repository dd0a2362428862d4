"""Short pieces' own backward is the derivative of PyTorch's attention."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from codellama.specialize import attention
from codellama.specialize.attention import attend_pieces

SIZES = [5, 1, 33, 9, 5, 21, 33]


def leaves(heads: int, kv_heads: int, dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(1, sum(SIZES), n, 16, generator=generator).to(dtype).requires_grad_()
        for n in (heads, kv_heads, kv_heads)
    ]


def plain(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention with all scores at once, masked by piece."""
    at = torch.repeat_interleave(torch.arange(len(SIZES)), torch.tensor(SIZES))
    mask = (at[:, None] == at) & torch.ones(len(at), len(at), dtype=torch.bool).tril()
    out = F.scaled_dot_product_attention(
        *(x.transpose(1, 2) for x in (q, k, v)), attn_mask=mask, enable_gqa=True
    )
    return out.transpose(1, 2).flatten(-2)


@pytest.mark.parametrize("heads", [(4, 4), (6, 2), (9, 3)])
@pytest.mark.parametrize(("dtype", "near"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize(("short", "batch"), [(0, 0), (20, 0), (1000, 0), (1000, 1 << 20)])
def test_gradients_are_those_of_plain_attention(
    monkeypatch: pytest.MonkeyPatch,
    heads: tuple[int, int],
    dtype: torch.dtype,
    near: float,
    short: int,
    batch: int,
) -> None:
    monkeypatch.setattr(attention, "SHORT", short)
    monkeypatch.setattr(attention, "_BATCH_BYTES", batch)
    ours, exact = leaves(*heads, dtype), leaves(*heads, torch.float32)
    slope = torch.randn(1, sum(SIZES), heads[0] * 16, generator=torch.Generator().manual_seed(1))
    out = attend_pieces(ours[0], ours[1], ours[2], SIZES)
    out.backward(slope.to(dtype))
    want = plain(exact[0], exact[1], exact[2])
    want.backward(slope)
    found = [out, *(x.grad for x in ours)]
    for a, b in zip(found, [want, *(x.grad for x in exact)], strict=True):
        assert a is not None and b is not None and a.dtype == dtype
        assert (a.float() - b).norm() <= near * b.norm()


def test_every_token_is_in_one_batch() -> None:
    """Pieces of like lengths together, up to the bound."""
    batches = attention._batches((5, 64, 70, 3, 0, 64), 64, 2 * 64 * 64)
    assert [(batch.B, batch.n) for batch in batches] == [(2, 64), (2, 64), (1, 128)]
    assert sorted(int(t) for batch in batches for t in batch.tokens) == list(range(206))
    x = torch.arange(1.0, 207.0)[:, None]
    again = torch.zeros_like(x)
    for batch in batches:
        taken = batch.take(x)
        assert int((taken != 0).sum()) == len(batch.tokens)
        batch.put(taken, again)
    assert torch.equal(again, x)


def test_scores_that_overflow_above_the_diagonal_do_no_harm() -> None:
    q, k, v = (torch.zeros(1, 8, 1, 16, requires_grad=True) for _ in range(3))
    with torch.no_grad():
        q[:, 0], k[:, 7] = 100.0, 100.0  # the first query's score of the last key: 40,000
    attend_pieces(q, k, v, [8]).sum().backward()
    assert all(x.grad is not None and x.grad.isfinite().all() for x in (q, k, v))
