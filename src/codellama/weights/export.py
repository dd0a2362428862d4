"""Write models: quantize to GGUF, convert to GGUF, convert to a Hugging Face folder.

Any format that open_model reads goes in. Tensors are converted in small pieces by two threads, so
that a model far larger than memory passes through; a result appears under its name only when it is
whole and on the disk. Quantization follows llama.cpp's types (file_types.py) with our own block
code, without an importance matrix. Quantizing an already quantized model is allowed and loses
twice; the caller may want to say so (`ModelFile.quantization`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from codellama.errors import RequestError
from codellama.weights.convert import converted
from codellama.weights.export_hf import export_hf
from codellama.weights.export_tokenizer import published_types
from codellama.weights.file_types import DEFAULT_TYPE, FILE_TYPES, canonical, plan_types
from codellama.weights.gguf import LazyTensor, gguf_name, metadata_from_config, write_gguf
from codellama.weights.model_file import ROPE_FACTORS, ModelFile
from codellama.weights.tensor import Bytes, GGMLType

__all__ = ["export_gguf", "export_hf", "quantize_model"]

Progress = Callable[[int, int], None]

QUANTIZATION_VERSION = 2  # of ggml's block formats; general.quantization_version
_THREADS = 2  # each holds a few float32 copies of its chunk of 4 MB
_UNUSED = 5  # among tokenizer.ggml.token_type


def quantize_model(
    src: ModelFile,
    dst: Path,
    type: str,
    progress: Progress | None = None,
    *,
    threads: int = _THREADS,
) -> None:
    """Write `src` as a GGUF file quantized to `type`.

    Args:
        src: an open model of any format, quantized or not.
        dst: the file to write; replaced when the new one is whole.
        type: F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K_S, Q4_K_M (Q4_K), Q5_K_S, Q5_K_M
            (Q5_K) or Q6_K, in either case.
        progress: called with (bytes written, bytes in all).
        threads: that convert; the result does not depend on it.

    Raises:
        RequestError: an unknown type, or `dst` is the source itself.
        ModelFileError: NaN or values out of range in the weights, no tokenizer, a full disk.
    """
    name = canonical(type)
    layouts = {tensor: src.layout(tensor) for tensor in src.names if tensor != ROPE_FACTORS}
    _write(src, dst, plan_types(name, src.config, layouts), name, progress, threads)


def export_gguf(
    src: ModelFile, dst: Path, type: str | None = None, progress: Progress | None = None
) -> None:
    """Write `src` as a GGUF file without changing how its matrices are stored.

    Norms become F32, as every GGUF reader expects (exact: they are stored in F32, F16 or BF16).
    With `type` this is `quantize_model`. Raises as it does.
    """
    if type is not None:
        quantize_model(src, dst, type, progress)
        return
    types = {tensor: src.layout(tensor).type for tensor in src.names if tensor != ROPE_FACTORS}
    for tensor in types:
        if len(src.layout(tensor).shape) < 2:
            types[tensor] = GGMLType.F32
    _write(src, dst, types, _stored_file_type(src), progress, _THREADS)


def _stored_file_type(src: ModelFile) -> str | None:
    """The name for general.file_type that fits the file as it is."""
    name = src.quantization.removeprefix("mostly ")
    if name in FILE_TYPES:
        return name
    return next((known for known, type in DEFAULT_TYPE.items() if type.name == name), None)


def _write(
    src: ModelFile,
    dst: Path,
    types: dict[str, GGMLType],
    file_type: str | None,
    progress: Progress | None,
    threads: int,
) -> None:
    if dst.exists() and src.path.exists() and dst.samefile(src.path):
        raise RequestError(f"{dst} is the model itself: choose another name for the result")
    metadata = gguf_metadata(src)
    metadata["general.quantization_version"] = QUANTIZATION_VERSION
    if file_type is not None:
        metadata["general.file_type"] = FILE_TYPES[file_type]
    if ROPE_FACTORS in src.names:
        types = {**types, ROPE_FACTORS: GGMLType.F32}
    with ThreadPoolExecutor(max(1, threads)) as pool:

        def produce(name: str, type: GGMLType) -> Iterator[Bytes]:
            return converted(src.tensor(name), type, pool)

        tensors = [
            LazyTensor(gguf_name(name), src.layout(name).shape, type, partial(produce, name, type))
            for name, type in types.items()
        ]
        write_gguf(dst, metadata, tensors, progress)


def gguf_metadata(src: ModelFile) -> dict[str, Any]:
    """All metadata for a GGUF file of this model: what a GGUF source has, or what a folder's files
    mean; with the ids by which every reader knows an infilling vocabulary.

    Raises:
        ModelFileError: the tokenizer is missing or does not fit the weights.
    """
    from codellama.model.tokenizer import tokenizer_to_gguf

    tokenizer = src.tokenizer()
    if src.format == "gguf":
        metadata = {k: v for k, v in src.metadata.items() if not k.startswith("split.")}
    else:
        metadata = {
            **metadata_from_config(src.config),
            "general.type": "model",
            **src.metadata,
            **tokenizer_to_gguf(tokenizer),
            "tokenizer.ggml.token_type": published_types(src, tokenizer),
        }
        _pad_vocabulary(metadata, src.config.vocab_size)
    infill = tokenizer.infill
    if infill is not None:
        ids = {"pre": infill.pre, "suf": infill.suf, "mid": infill.mid, "eot": infill.eot}
        for key, older in _INFILL_KEYS.items():
            for spelling in (f"fim_{key}", older):
                metadata.setdefault(f"tokenizer.ggml.{spelling}_token_id", ids[key])
    return metadata


# The names that llama.cpp read before fim_*, and still reads; eot is also "end of turn" there,
# which ends an answer.
_INFILL_KEYS = {"pre": "prefix", "suf": "suffix", "mid": "middle", "eot": "eot"}


def _pad_vocabulary(metadata: dict[str, Any], rows: int) -> None:
    """One token per row of the embeddings: some checkpoints have unused rows at their end."""
    known = len(metadata["tokenizer.ggml.tokens"])
    padding: dict[str, list[Any]] = {
        "tokens": [f"[PAD{index}]" for index in range(known, rows)],
        "scores": [-1e4] * (rows - known),
        "token_type": [_UNUSED] * (rows - known),
    }
    for key, filler in padding.items():
        if f"tokenizer.ggml.{key}" in metadata:
            metadata[f"tokenizer.ggml.{key}"] = [*metadata[f"tokenizer.ggml.{key}"], *filler]
