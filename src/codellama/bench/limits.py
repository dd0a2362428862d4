"""Bytes and operations that a case cannot do without, and the speed they allow.

A step reads every weight once, whatever the number of tokens in it, and the keys and values of all
that came before; it multiplies every weight with every token. Reading at the memory's bandwidth
and multiplying at the int8 rate, side by side, is the limit: the roofline (Williams et al., 2009).
Storage types count as they lie in the file, keys and values as the cache keeps them. Norms,
softmax, activations and sampling count as free, so the limit cannot be reached, only approached.
"""

from __future__ import annotations

from dataclasses import dataclass

from codellama.bench.cases import Case
from codellama.model.config import KvType, ModelConfig
from codellama.weights.load import ModelFile

__all__ = ["Cost", "Limits", "Workload"]


@dataclass(frozen=True, slots=True)
class Cost:
    """Of a whole case: bytes read, operations (a multiply and an add are two), tokens computed."""

    bytes: float
    ops: float
    tokens: int

    @property
    def intensity(self) -> float:
        """Operations per byte."""
        return self.ops / self.bytes


@dataclass(frozen=True, slots=True)
class Limits:
    """The machine's best: bytes read and operations a second."""

    bandwidth: float
    peak: float

    def rate(self, cost: Cost) -> float:
        """Tokens a second at best."""
        return cost.tokens / max(cost.bytes / self.bandwidth, cost.ops / self.peak)

    def bound(self, cost: Cost) -> str:
        return "memory" if cost.bytes / self.bandwidth > cost.ops / self.peak else "int8"


@dataclass(frozen=True, slots=True)
class Workload:
    """A model as the limits see it.

    Attributes:
        config: its shape.
        weight_bytes: read per step: all tensors as stored, without embeddings that are only looked
            up.
        kv_type: how the cache keeps keys and values.
    """

    config: ModelConfig
    weight_bytes: int
    kv_type: KvType = "f16"

    @classmethod
    def of(cls, source: ModelFile, kv_type: KvType = "f16") -> Workload:
        read = source.weight_bytes
        if not source.config.tied:
            read -= source.layout("tok_embeddings.weight").n_bytes
        return cls(source.config, read, kv_type)

    def cost(self, case: Case) -> Cost:
        if case.kind == "pp":
            return self._prefill(case)
        return self._decode(case)

    def _prefill(self, case: Case) -> Cost:
        """Logits are wanted of the last token only."""
        ops = 2 * (self._layers * case.tokens + self._head)
        ops += self._attention(case.tokens, case.depth)
        read = self.weight_bytes + self.config.kv_bytes(case.depth, self.kv_type)
        return Cost(read, ops, case.tokens)

    def _decode(self, case: Case) -> Cost:
        n, sequences = case.tokens, case.sequences
        positions = sum(range(case.depth, case.depth + n))
        read = n * self.weight_bytes + sequences * self.config.kv_bytes(positions, self.kv_type)
        ops = 2 * n * sequences * (self._layers + self._head)
        ops += sequences * self._attention(n, case.depth)
        return Cost(read, ops, n * sequences)

    @property
    def _head(self) -> int:
        return self.config.vocab_size * self.config.dim

    @property
    def _layers(self) -> int:
        """Weights of all layers."""
        c = self.config
        attention = c.dim * c.head_dim * 2 * (c.n_heads + c.n_kv_heads)
        return c.n_layers * (attention + 3 * c.dim * c.ffn_dim)

    def _attention(self, tokens: int, depth: int) -> int:
        """Two products of head_dim per head and pair of positions, future ones left out."""
        pairs = tokens * depth + tokens * (tokens + 1) // 2
        return 4 * self.config.n_layers * self.config.n_heads * self.config.head_dim * pairs
