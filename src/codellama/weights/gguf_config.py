"""What a GGUF file's metadata mean: a ModelConfig, and Meta's names for its tensors.

Serves the Llama architecture; others are refused by name. Checks every tensor's shape against the
configuration, so that whoever loads the file later need not.
"""

from __future__ import annotations

from collections.abc import Mapping

from codellama.errors import ModelFileError
from codellama.model.config import ModelConfig, RopeScaling
from codellama.weights.gguf_read import Value
from codellama.weights.tensor import Tensor

__all__ = ["config_from_gguf", "gguf_name", "meta_name", "metadata_from_config"]

KNOWN_ARCHITECTURES = ("llama",)

_LAYER = {
    "attn_q": "attention.wq",
    "attn_k": "attention.wk",
    "attn_v": "attention.wv",
    "attn_output": "attention.wo",
    "ffn_gate": "feed_forward.w1",
    "ffn_down": "feed_forward.w2",
    "ffn_up": "feed_forward.w3",
    "attn_norm": "attention_norm",
    "ffn_norm": "ffn_norm",
}
_TOP = {
    "token_embd": "tok_embeddings",
    "output_norm": "norm",
    "output": "output",
    "rope_freqs": "rope_freqs",
}


def meta_name(name: str) -> str:
    """blk.0.attn_q.weight → layers.0.attention.wq.weight; KeyError for what no Llama has."""
    parts = name.split(".")
    if parts[0] == "blk" and len(parts) == 4:
        return f"layers.{int(parts[1])}.{_LAYER[parts[2]]}.weight"
    return f"{_TOP[parts[0]]}.weight"


def gguf_name(name: str) -> str:
    """layers.0.attention.wq.weight → blk.0.attn_q.weight."""
    parts = name.split(".")
    if parts[0] == "layers":
        inner = ".".join(parts[2:-1])
        return f"blk.{parts[1]}.{next(k for k, v in _LAYER.items() if v == inner)}.weight"
    return f"{next(k for k, v in _TOP.items() if v == parts[0])}.weight"


def _number(metadata: Mapping[str, Value], key: str, default: float | None = None) -> float:
    value = metadata.get(key, default)
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise ModelFileError(f"the file's metadata lack {key}: convert it again")
    return value


def config_from_gguf(metadata: Mapping[str, Value], tensors: Mapping[str, Tensor]) -> ModelConfig:
    """Raises ModelFileError for another architecture, missing and contradictory keys."""
    architecture = metadata.get("general.architecture")
    if architecture not in KNOWN_ARCHITECTURES:
        known = ", ".join(KNOWN_ARCHITECTURES)
        raise ModelFileError(f"architecture {architecture!r} is not supported; known: {known}")
    scaling = metadata.get("llama.rope.scaling.type", "none")
    if scaling not in ("none", "linear"):
        raise ModelFileError(f"RoPE scaling {scaling!r} is not supported; known: none, linear")
    embeddings = tensors.get("token_embd.weight")
    if embeddings is None:
        raise ModelFileError("token_embd.weight is missing: this file holds no whole model")
    heads = int(_number(metadata, "llama.attention.head_count"))
    dim = int(_number(metadata, "llama.embedding_length"))
    try:
        return ModelConfig(
            name=str(metadata.get("general.name", "llama")),
            dim=dim,
            n_layers=int(_number(metadata, "llama.block_count")),
            n_heads=heads,
            n_kv_heads=int(_number(metadata, "llama.attention.head_count_kv", heads)),
            head_dim=int(_number(metadata, "llama.attention.key_length", dim // max(heads, 1))),
            ffn_dim=int(_number(metadata, "llama.feed_forward_length")),
            vocab_size=embeddings.shape[0],
            norm_eps=_number(metadata, "llama.attention.layer_norm_rms_epsilon", 1e-5),
            rope_theta=_number(metadata, "llama.rope.freq_base", 10_000.0),
            rope_scaling=RopeScaling(
                kind=str(scaling), factor=_number(metadata, "llama.rope.scaling.factor", 1.0)
            ),
            context=int(_number(metadata, "llama.context_length")),
            tied="output.weight" not in tensors,
            infills=any(k.startswith("tokenizer.ggml.fim_mid") for k in metadata),
        )
    except ValueError as error:
        raise ModelFileError(f"the file's metadata contradict each other: {error}") from None


def metadata_from_config(config: ModelConfig) -> dict[str, Value]:
    """The llama.* keys of a file that holds this model."""
    metadata: dict[str, Value] = {
        "general.architecture": "llama",
        "general.name": config.name,
        "llama.block_count": config.n_layers,
        "llama.context_length": config.context,
        "llama.embedding_length": config.dim,
        "llama.feed_forward_length": config.ffn_dim,
        "llama.attention.head_count": config.n_heads,
        "llama.attention.head_count_kv": config.n_kv_heads,
        "llama.attention.key_length": config.head_dim,
        "llama.attention.value_length": config.head_dim,
        "llama.attention.layer_norm_rms_epsilon": config.norm_eps,
        "llama.rope.dimension_count": config.head_dim,
        "llama.rope.freq_base": config.rope_theta,
        "llama.vocab_size": config.vocab_size,
    }
    if config.rope_scaling.kind != "none":
        metadata["llama.rope.scaling.type"] = config.rope_scaling.kind
        metadata["llama.rope.scaling.factor"] = config.rope_scaling.factor
    return metadata
