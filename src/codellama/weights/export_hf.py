"""Write a Hugging Face folder: config.json, safetensors (in shards of 5 GB), tokenizer, chat
template, generation_config.json; what transformers, vLLM and other engines load as it is.

Matrices keep F32, F16 or BF16; quantized ones become F16 unless told otherwise. Norms are written
in the matrices' type where that is exact, else in F32. wq and wk go back to Hugging Face's row
order. Tensors are streamed: the safetensors package would want a whole shard in memory (and its
writing interface differs between versions), so the file's simple layout is written here; tests
read it with the package.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

from codellama.errors import ModelFileError, RequestError
from codellama.model.tokenizer_base import Tokenizer
from codellama.weights.blocks import dequantize, quantize
from codellama.weights.checkpoint import Shape, heads_of, hf_name, permute_rows
from codellama.weights.convert import converted
from codellama.weights.export_tokenizer import write_tokenizer
from codellama.weights.files import atomic_folder, read_bounded, synced_write
from codellama.weights.huggingface import INDEX
from codellama.weights.huggingface_config import hf_from_config
from codellama.weights.model_file import ROPE_FACTORS, ModelFile
from codellama.weights.safetensors import DTYPES
from codellama.weights.tensor import Bytes, GGMLType, Tensor, row_bytes

__all__ = ["export_hf"]

Progress = Callable[[int, int], None]

SHARD_BYTES = 5_000_000_000  # transformers' own default, "5GB"
_NOTICES = ("LICENSE*", "NOTICE*", "USE_POLICY*", "README.md")
_CODE = {type: code for code, type in DTYPES.items()}
_TORCH_NAME = {GGMLType.F32: "float32", GGMLType.F16: "float16", GGMLType.BF16: "bfloat16"}


@dataclass(frozen=True, slots=True)
class _Planned:
    """A tensor as it will be written."""

    name: str  # Meta's
    shape: Shape
    type: GGMLType

    @property
    def n_bytes(self) -> int:
        return prod(self.shape[:-1]) * row_bytes(self.type, self.shape[-1])


def export_hf(
    src: ModelFile,
    dst: Path,
    progress: Progress | None = None,
    *,
    dtype: str | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write `src` as a Hugging Face folder.

    Args:
        src: an open model of any format.
        dst: the folder to make; must not exist, or be empty.
        progress: called with (bytes written, bytes in all).
        dtype: "F32", "F16" or "BF16" for all matrices; default as stored, F16 where quantized.
            F32 holds a quantized model's values exactly.
        shard_bytes: upper bound of a file's tensors (one larger tensor gets a file of its own).

    Raises:
        RequestError: an unknown dtype.
        ModelFileError: the folder is taken, the disk is full, the tokenizer is missing, values that
            the dtype cannot hold, or a RoPE scaling that config.json cannot tell.
    """
    if dtype is not None and dtype.upper() not in DTYPES:
        raise RequestError(f"cannot export as {dtype!r}; known: {', '.join(DTYPES)}")
    if ROPE_FACTORS in src.names:
        raise ModelFileError(
            f"{src.path}: scales RoPE by a table of factors, which config.json cannot tell"
        )
    wanted = DTYPES[dtype.upper()] if dtype else None
    plan = [_planned(src, name, wanted) for name in src.names]
    shards = _shards(plan, shard_bytes)
    with atomic_folder(dst) as folder, ThreadPoolExecutor(2) as pool:
        tokenizer = write_tokenizer(src, folder)
        _write_notices(src, folder)
        _write_configs(src, folder, plan, tokenizer)
        meter = _Meter(sum(tensor.n_bytes for tensor in plan), progress)
        for file_name, tensors in shards.items():
            _write_shard(folder / file_name, src, tensors, pool, meter)
        if len(shards) > 1:
            synced_write(folder / INDEX, _index(shards))


def _planned(src: ModelFile, name: str, wanted: GGMLType | None) -> _Planned:
    shape, stored = src.layout(name)
    if len(shape) > 1:
        return _Planned(name, shape, _matrix_type(stored, wanted))
    matrices = _matrix_type(src.layout("tok_embeddings.weight").type, wanted)
    exact = _holds_exactly(src.tensor(name), matrices)
    return _Planned(name, shape, matrices if exact else GGMLType.F32)


