"""config.json of Hugging Face's transformers ↔ ModelConfig.

Reads what versions 4 and 5 write (`rope_theta` and `rope_scaling`, or `rope_parameters`), with the
defaults of transformers' LlamaConfig. What our forward does not compute (other architectures,
biases, other activations, other RoPE scalings, quantized checkpoints) is refused by name, never
ignored. Reads no files.

Source: transformers, models/llama/configuration_llama.py, modeling_rope_utils.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from codellama.errors import ModelFileError
from codellama.model.config import ModelConfig, RopeScaling
from codellama.weights.folder import folder_name
from codellama.weights.numbers import Numbers

__all__ = ["config_from_hf", "hf_from_config"]

ARCHITECTURES = ("LlamaForCausalLM", "LLaMAForCausalLM")
_MAX_LAYERS = 1000


def config_from_hf(document: Mapping[str, Any], path: Path, *, infills: bool) -> ModelConfig:
    """A ModelConfig from the contents of config.json; `path` names it in errors.

    Raises:
        ModelFileError: another architecture (the known ones are named), an unsupported option, or a
            number that is missing or senseless.
    """
    _check_architecture(document, path)
    _check_options(document, path)
    read = Numbers(document, path)
    heads = read.whole("num_attention_heads")
    dim = read.whole("hidden_size")
    theta, scaling = _rope(document, path)
    try:
        return ModelConfig(
            name=folder_name(path.parent),
            dim=dim,
            n_layers=read.whole("num_hidden_layers", most=_MAX_LAYERS),
            n_heads=heads,
            n_kv_heads=read.whole("num_key_value_heads", heads),
            head_dim=read.whole("head_dim", dim // heads),
            ffn_dim=read.whole("intermediate_size"),
            vocab_size=read.whole("vocab_size"),
            norm_eps=read.real("rms_norm_eps", 1e-6),
            rope_theta=theta,
            rope_scaling=scaling,
            context=read.whole("max_position_embeddings", 2048),
            tied=document.get("tie_word_embeddings", False) is True,
            infills=infills,
        )
    except ValueError as error:
        raise ModelFileError(f"{path}: {error}") from None


def _check_architecture(document: Mapping[str, Any], path: Path) -> None:
    named = document.get("architectures")
    found = named[0] if isinstance(named, list) and named else document.get("model_type")
    if found not in (*ARCHITECTURES, "llama"):
        raise ModelFileError(
            f"{path}: the architecture {str(found)[:80]!r} is not supported; known: "
            "LlamaForCausalLM (Llama 2, Code Llama, SmolLM2 and others of this shape)"
        )


def _check_options(document: Mapping[str, Any], path: Path) -> None:
    for bias in ("attention_bias", "mlp_bias"):
        if document.get(bias):
            raise ModelFileError(f"{path}: {bias} is set, which is not supported")
    if (activation := document.get("hidden_act", "silu")) not in ("silu", "swish"):
        raise ModelFileError(f"{path}: hidden_act {str(activation)[:40]!r}: only silu is supported")
    if isinstance(quantized := document.get("quantization_config"), dict):
        method = str(quantized.get("quant_method", "an unknown method"))[:40]
        raise ModelFileError(
            f"{path}: quantized by {method}, which cannot be read; use a GGUF file or the "
            "unquantized checkpoint"
        )


def _rope(document: Mapping[str, Any], path: Path) -> tuple[float, RopeScaling]:
    """RoPE's base and scaling; transformers 5 keeps both in `rope_parameters`."""
    merged: dict[str, Any] = {"rope_theta": document.get("rope_theta")}
    for key in ("rope_scaling", "rope_parameters"):
        if isinstance(table := document.get(key), dict):
            merged |= table
    read = Numbers({k: v for k, v in merged.items() if v is not None}, path)
    theta = read.real("rope_theta", 10_000.0)
    kind = merged.get("rope_type", merged.get("type", "default"))
    if kind in ("default", "none", None):
        return theta, RopeScaling()
    if kind == "linear":
        return theta, RopeScaling(kind="linear", factor=read.real("factor"))
    raise ModelFileError(f"{path}: RoPE scaling {str(kind)[:40]!r} is not supported; known: linear")


def hf_from_config(
    config: ModelConfig, *, dtype: str, bos_id: int | None, eos_ids: list[int]
) -> dict[str, Any]:
    """The contents of config.json, in the form that every version from 4.31 on reads.

    Args:
        dtype: "float32", "float16" or "bfloat16", what the matrices are stored as.
        bos_id, eos_ids: of the tokenizer; the first of `eos_ids` is the one that ends documents.
    """
    scaling = None
    if config.rope_scaling.kind == "linear":
        factor = config.rope_scaling.factor
        scaling = {"type": "linear", "rope_type": "linear", "factor": factor}
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": bos_id,
        "eos_token_id": eos_ids[0] if len(eos_ids) == 1 else eos_ids or None,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "hidden_size": config.dim,
        "initializer_range": 0.02,
        "intermediate_size": config.ffn_dim,
        "max_position_embeddings": config.context,
        "mlp_bias": False,
        "num_attention_heads": config.n_heads,
        "num_hidden_layers": config.n_layers,
        "num_key_value_heads": config.n_kv_heads,
        "pretraining_tp": 1,
        "rms_norm_eps": _shortest(config.norm_eps),
        "rope_scaling": scaling,
        "rope_theta": _shortest(config.rope_theta),
        "tie_word_embeddings": config.tied,
        "torch_dtype": dtype,
        "use_cache": True,
        "vocab_size": config.vocab_size,
    }


def _shortest(value: float) -> float:
    """The shortest decimal of the same float32: GGUF keeps 1e-05 as 9.999999747378752e-06."""
    return float(str(np.float32(value))) if value == np.float32(value) else value
