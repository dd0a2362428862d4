"""What a Llama is, in numbers: ModelConfig, and the published family (Llama 2, Code Llama,
SmolLM2).

Knows nothing about files: weights/ turns GGUF metadata, params.json and config.json into a
ModelConfig. Does not promise that a downloaded checkpoint matches its published entry: the file's
own numbers win.

Sources: Code Llama paper v3 (arXiv 2308.12950), meta-llama/codellama@e81b597, the checkpoints'
params.json.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from codellama.errors import RequestError

__all__ = [
    "KV_TYPES",
    "PUBLISHED",
    "KvType",
    "ModelConfig",
    "RopeScaling",
    "ffn_hidden",
    "kv_type_of",
]

KvType = Literal["f16", "q8_0"]
"""How a cache keeps keys and values: 16 bits, or 8 and a scale per position and kv head."""
KV_TYPES: tuple[KvType, ...] = ("f16", "q8_0")


def kv_type_of(name: str, source: str = "kv_type") -> KvType:
    """A KvType by name. RequestError for others; `source` is what they were read from."""
    for known in KV_TYPES:
        if name == known:
            return known
    raise RequestError(f"{source} is {name!r}: the KV cache is kept as {' or '.join(KV_TYPES)}")


def ffn_hidden(dim: int, multiple_of: int, multiplier: float = 1.0) -> int:
    """SwiGLU width as Meta's code derives it: 2/3 of 4·dim, scaled, rounded up to `multiple_of`.

    >>> ffn_hidden(4096, 256)
    11008
    >>> ffn_hidden(8192, 4096, 1.3)
    28672
    """
    hidden = int(multiplier * int(2 * 4 * dim / 3))
    return multiple_of * ((hidden + multiple_of - 1) // multiple_of)


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeScaling:
    """How positions beyond training are squeezed: `linear` divides every position by `factor`."""

    kind: str = "none"  # "none" | "linear"
    factor: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """One Llama-architecture decoder. Frozen; derive variants with `dataclasses.replace`.

    Attributes:
        name: a label for people; never used to decide anything.
        dim: width of the residual stream, D.
        n_layers, n_heads, n_kv_heads: n_kv_heads < n_heads is grouped-query attention.
        head_dim: H; dim // n_heads for every published model, kept apart because files may say
            otherwise.
        ffn_dim: width of the SwiGLU, F.
        vocab_size: V, rows of tok_embeddings.
        norm_eps: RMSNorm epsilon.
        rope_theta: RoPE base (1e4 for Llama 2, 1e6 after long-context fine-tuning).
        context: trained positions (16,384 for Code Llama, usable to 100k).
        tied: whether the output head shares tok_embeddings.
        infills: whether the model was trained with the infilling objective.

    Raises ValueError when the numbers contradict each other.
    """

    name: str
    dim: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    ffn_dim: int
    vocab_size: int
    norm_eps: float = 1e-5
    rope_theta: float = 10_000.0
    rope_scaling: RopeScaling = RopeScaling()
    context: int = 4096
    tied: bool = False
    infills: bool = False

    def __post_init__(self) -> None:
        for field in (
            "dim",
            "n_layers",
            "n_heads",
            "n_kv_heads",
            "head_dim",
            "ffn_dim",
            "vocab_size",
            "context",
        ):
            if getattr(self, field) <= 0:
                raise ValueError(f"{field} is {getattr(self, field)}: it must be positive")
        if self.n_heads % self.n_kv_heads:
            raise ValueError(f"{self.n_heads} heads cannot share {self.n_kv_heads} kv heads evenly")
        if self.head_dim % 2:
            raise ValueError(f"head_dim {self.head_dim} is odd: RoPE rotates pairs")
        if not self.rope_theta > 0 or not self.norm_eps > 0:
            raise ValueError("rope_theta and norm_eps must be positive")

    @property
    def n_parameters(self) -> int:
        """Exact number of trainable parameters (6,738,546,688 for Code Llama 7B)."""
        attention = self.dim * self.head_dim * 2 * (self.n_heads + self.n_kv_heads)
        feed_forward = 3 * self.dim * self.ffn_dim
        per_layer = attention + feed_forward + 2 * self.dim
        embeddings = self.vocab_size * self.dim * (1 if self.tied else 2)
        return embeddings + self.n_layers * per_layer + self.dim

    def kv_bytes(self, tokens: int, kv_type: KvType = "f16") -> int:
        """Memory of the KV cache for `tokens` positions. q8_0 has a float32 scale per head."""
        head = 2 * self.head_dim if kv_type == "f16" else self.head_dim + 4
        return 2 * self.n_layers * self.n_kv_heads * head * tokens


def _llama(name: str, dim: int, layers: int, heads: int, kv_heads: int, ffn: int) -> ModelConfig:
    return ModelConfig(
        name=name, dim=dim, n_layers=layers, n_heads=heads, n_kv_heads=kv_heads,
        head_dim=dim // heads, ffn_dim=ffn, vocab_size=32_000,
    )  # fmt: skip


_LLAMA_2 = {
    "7b": _llama("llama2:7b", 4096, 32, 32, 32, ffn_hidden(4096, 256)),
    "13b": _llama("llama2:13b", 5120, 40, 40, 40, ffn_hidden(5120, 256)),
    "34b": _llama("llama2:34b", 8192, 48, 64, 8, ffn_hidden(8192, 256)),
    "70b": _llama("llama2:70b", 8192, 80, 64, 8, ffn_hidden(8192, 4096, 1.3)),
}


def _code_llama() -> dict[str, ModelConfig]:
    """The twelve: what differs is vocabulary, RoPE base, context and infilling."""
    family = {}
    for size, base in _LLAMA_2.items():
        for variant in ("base", "python", "instruct"):
            long = not (size == "70b" and variant != "base")  # LCFT reached only the 70B base
            infills = size != "34b" and variant != "python"
            suffix = {"base": "code", "python": "python", "instruct": "instruct"}[variant]
            family[f"codellama:{size}-{suffix}"] = replace(
                base,
                name=f"codellama:{size}-{suffix}",
                vocab_size=32_016 if infills or size == "70b" else 32_000,
                rope_theta=1e6 if long else 1e4,
                context=16_384 if long else 4_096,
                infills=infills,
            )
    return family


_SMOLLM2_135M = ModelConfig(
    name="smollm2:135m", dim=576, n_layers=30, n_heads=9, n_kv_heads=3, head_dim=64, ffn_dim=1536,
    vocab_size=49_152, rope_theta=100_000.0, context=8_192, tied=True,
)  # fmt: skip

PUBLISHED: dict[str, ModelConfig] = {
    **{config.name: config for config in _LLAMA_2.values()},
    **_code_llama(),
    _SMOLLM2_135M.name: _SMOLLM2_135M,
}
"""Shapes by name: `llama2:{7,13,34,70}b`, `codellama:SIZE-{code,python,instruct}`, SmolLM2."""
