"""Bits per byte of held-out text: what gates and reports compare before and after a stage.

Bits per byte do not depend on the vocabulary, so a model with new tokens is comparable with its
base. Long texts are scored in windows of `window` tokens, each from its own start.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from codellama.model.llama import Llama
from codellama.model.tokenizer_base import Tokenizer
from codellama.specialize.forward import packed_hidden

__all__ = ["Score", "by_position", "score_texts"]

CHUNK = 256  # tokens whose logits exist at one time


@dataclass(frozen=True, slots=True)
class Score:
    """Over some texts: bits in all, bytes in all, and the figure per text for paired tests."""

    bits: float
    n_bytes: int
    texts: tuple[tuple[float, int], ...]

    @property
    def bits_per_byte(self) -> float:
        return self.bits / max(1, self.n_bytes)


def score_texts(
    model: Llama, tokenizer: Tokenizer, texts: Iterable[str], *, window: int = 1024
) -> Score:
    """Bits per byte; a window's first token is given: neither it nor its bytes are counted."""
    each = []
    for text in texts:
        ids = tokenizer.encode(text)
        bits, n_bytes = 0.0, 0
        for start in range(0, len(ids) - 1, window):
            part = ids[start : start + window]
            if len(part) > 1:
                bits += float(_losses(model, part).sum()) / math.log(2)
                n_bytes += sum(len(tokenizer.piece(id)) for id in part[1:])
        each.append((bits, n_bytes))
    return Score(sum(b for b, _ in each), sum(n for _, n in each), tuple(each))


def by_position(
    model: Llama, tokenizer: Tokenizer, texts: Iterable[str], edges: Sequence[int]
) -> list[Score]:
    """Scores of the tokens at positions [edges[i], edges[i + 1]) of long texts: whether a model
    holds beyond the context it was trained on.
    """
    bits = [0.0] * (len(edges) - 1)
    n_bytes = [0] * (len(edges) - 1)
    for text in texts:
        ids = tokenizer.encode(text)[: edges[-1]]
        losses = _losses(model, ids) / math.log(2)
        for i, (low, high) in enumerate(itertools.pairwise(edges)):
            bits[i] += float(losses[max(0, low - 1) : high - 1].sum())
            n_bytes[i] += sum(len(tokenizer.piece(id)) for id in ids[max(1, low) : high])
    return [Score(b, n, ((b, n),)) for b, n in zip(bits, n_bytes, strict=True)]


@torch.no_grad()
def _losses(model: Llama, ids: Sequence[int]) -> torch.Tensor:
    """Cross-entropy in nats of ids[1:], float32."""
    tokens_T = torch.tensor(ids, device=model.tok_embeddings.weight.device)
    hidden_TD = packed_hidden(model, tokens_T, [len(ids)])[:-1]
    parts = [
        F.cross_entropy(model.logits(hidden_cD), targets_c, reduction="none")
        for hidden_cD, targets_c in zip(
            torch.split(hidden_TD, CHUNK), torch.split(tokens_T[1:], CHUNK), strict=True
        )
    ]
    return torch.cat(parts).cpu()
