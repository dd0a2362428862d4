"""Tiny random models in the formats that real ones come in, made by the formats' own writers.

Weights are drawn once per (config, seed) as float32 values that bfloat16 and float16 both hold
exactly, so that every storage type can be compared bit for bit.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from codellama.model.config import ModelConfig
from codellama.weights.checkpoint import expected_shapes

Array = npt.NDArray[np.float32]

TINY = ModelConfig(
    name="tiny", dim=64, n_layers=2, n_heads=8, n_kv_heads=8, head_dim=8, ffn_dim=256,
    vocab_size=96, rope_theta=1e6, context=16_384,
)  # fmt: skip
"""Divides by 8 shards; ffn_dim is ffn_hidden(64, 256)."""

COLUMN_SPLIT = ("tok_embeddings.weight", "wo.weight", "w2.weight")


def random_weights(config: ModelConfig, seed: int = 0) -> dict[str, Array]:
    """Every tensor by Meta's name, in Meta's row order; norms near 1."""
    generator = np.random.default_rng(seed)

    def draw(name: str, shape: tuple[int, ...]) -> Array:
        # At most eight significant bits: exact in bfloat16 and in float16.
        if "norm" in name:
            return generator.integers(64, 192, shape).astype(np.float32) / 128
        return generator.integers(-127, 128, shape).astype(np.float32) / 1024

    return {name: draw(name, shape) for name, shape in expected_shapes(config).items()}


def write_meta(
    folder: Path,
    weights: Mapping[str, Array],
    *,
    shards: int = 1,
    dtype: torch.dtype = torch.bfloat16,
    params: Mapping[str, Any] | None = None,
) -> Path:
    """A release as Meta ships it: consolidated.NN.pth split as fairscale does, params.json."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(shards):
        state = {
            name: shard(name, array, index, shards).to(dtype) for name, array in weights.items()
        }
        state["rope.freqs"] = torch.ones(4, dtype=dtype)
        torch.save(state, folder / f"consolidated.{index:02d}.pth")
    default = {"dim": 64, "n_layers": 2, "n_heads": 8, "multiple_of": 256, "norm_eps": 1e-5}
    text = json.dumps(
        {**default, "rope_theta": 1e6, "vocab_size": -1} if params is None else params
    )
    (folder / "params.json").write_text(text)
    return folder


def shard(name: str, array: Array, index: int, shards: int) -> torch.Tensor:
    whole = torch.from_numpy(array)
    if "norm" in name or shards == 1:
        return whole.clone()
    return whole.chunk(shards, dim=1 if name.endswith(COLUMN_SPLIT) else 0)[index].contiguous()


def write_hf(
    folder: Path, config: ModelConfig, *, seed: int = 0, dtype: str = "float32", **save: Any
) -> Any:
    """A random LlamaForCausalLM saved by transformers; returns the model."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.dim,
            intermediate_size=config.ffn_dim,
            num_hidden_layers=config.n_layers,
            num_attention_heads=config.n_heads,
            num_key_value_heads=config.n_kv_heads,
            head_dim=config.head_dim,
            max_position_embeddings=config.context,
            rms_norm_eps=config.norm_eps,
            tie_word_embeddings=config.tied,
            rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
        )
    )
    model = model.to(getattr(torch, dtype)).eval()
    model.save_pretrained(folder, **save)
    return model


def as_float32(tensor: Any) -> Array:
    """Values of a weights.tensor.Tensor stored as F32, F16 or BF16."""
    from codellama.weights.tensor import GGMLType

    raw = np.ascontiguousarray(tensor.data)
    if tensor.type == GGMLType.F32:
        values = raw.view(np.float32)
    elif tensor.type == GGMLType.F16:
        values = raw.view(np.float16).astype(np.float32)
    else:
        assert tensor.type == GGMLType.BF16
        values = (raw.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    return values.reshape(tensor.shape)
