"""The one PyTorch forward of Llama 2 and Code Llama: training, inference on a GPU, oracle for the
native engine.

Reads like the paper (Llama 2, arXiv 2307.09288; Code Llama, arXiv 2308.12950): pre-norm RMSNorm in
float32, rotary positions on interleaved pairs, grouped-query attention, SwiGLU, a tied or untied
head. Parameter names are Meta's, so that checkpoints load by name. Any device and dtype; logits
are float32. Knows no files, no sampling, no batching.

Shape legend: B sequences, T new tokens, S all tokens seen (cached and new), D dim, N query heads,
K kv heads, H head_dim, F ffn_dim, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codellama.model.config import ModelConfig

__all__ = [
    "KVCache", "Llama", "Pointwise", "RMSNorm", "rms_norm", "rope_angles", "rotate", "swiglu",
]  # fmt: skip


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / rms(x) · weight, in float32 and back; the weight multiplies after the cast, as in
    Meta's code.
    """
    x32 = x.float()
    normed = x32 * torch.rsqrt(x32.square().mean(-1, keepdim=True) + eps)
    return normed.to(x.dtype) * weight


def rotate(x_BTNH: Tensor, cos_BTh: Tensor, sin_BTh: Tensor) -> Tensor:
    """Rotate pairs (2i, 2i + 1) of each head by angles of these cosines and sines, in float32."""
    x32 = x_BTNH.float()
    even, odd = x32[..., 0::2], x32[..., 1::2]
    cos, sin = cos_BTh.unsqueeze(-2), sin_BTh.unsqueeze(-2)
    rotated = torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1)
    return rotated.flatten(-2).to(x_BTNH.dtype)


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) · up."""
    return F.silu(gate) * up


@dataclass(frozen=True, slots=True)
class Pointwise:
    """What a layer computes element by element; training may put compiled versions in its place
    (`Llama.use_pointwise`).
    """

    norm: Callable[[Tensor, Tensor, float], Tensor] = rms_norm
    rotate: Callable[[Tensor, Tensor, Tensor], Tensor] = rotate
    swiglu: Callable[[Tensor, Tensor], Tensor] = swiglu


class RMSNorm(nn.Module):
    pointwise = Pointwise()

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return self.pointwise.norm(x, self.weight, self.eps)


def rope_angles(config: ModelConfig, positions: Tensor, factors: Tensor | None = None) -> Tensor:
    """Angles position · θ^(−2i/H) of every pair i, float32 [..., H/2]; computed in float64.

    `factors` [H/2] divide the frequencies (Llama 3's rope_freqs); linear scaling divides the
    positions.
    """
    pairs = torch.arange(0, config.head_dim, 2, dtype=torch.float64, device=positions.device)
    frequencies = config.rope_theta ** (-pairs / config.head_dim)
    if factors is not None:
        frequencies = frequencies / factors.double()
    scaled = positions.double() / config.rope_scaling.factor
    return (scaled[..., None] * frequencies).float()


@dataclass(slots=True)
class KVCache:
    """Keys and values of one batch, [layers, B, S, K, H]; `length` tokens of it are filled."""

    keys: Tensor
    values: Tensor
    length: int = 0

    @classmethod
    def empty(
        cls, config: ModelConfig, batch: int, capacity: int, *, device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> KVCache:  # fmt: skip
        shape = (config.n_layers, batch, capacity, config.n_kv_heads, config.head_dim)
        keys = torch.zeros(shape, device=device, dtype=dtype)
        return cls(keys, torch.zeros_like(keys))

    def append(self, layer: int, k_BTKH: Tensor, v_BTKH: Tensor) -> tuple[Tensor, Tensor]:
        """Write new tokens of one layer; returns all [B, S, K, H]. The caller advances `length`
        after the last.
        """
        end = self.length + k_BTKH.shape[1]
        self.keys[layer, :, self.length : end] = k_BTKH
        self.values[layer, :, self.length : end] = v_BTKH
        return self.keys[layer, :, :end], self.values[layer, :, :end]


class Attention(nn.Module):
    pointwise = Pointwise()

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.n_heads, self.n_kv_heads = config.n_heads, config.n_kv_heads
        self.head_dim = config.head_dim
        query, kv = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
        self.wq = nn.Linear(config.dim, query, bias=False)
        self.wk = nn.Linear(config.dim, kv, bias=False)
        self.wv = nn.Linear(config.dim, kv, bias=False)
        self.wo = nn.Linear(query, config.dim, bias=False)

    def qkv(self, x_BTD: Tensor, angles_BTh: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rotated queries [B, T, N, H], rotated keys and values [B, T, K, H]."""
        q = self.wq(x_BTD).unflatten(-1, (self.n_heads, self.head_dim))
        k = self.wk(x_BTD).unflatten(-1, (self.n_kv_heads, self.head_dim))
        v = self.wv(x_BTD).unflatten(-1, (self.n_kv_heads, self.head_dim))
        cos, sin = angles_BTh.cos(), angles_BTh.sin()
        return self.pointwise.rotate(q, cos, sin), self.pointwise.rotate(k, cos, sin), v

    def attend(self, q_BTNH: Tensor, k_BSKH: Tensor, v_BSKH: Tensor, mask: Tensor | None) -> Tensor:
        """softmax(q·k/√H)·v, kv heads shared by groups of query heads, then wo. `mask` None is
        causal over T = S.
        """
        out_BNTH = F.scaled_dot_product_attention(
            q_BTNH.transpose(1, 2),
            k_BSKH.transpose(1, 2),
            v_BSKH.transpose(1, 2),
            attn_mask=mask,
            is_causal=mask is None,
            enable_gqa=self.n_heads != self.n_kv_heads,
        )
        out_BTD: Tensor = self.wo(out_BNTH.transpose(1, 2).flatten(-2))
        return out_BTD


Attend = Callable[[Attention, Tensor, Tensor, Tensor], Tensor]


class FeedForward(nn.Module):
    """SwiGLU: w2(silu(w1 x) · w3 x)."""

    pointwise = Pointwise()

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.w1 = nn.Linear(config.dim, config.ffn_dim, bias=False)
        self.w2 = nn.Linear(config.ffn_dim, config.dim, bias=False)
        self.w3 = nn.Linear(config.dim, config.ffn_dim, bias=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        out_BTD: Tensor = self.w2(self.pointwise.swiglu(self.w1(x_BTD), self.w3(x_BTD)))
        return out_BTD


class Block(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.feed_forward = FeedForward(config)
        self.attention_norm = RMSNorm(config.dim, config.norm_eps)
        self.ffn_norm = RMSNorm(config.dim, config.norm_eps)

    def forward(self, x_BTD: Tensor, angles_BTh: Tensor, attend: Attend) -> Tensor:
        """One layer. `attend` says who sees whom: (attention, q, k, v) → what is added."""
        q, k, v = self.attention.qkv(self.attention_norm(x_BTD), angles_BTh)
        x_BTD = x_BTD + attend(self.attention, q, k, v)
        out_BTD: Tensor = x_BTD + self.feed_forward(self.ffn_norm(x_BTD))
        return out_BTD


class Llama(nn.Module):
    """A decoder of any published shape.

    `init_weights` draws training's initial weights; loading a checkpoint replaces them all. Where
    the head is tied, `output` does not exist and tok_embeddings serves for both.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.tok_embeddings = nn.Embedding(config.vocab_size, config.dim)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.norm = RMSNorm(config.dim, config.norm_eps)
        self.output = None if config.tied else nn.Linear(config.dim, config.vocab_size, bias=False)
        self.rope_factors: Tensor | None = None

    def init_weights(self, generator: torch.Generator | None = None) -> None:
        """Normal, std 0.02; projections back into the residual stream are narrower by √(2 ·
        layers).
        """
        narrow = 0.02 / math.sqrt(2 * self.config.n_layers)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 1:
                nn.init.ones_(parameter)
            else:
                std = narrow if name.endswith(("wo.weight", "w2.weight")) else 0.02
                nn.init.normal_(parameter, std=std, generator=generator)

    def use_pointwise(self, pointwise: Pointwise) -> None:
        """Compute the element-wise parts of every layer by these functions from now on."""
        for module in self.modules():
            if isinstance(module, RMSNorm | Attention | FeedForward):
                module.pointwise = pointwise

    def hidden(
        self,
        tokens_BT: Tensor,
        *,
        positions_BT: Tensor | None = None,
        documents_BT: Tensor | None = None,
        cache: KVCache | None = None,
    ) -> Tensor:
        """Normalised last states [B, T, D], from which `logits` are taken, all at once or in
        chunks.

        Args:
            positions_BT: default counts on from the cache.
            documents_BT: document number of every token; tokens attend within their own document
                only.
            cache: read and extended; new tokens see all of it.
        """
        past = 0 if cache is None else cache.length
        B, T = tokens_BT.shape
        if positions_BT is None:
            positions_BT = torch.arange(past, past + T, device=tokens_BT.device).expand(B, T)
        angles_BTh = rope_angles(self.config, positions_BT, self.rope_factors)
        mask = _mask(T, past, documents_BT, tokens_BT.device)
        x_BTD = self.tok_embeddings(tokens_BT)
        for index, block in enumerate(self.layers):

            def attend(
                attention: Attention, q: Tensor, k: Tensor, v: Tensor, index: int = index
            ) -> Tensor:
                if cache is not None:
                    k, v = cache.append(index, k, v)
                return attention.attend(q, k, v, mask)

            x_BTD = block(x_BTD, angles_BTh, attend)
        if cache is not None:
            cache.length += T
        out_BTD: Tensor = self.norm(x_BTD)
        return out_BTD

    def logits(self, hidden_BTD: Tensor) -> Tensor:
        """float32 [B, T, V]."""
        head = self.tok_embeddings.weight if self.output is None else self.output.weight
        return F.linear(hidden_BTD, head).float()

    def forward(
        self,
        tokens_BT: Tensor,
        *,
        positions_BT: Tensor | None = None,
        documents_BT: Tensor | None = None,
        cache: KVCache | None = None,
    ) -> Tensor:
        """Logits, float32 [B, T, V]; arguments as in `hidden`."""
        return self.logits(
            self.hidden(
                tokens_BT, positions_BT=positions_BT, documents_BT=documents_BT, cache=cache
            )
        )


def _mask(T: int, past: int, documents_BT: Tensor | None, device: torch.device) -> Tensor | None:
    """Who sees whom, bool [T, S] or [B, 1, T, S]; None where plain causal attention will do."""
    if documents_BT is None and past == 0:
        return None
    new = torch.arange(past, past + T, device=device)
    causal_TS = new[:, None] >= torch.arange(past + T, device=device)
    if documents_BT is None:
        return causal_TS
    same_BTT = documents_BT[:, :, None] == documents_BT[:, None, :]
    return (causal_TS[:, past:] & same_BTT)[:, None]
