"""A trained model as a ModelFile, so that every writer of weights/ takes it: GGUF in any
quantization, Hugging Face folders. And adapters: what LoRA learned, in one small file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from codellama.model.tokenizer import tokenizer_to_gguf
from codellama.specialize.base import Base
from codellama.specialize.lora import NewRows, lora_layers
from codellama.specialize.recipe import Lora
from codellama.weights.adapter import ADAPTER_TYPE, write_adapter
from codellama.weights.blocks import dequantize
from codellama.weights.checkpoint import Layout
from codellama.weights.export import gguf_metadata
from codellama.weights.gguf import metadata_from_config
from codellama.weights.load import ModelFile
from codellama.weights.tensor import GGMLType, Tensor

__all__ = ["TorchCheckpoint", "save_adapter", "trained_model"]


class TorchCheckpoint:
    """weights.checkpoint.Checkpoint over tensors in memory, float32."""

    def __init__(self, tensors: Mapping[str, torch.Tensor], config: Any, metadata: Any) -> None:
        self.config = config
        self.metadata: dict[str, Any] = dict(metadata)
        self._tensors = dict(tensors)
        self.layouts = {
            name: Layout(tuple(t.shape), GGMLType.F32) for name, t in self._tensors.items()
        }

    def tensor(self, name: str) -> Tensor:
        values = self._tensors[name].detach().float().cpu().contiguous().numpy()
        data = values.reshape(-1).view(np.uint8)
        return Tensor(name, tuple(self._tensors[name].shape), GGMLType.F32, data)


def trained_model(base: Base, rows: NewRows | None, *, name: str) -> ModelFile:
    """The trained model, ready to be written. Adapters are added to the base's own values."""
    config = replace(base.model.config, name=name, infills=base.tokenizer.infill is not None)
    metadata = gguf_metadata(base.source)
    shape = {k: v for k, v in metadata_from_config(config).items() if k in metadata}
    metadata |= {**shape, **tokenizer_to_gguf(base.tokenizer), "general.name": name}
    return ModelFile(
        base.source.path, "gguf", TorchCheckpoint(_weights(base, rows), config, metadata)
    )


def _weights(base: Base, rows: NewRows | None) -> dict[str, torch.Tensor]:
    adapters = dict(lora_layers(base.model))
    if not adapters:
        return dict(base.model.state_dict())
    weights = {}
    for name in base.source.names:
        stored = base.source.tensor(name)
        values = torch.from_numpy(np.array(dequantize(stored))).reshape(stored.shape)
        if name in adapters:
            values += adapters[name].update().detach()
        weights[name] = values
    head = base.model.tok_embeddings.weight
    for name in ("tok_embeddings.weight", "output.weight"):
        if name in weights and base.new_ids:
            known = len(weights[name])
            weights[name] = torch.cat([weights[name], head[known:].detach().float()])
            if rows is not None:
                weights[name][rows.ids] = rows.rows.detach().float()
    return weights


def save_adapter(
    path: Path, base: Base, lora: Lora, rows: NewRows | None, name: str, *, base_name: str = ""
) -> None:
    """Write what LoRA learned, in float16; `weights.adapter` puts it on the base again.

    Args:
        base_name: by which the base is found when the adapter is loaded.
    """
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    for weight, adapter in lora_layers(base.model):
        arrays[f"{weight}.a"] = adapter.a.detach().float().numpy().astype(ADAPTER_TYPE)
        arrays[f"{weight}.b"] = adapter.b.detach().float().numpy().astype(ADAPTER_TYPE)
    ids: list[int] = []
    if rows is not None:
        ids = rows.ids.tolist()
        arrays["rows"] = rows.rows.detach().float().numpy().astype(ADAPTER_TYPE)
    infill = base.tokenizer.infill
    about = {
        "name": name,
        "base": base_name,
        "scale": lora.scale,
        "rows": ids,
        "pieces": [base.tokenizer.pieces[id] for id in ids],
        "infill": [] if infill is None else [infill.pre, infill.suf, infill.mid, infill.eot],
        "base_vocab": base.source.config.vocab_size,
        "rope_theta": base.model.config.rope_theta,
    }
    write_adapter(path, arrays, about)