def _matrix_type(stored: GGMLType, wanted: GGMLType | None) -> GGMLType:
    if wanted is not None:
        return wanted
    return stored if stored in _CODE else GGMLType.F16


def _holds_exactly(tensor: Tensor, type: GGMLType) -> bool:
    values = dequantize(tensor).reshape(1, -1)
    if np.abs(values).max(initial=0) > np.finfo(np.float16).max:
        return type != GGMLType.F16 and tensor.type == type
    back = dequantize(Tensor(tensor.name, values.shape, type, quantize(values, type)))
    return bool((back == values).all())


def _shards(plan: list[_Planned], limit: int) -> dict[str, list[_Planned]]:
    """Tensors in order, as many to a file as fit; file names say how many files there are."""
    groups: list[list[_Planned]] = [[]]
    for tensor in plan:
        if groups[-1] and sum(t.n_bytes for t in groups[-1]) + tensor.n_bytes > limit:
            groups.append([])
        groups[-1].append(tensor)
    if len(groups) == 1:
        return {"model.safetensors": groups[0]}
    total = len(groups)
    return {f"model-{i:05d}-of-{total:05d}.safetensors": g for i, g in enumerate(groups, 1)}


def _index(shards: Mapping[str, list[_Planned]]) -> bytes:
    weight_map = {hf_name(t.name): file for file, tensors in shards.items() for t in tensors}
    total = sum(t.n_bytes for tensors in shards.values() for t in tensors)
    document = {"metadata": {"total_size": total}, "weight_map": weight_map}
    return json.dumps(document, indent=2).encode()


class _Meter:
    """Adds up what was written, and tells."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self._done, self._total, self._progress = 0, total, progress

    def add(self, n: int) -> None:
        self._done += n
        if self._progress is not None:
            self._progress(self._done, self._total)


def _write_shard(
    path: Path, src: ModelFile, tensors: list[_Planned], pool: ThreadPoolExecutor, meter: _Meter
) -> None:
    """One safetensors file (layout: see safetensors.py), brought to the disk."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in tensors:
        begin, end = end, end + tensor.n_bytes
        header[hf_name(tensor.name)] = {
            "dtype": _CODE[tensor.type],
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors:
            for piece in _hf_bytes(src, tensor, pool):
                file.write(np.ascontiguousarray(piece).data)
                meter.add(piece.size)
        file.flush()
        os.fsync(file.fileno())


def _hf_bytes(src: ModelFile, tensor: _Planned, pool: ThreadPoolExecutor) -> Iterator[Bytes]:
    pieces = converted(src.tensor(tensor.name), tensor.type, pool)
    heads = heads_of(tensor.name, src.config)
    if heads is None:
        yield from pieces
    else:
        yield permute_rows(np.concatenate(list(pieces)), tensor.shape[0], heads, to="hf")


def _write_configs(
    src: ModelFile, folder: Path, plan: list[_Planned], tokenizer: Tokenizer
) -> None:
    """config.json and generation_config.json; the end of documents first among the stop ids."""
    embeddings = next(tensor for tensor in plan if tensor.name == "tok_embeddings.weight")
    eos_ids = sorted(tokenizer.stop_ids, key=lambda id: (id != tokenizer.eos_id, id))
    config = hf_from_config(
        src.config, dtype=_TORCH_NAME[embeddings.type], bos_id=tokenizer.bos_id, eos_ids=eos_ids
    )
    generation = {key: config[key] for key in ("bos_token_id", "eos_token_id")}
    for name, document in (("config.json", config), ("generation_config.json", generation)):
        synced_write(folder / name, json.dumps(document, indent=2).encode() + b"\n")


def _write_notices(src: ModelFile, folder: Path) -> None:
    """The license and the model card go along; of a GGUF file as much as it tells."""
    if src.path.is_dir():
        for pattern in _NOTICES:
            for path in src.path.glob(pattern):
                if path.is_file():
                    synced_write(folder / path.name, read_bounded(path))
    elif src.license:
        synced_write(folder / "README.md", f"---\nlicense: {src.license}\n---\n".encode())
