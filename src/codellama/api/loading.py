"""A name or path becomes the parts of a CodeLlama: runner, tokenizer, config, chat template.

The one place that joins hub, weights, model and engine. Sizes are settled before anything is
loaded; PyTorch is imported only for a device that needs it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from codellama.api.beside import Beside
from codellama.api.merged import open_merged
from codellama.engine.runner import BLOCK_SIZE
from codellama.errors import RequestError
from codellama.model.config import KvType, ModelConfig, kv_type_of

if TYPE_CHECKING:
    from codellama.engine.runner import Runner
    from codellama.model.tokenizer import Tokenizer
    from codellama.weights.load import ModelFile

__all__ = ["Parts", "open_file", "open_parts", "serving_context"]

DEFAULT_CONTEXT = 16_384
"""What Code Llama was trained on: 8.6 GB of cache for the 7B. Longer ones are served when asked."""

LONGEST_CONTEXT = 100_000
"""To where Code Llama's positions extrapolate (paper, section 3.3), with RoPE's base at 1e6."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Parts:
    """What a CodeLlama is made of; `draft` runs its draft model, if it has one."""

    runner: Runner
    tokenizer: Tokenizer
    config: ModelConfig
    chat_template: str | None
    draft: Runner | None = None


def open_file(name_or_path: str | os.PathLike[str]) -> ModelFile:
    """The model file of a name or path, adapters merged. Raises as CodeLlama.load does."""
    from codellama.hub import resolve

    return open_merged(resolve(name_or_path))


def open_parts(
    name_or_path: str | os.PathLike[str] | ModelFile,
    *,
    context: int | None,
    threads: int | None,
    device: str,
    isa: str | None,
    progress: Progress | None,
    kv_type: str = "f16",
    draft: str | os.PathLike[str] | None = None,
    cache_tokens: int | None = None,
) -> Parts:
    """See CodeLlama.load; a file that is open already (`open_file`) is taken as it is.

    Args:
        cache_tokens: tokens that the native engine's KV cache holds, for all requests together;
            default one `context`.
    """
    from codellama.weights.load import ModelFile, check_memory

    if threads is not None and (not isinstance(threads, int) or threads < 1):
        raise RequestError(f"threads is {threads!r}: it must be an integer from 1 up")
    kept = kv_type_of(kv_type)
    model_file = name_or_path if isinstance(name_or_path, ModelFile) else open_file(name_or_path)
    length = serving_context(model_file.config, context)
    device = pick_device(device)
    if device == "cpu":  # what the native engine holds; PyTorch's own errors tell of the others
        check_memory(model_file, max(length, cache_tokens or 0), kv_type=kept)
    n_blocks = None if cache_tokens is None else -(-max(length, cache_tokens) // BLOCK_SIZE)
    make = partial(_runner, device=device, threads=threads, isa=isa, kv_type=kept)

    def load(progress: Progress | None) -> Runner:
        return make(model_file, length, progress=progress, n_blocks=n_blocks)

    if device == "cpu":
        with Beside(load, progress) as loading:  # packing weights needs no lock of Python's
            tokenizer = model_file.tokenizer()
            tokenizer.prepare()
        runner = loading.result
    else:
        tokenizer = model_file.tokenizer()
        runner = load(progress)
    small = None
    if draft is not None:
        file = _draft_file(draft, tokenizer, runner.vocab_size)
        short = min(length, file.config.context)
        if device == "cpu":
            check_memory(file, short, kv_type=kept)
        small = make(file, short)
    return Parts(runner, tokenizer, model_file.config, model_file.chat_template, small)


def _draft_file(
    name_or_path: str | os.PathLike[str], tokenizer: Tokenizer, vocab_size: int
) -> ModelFile:
    """A draft model; its ids must mean what the large model's do."""
    model_file = open_file(name_or_path)
    own, known = model_file.tokenizer(), tokenizer.vocab_size
    same = model_file.config.vocab_size == vocab_size and own.vocab_size == known
    if not same or any(own.piece(id) != tokenizer.piece(id) for id in range(known)):
        raise RequestError(
            f"{model_file.config.name} cannot draft: its vocabulary is not the large model's"
        )
    return model_file


def _runner(
    model_file: ModelFile,
    context: int,
    *,
    device: str,
    threads: int | None,
    isa: str | None,
    kv_type: KvType,
    progress: Progress | None = None,
    n_blocks: int | None = None,
) -> Runner:
    if device == "cpu":
        from codellama.engine.native_runner import NativeRunner

        return NativeRunner(
            model_file,
            context=context,
            n_blocks=n_blocks,
            threads=threads,
            isa=isa,
            kv_type=kv_type,
            progress=progress,
        )
    return _torch_runner(model_file, context, device.removesuffix("-torch"), kv_type)


def _torch_runner(model_file: ModelFile, context: int, device: str, kv_type: KvType) -> Runner:
    try:
        import torch
    except ImportError:
        raise RequestError(
            f"device {device!r} needs PyTorch: pip install 'codellama[train]', or use device='cpu'"
        ) from None
    from codellama.engine.torch_runner import TorchRunner, load_llama

    try:
        torch.empty(0, device=device)
    except (AssertionError, NotImplementedError, RuntimeError) as error:
        raise RequestError(f"device {device!r} is not here: {str(error).splitlines()[0]}") from None
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    return TorchRunner(load_llama(model_file, device, dtype), context=context, kv_type=kv_type)


def serving_context(config: ModelConfig, wanted: int | None) -> int:
    """Tokens to serve: as wanted, else the model's own, at most 16,384.

    Raises:
        RequestError: longer than the model's positions reach.
    """
    if wanted is None:
        return min(config.context, DEFAULT_CONTEXT)
    reach = max(config.context, LONGEST_CONTEXT if config.rope_theta >= 1e6 else 0)
    if not isinstance(wanted, int) or isinstance(wanted, bool) or not 1 <= wanted <= reach:
        raise RequestError(f"context is {wanted!r}: {config.name} serves from 1 to {reach} tokens")
    return wanted


def pick_device(device: str) -> str:
    """What "auto" means here. The driver is looked for first: importing PyTorch takes seconds."""
    if device == "auto":
        return "cuda" if Path("/proc/driver/nvidia").exists() and _has_cuda() else "cpu"
    kind = device.partition(":")[0]
    if kind not in ("cpu", "cpu-torch", "cuda", "mps"):
        raise RequestError(f"device is {device!r}: it must be auto, cpu, cpu-torch, cuda or mps")
    return device


def _has_cuda() -> bool:
    try:
        import torch
    except ImportError:
        return False
    return torch.cuda.is_available()
