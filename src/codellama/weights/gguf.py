"""GGUF, one face: reading (gguf_read.py), meaning (gguf_config.py), writing (gguf_write.py)."""

from __future__ import annotations

from codellama.weights.gguf_config import (
    config_from_gguf,
    gguf_name,
    meta_name,
    metadata_from_config,
)
from codellama.weights.gguf_read import GGUFFile, Value, read_gguf
from codellama.weights.gguf_write import LazyTensor, write_gguf

__all__ = [
    "GGUFFile",
    "LazyTensor",
    "Value",
    "config_from_gguf",
    "gguf_name",
    "meta_name",
    "metadata_from_config",
    "read_gguf",
    "write_gguf",
]
