"""Others' adapters as ours: llama.cpp's LoRA in GGUF, and PEFT's safetensors with its
adapter_config.json.

Both hold the same two matrices per weight under names of their own; their scale is alpha / rank.
PEFT's wq and wk have Hugging Face's row order. What is more than plain LoRA on the matrices of a
Llama (biases, DoRA, embeddings, saved modules) is refused: without it the model would be another
one. Sources: llama.cpp src/llama-adapter.cpp, peft tuners/lora.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from codellama.errors import ModelFileError
from codellama.model.config import ModelConfig
from codellama.weights.adapter_file import Adapter, Array, pack_adapter
from codellama.weights.blocks import dequantize
from codellama.weights.checkpoint import heads_of, meta_name, permute_rows
from codellama.weights.gguf import meta_name as meta_name_of_gguf
from codellama.weights.gguf import read_gguf
from codellama.weights.safetensors import DTYPES, SafetensorsFile, read_safetensors
from codellama.weights.tensor import Tensor

__all__ = ["is_gguf", "is_peft", "packed_peft", "read_gguf_adapter"]

Float32 = npt.NDArray[np.float32]

_PEFT = re.compile(r"base_model\.model\.(.+)\.lora_([AB])(?:\.default)?\.weight")
_PLAIN: Mapping[str, tuple[Any, ...]] = {  # what these keys may say in plain LoRA
    "peft_type": ("LORA",),
    "bias": ("none", None),
    "use_dora": (False, None),
    "lora_bias": (False, None),
    "modules_to_save": (None, []),
    "trainable_token_indices": (None, []),
}


def is_gguf(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(4) == b"GGUF"
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read: {error.strerror}") from None


def read_gguf_adapter(path: Path) -> Adapter:
    """llama.cpp's LoRA. Raises ModelFileError for another kind of GGUF file."""
    file = read_gguf(path)
    kinds = [file.metadata.get(key) for key in ("general.type", "adapter.type")]
    if kinds != ["adapter", "lora"]:
        raise ModelFileError(f"{path}: is no adapter: a GGUF file of another kind")
    if file.metadata.get("general.architecture") != "llama":
        raise ModelFileError(f"{path}: is an adapter of another architecture")
    alpha = file.metadata.get("adapter.lora.alpha", 0.0)
    pairs: dict[str, dict[str, Float32]] = {}
    for stored, tensor in file.tensors.items():
        name, _, part = stored.rpartition(".lora_")
        try:
            known = meta_name_of_gguf(name)
        except (KeyError, ValueError, IndexError):
            known = ""
        if not known or part not in ("a", "b") or len(tensor.shape) != 2:
            raise ModelFileError(f"{path}: changes {stored[:100]!r}, which is not supported")
        values = np.array(dequantize(tensor), np.float32).reshape(tensor.shape)
        pairs.setdefault(known, {})[part] = values
    return Adapter(_scaled(path, pairs, alpha))


def is_peft(path: Path) -> bool:
    """Whether a safetensors file holds PEFT's matrices."""
    try:
        return any(_PEFT.fullmatch(name) for name in read_safetensors(path).entries)
    except ModelFileError:
        return False


def packed_peft(path: Path, settings: Mapping[str, Any], config: ModelConfig) -> bytes:
    """PEFT's adapter as a file of ours.

    Args:
        path: its safetensors. settings: its adapter_config.json. config: of the base, whose heads
            decide the order of wq's and wk's rows.

    Raises:
        ModelFileError: it is more than plain LoRA, or damaged.
    """
    for key, allowed in _PLAIN.items():
        if settings.get(key, allowed[0]) not in allowed:
            raise ModelFileError(f"{path}: {key} is {settings[key]!r}, which is not supported")
    for key in ("rank_pattern", "alpha_pattern"):
        if settings.get(key):
            raise ModelFileError(f"{path}: {key} is not supported")
    file = read_safetensors(path)
    pairs: dict[str, dict[str, Float32]] = {}
    for stored in file.entries:
        match = _PEFT.fullmatch(stored)
        name = match and meta_name(f"{match[1]}.weight")
        if match is None or not name:
            raise ModelFileError(f"{path}: changes {stored[:100]!r}, which is not supported")
        part, values = match[2].lower(), _values(file, stored)
        if part == "b" and (heads := heads_of(name, config)):
            values = _to_meta(path, stored, values, heads)
        pairs.setdefault(name, {})[part] = values
    rooted = bool(settings.get("use_rslora"))
    arrays = _scaled(path, pairs, settings.get("lora_alpha", 8), rooted=rooted)
    keeps = {"name": None, "infill": None, "rope_theta": None}
    return pack_adapter(arrays, {**keeps, "scale": 1.0, "rows": [], "pieces": []})


def _values(file: SafetensorsFile, name: str) -> Float32:
    entry = file.entries[name]
    if entry.dtype not in DTYPES or len(entry.shape) != 2:
        raise ModelFileError(f"{file.path}: {name} is no matrix of {', '.join(DTYPES)}")
    tensor = Tensor(name, entry.shape, DTYPES[entry.dtype], file.data(name))
    return np.array(dequantize(tensor), np.float32).reshape(entry.shape)


def _to_meta(path: Path, name: str, values: Float32, heads: int) -> Float32:
    rows = len(values)
    if not rows or rows % (2 * heads):
        raise ModelFileError(f"{path}: {name} does not fit {heads} heads")
    flat = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
    return permute_rows(flat, rows, heads, to="meta").view(np.float32).reshape(values.shape)


def _scaled(
    path: Path, pairs: Mapping[str, Mapping[str, Float32]], alpha: Any, *, rooted: bool = False
) -> dict[str, Array]:
    """The matrices with alpha / rank (or / √rank) in b; an alpha of 0 stands for none, as in
    llama.cpp.
    """
    number = isinstance(alpha, int | float) and not isinstance(alpha, bool)
    if not pairs or not number or not isfinite(alpha):
        raise ModelFileError(f"{path}: is no adapter: it has no matrices, or no alpha")
    arrays: dict[str, Array] = {}
    for name, pair in pairs.items():
        if pair.keys() != {"a", "b"} or not pair["a"].size:
            raise ModelFileError(f"{path}: {name} has only one of its two matrices")
        rank = len(pair["a"])
        scale = alpha / (rank**0.5 if rooted else rank) if alpha else 1.0
        arrays[f"{name}.a"] = pair["a"]
        arrays[f"{name}.b"] = pair["b"] * np.float32(scale)
    return arrays
