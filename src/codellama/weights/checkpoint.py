"""What the unquantized checkpoint formats share: Hugging Face's names ↔ Meta's, the one permutation
of wq and wk, the shape of every tensor of a Llama, and the check that a file holds them all.

Formats themselves are read elsewhere: huggingface.py (config.json and safetensors) and meta.py
(params.json and consolidated.NN.pth). Works on names, shapes and raw bytes; touches no files.

The permutation, once. RoPE turns pairs of one head's H features. Meta's code, GGUF and this
project keep the two members of pair i side by side, in rows 2i and 2i + 1 of the head
(interleaved); Hugging Face's keeps them H/2 apart, in rows i and i + H/2 (half-split). So per head

    meta[2i + j] = hf[i + j·H/2]      i in 0 … H/2 − 1, j in {0, 1}

and the products are equal as long as wq and wk agree. Source: transformers,
models/llama/convert_llama_weights_to_hf.py (`permute`); llama.cpp, convert_hf_to_gguf.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import prod
from typing import Any, Literal, NamedTuple, Protocol

from codellama.errors import ModelFileError
from codellama.model.config import ModelConfig
from codellama.weights.tensor import Bytes, GGMLType, Tensor, row_bytes

__all__ = [
    "Checkpoint",
    "Layout",
    "check_layouts",
    "expected_shapes",
    "heads_of",
    "hf_name",
    "meta_name",
    "permute_rows",
]

Shape = tuple[int, ...]


class Layout(NamedTuple):
    """How a tensor is stored, known without touching its data."""

    shape: Shape
    type: GGMLType

    @property
    def n_bytes(self) -> int:
        return prod(self.shape[:-1]) * row_bytes(self.type, self.shape[-1])


class Checkpoint(Protocol):
    """What every format is read into; weights.load.ModelFile stands on it.

    `layouts` and `tensor` speak Meta's names; `metadata` holds GGUF-style keys as far as the format
    knows them.
    """

    @property
    def config(self) -> ModelConfig: ...
    @property
    def metadata(self) -> dict[str, Any]: ...
    @property
    def layouts(self) -> Mapping[str, Layout]: ...
    def tensor(self, name: str) -> Tensor: ...


_TOP = {
    "tok_embeddings.weight": "model.embed_tokens.weight",
    "norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_LAYER = {
    "attention.wq.weight": "self_attn.q_proj.weight",
    "attention.wk.weight": "self_attn.k_proj.weight",
    "attention.wv.weight": "self_attn.v_proj.weight",
    "attention.wo.weight": "self_attn.o_proj.weight",
    "feed_forward.w1.weight": "mlp.gate_proj.weight",
    "feed_forward.w2.weight": "mlp.down_proj.weight",
    "feed_forward.w3.weight": "mlp.up_proj.weight",
    "attention_norm.weight": "input_layernorm.weight",
    "ffn_norm.weight": "post_attention_layernorm.weight",
}
_TOP_META = {hf: meta for meta, hf in _TOP.items()}
_LAYER_META = {hf: meta for meta, hf in _LAYER.items()}
_HF_LAYER = re.compile(r"model\.layers\.(0|[1-9][0-9]{0,3})\.(.+)")
_META_LAYER = re.compile(r"layers\.(0|[1-9][0-9]{0,3})\.(.+)")


def hf_name(meta: str) -> str:
    """Hugging Face's name of a tensor. Raises KeyError for a name that no Llama has.

    >>> hf_name("layers.3.attention.wq.weight")
    'model.layers.3.self_attn.q_proj.weight'
    """
    if match := _META_LAYER.fullmatch(meta):
        return f"model.layers.{match[1]}.{_LAYER[match[2]]}"
    return _TOP[meta]


def meta_name(hf: str) -> str | None:
    """Meta's name of a Hugging Face tensor, None for one that is not a weight of a Llama."""
    if match := _HF_LAYER.fullmatch(hf):
        rest = _LAYER_META.get(match[2])
        return rest and f"layers.{match[1]}.{rest}"
    return _TOP_META.get(hf)


def heads_of(name: str, config: ModelConfig) -> int | None:
    """Heads of a tensor whose rows RoPE pairs up (wq and wk, Meta's names); None for others."""
    if name.endswith("attention.wq.weight"):
        return config.n_heads
    if name.endswith("attention.wk.weight"):
        return config.n_kv_heads
    return None


def permute_rows(data: Bytes, rows: int, heads: int, to: Literal["meta", "hf"]) -> Bytes:
    """Reorder the rows of wq or wk from one convention to the other; always a copy.

    Args:
        data: flat bytes of `rows` rows of equal length, of any storage type: rows move whole.
        heads: heads that the rows divide into evenly, each with an even number of rows.
        to: the convention wanted; the other is the one given.
    """
    half = rows // heads // 2
    split = (2, half) if to == "meta" else (half, 2)
    rows_NXYB = data.reshape(heads, *split, -1)
    return rows_NXYB.swapaxes(1, 2).reshape(-1)


def expected_shapes(config: ModelConfig) -> dict[str, Shape]:
    """Every tensor of the model by Meta's name, as (out, in); in the order of the forward pass."""
    wide = config.n_heads * config.head_dim
    narrow = config.n_kv_heads * config.head_dim
    layer: dict[str, Shape] = {
        "attention_norm.weight": (config.dim,),
        "attention.wq.weight": (wide, config.dim),
        "attention.wk.weight": (narrow, config.dim),
        "attention.wv.weight": (narrow, config.dim),
        "attention.wo.weight": (config.dim, wide),
        "ffn_norm.weight": (config.dim,),
        "feed_forward.w1.weight": (config.ffn_dim, config.dim),
        "feed_forward.w3.weight": (config.ffn_dim, config.dim),
        "feed_forward.w2.weight": (config.dim, config.ffn_dim),
    }
    shapes: dict[str, Shape] = {"tok_embeddings.weight": (config.vocab_size, config.dim)}
    for index in range(config.n_layers):
        shapes |= {f"layers.{index}.{name}": shape for name, shape in layer.items()}
    shapes["norm.weight"] = (config.dim,)
    if not config.tied:
        shapes["output.weight"] = (config.vocab_size, config.dim)
    return shapes


def check_layouts(found: Mapping[str, Layout], config: ModelConfig, where: object) -> None:
    """Hold a file's tensors against its configuration; `where` names the file in errors.

    Raises:
        ModelFileError: a tensor is missing, has another shape, or has no place in a Llama (a bias,
            an adapter): computing without it would give other answers than the model's.
    """
    expected = expected_shapes(config)
    for name, shape in expected.items():
        if name not in found:
            raise ModelFileError(f"{where}: the tensor {name} is missing: the file is incomplete")
        if found[name].shape != shape:
            raise ModelFileError(
                f"{where}: {name} has the shape {_times(found[name].shape)}, its configuration "
                f"says {_times(shape)}" + _vocabulary_hint(name)
            )
    if extra := found.keys() - expected.keys():
        raise ModelFileError(
            f"{where}: holds {min(extra)[:100]!r}, which a Llama does not have: "
            "this architecture is not supported"
        )


def _times(shape: Shape) -> str:
    return " × ".join(map(str, shape)) or "of a single number"


def _vocabulary_hint(name: str) -> str:
    wrong = name in ("tok_embeddings.weight", "output.weight")
    return ": is its vocabulary size wrong?" if wrong else ""
