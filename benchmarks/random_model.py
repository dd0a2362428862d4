"""A GGUF file of a published shape with random weights, for measuring speed without the weights.

    python benchmarks/random_model.py OUT.gguf [--shape codellama:7b-code] [--type Q4_K_M]

Speed depends on shapes, storage types and bytes, not on values: the file has the published model's
tensors, llama.cpp's mixture of types, and finite numbers of a usual size. Each type's blocks are
quantized once from 4 million Gaussian numbers and repeated from random places, so that a 7B file is
written as fast as the disk takes it. The vocabulary is made up (byte pieces, then words); text that
comes out means nothing, and nothing about accuracy can be measured on it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from functools import cache, partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from codellama.model.config import PUBLISHED, ModelConfig
from codellama.weights.blocks import quantize
from codellama.weights.checkpoint import Layout, expected_shapes
from codellama.weights.file_types import FILE_TYPES, WRITABLE, canonical, plan_types
from codellama.weights.gguf import LazyTensor, gguf_name, metadata_from_config, write_gguf
from codellama.weights.tensor import BLOCK_LAYOUT, Bytes, GGMLType

POOL = 1 << 22  # numbers quantized per type
PIECE = 1 << 24  # bytes written at once
SIZE_OF_WEIGHTS = 0.02  # standard deviation, as of trained Llamas


def vocabulary(size: int) -> dict[str, Any]:
    """A SentencePiece vocabulary as GGUF metadata: 3 special pieces, 256 bytes, made-up words."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += [f"▁w{index}" for index in range(len(pieces), size)]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": pieces,
        "tokenizer.ggml.scores": [0.0] * 259 + [-float(index) for index in range(size - 259)],
        "tokenizer.ggml.token_type": [2, 3, 3] + [6] * 256 + [1] * (size - 259),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
    }


@cache
def _pool(type: GGMLType) -> Bytes:
    """[blocks, bytes of a block]"""
    values = np.random.default_rng(type).standard_normal((1, POOL)).astype(np.float32)
    return quantize(values * SIZE_OF_WEIGHTS, type).reshape(-1, BLOCK_LAYOUT[type][1])


def _blocks(type: GGMLType, count: int, seed: int) -> Iterator[Bytes]:
    """`count` blocks of `type`: runs of the pool from random places."""
    pool, generator = _pool(type), np.random.default_rng(seed)
    step = max(1, min(len(pool), PIECE // pool.shape[1]))
    while count:
        start = int(generator.integers(len(pool)))
        piece = pool[start : start + min(step, count)]
        count -= len(piece)
        yield piece.reshape(-1)


def _produce(name: str, layout: Layout, type: GGMLType) -> Callable[[], Iterator[Bytes]]:
    if len(layout.shape) == 1:
        return lambda: iter([np.ones(layout.shape, np.float32).view(np.uint8)])
    seed = int.from_bytes(name.encode()) % 2**63
    return partial(_blocks, type, prod(layout.shape) // BLOCK_LAYOUT[type][0], seed)


def write_random(
    path: Path,
    config: ModelConfig,
    type: str,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write the file. RequestError for an unknown type; all or nothing, as `write_gguf`."""
    name = canonical(type)
    known = {name: Layout(shape, GGMLType.F32) for name, shape in expected_shapes(config).items()}
    tensors = [
        LazyTensor(
            gguf_name(tensor), known[tensor].shape, stored, _produce(tensor, known[tensor], stored)
        )
        for tensor, stored in plan_types(name, config, known).items()
    ]
    metadata = {
        **metadata_from_config(config),
        "general.name": f"{config.name} with random weights",
        "general.type": "model",
        "general.quantization_version": 2,
        "general.file_type": FILE_TYPES[name],
        **vocabulary(config.vocab_size),
    }
    write_gguf(path, metadata, tensors, progress)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="the GGUF file to write")
    parser.add_argument("--shape", default="codellama:7b-code", choices=sorted(PUBLISHED))
    parser.add_argument("--type", default="Q4_K_M", help=", ".join(WRITABLE))
    args = parser.parse_args()
    shown = -1

    def progress(done: int, total: int) -> None:
        nonlocal shown
        if 10 * done // total > shown:
            shown = 10 * done // total
            print(f"{10 * shown}% of {total / 1e9:.2f} GB", file=sys.stderr)

    write_random(args.out, PUBLISHED[args.shape], args.type, progress)


if __name__ == "__main__":
    main()
