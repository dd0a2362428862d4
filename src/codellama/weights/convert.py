"""One tensor from its stored type to another, in pieces: what export writes and quantize computes.

A 7B model is converted in tens of megabytes of memory: rows are taken in chunks, each one
dequantized, checked and quantized by one of a few threads, and handed on in order. A tensor that
already has the wanted type passes through bit for bit. Writes nothing itself.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from math import prod

import numpy as np

from codellama.errors import ModelFileError
from codellama.weights.blocks import check_finite, dequantize, quantize
from codellama.weights.tensor import Bytes, GGMLType, Tensor, drop_pages, row_bytes

__all__ = ["converted"]

_CHUNK_ELEMENTS = 1 << 20  # 4 MB as float32; a few of these are in flight


def converted(tensor: Tensor, type: GGMLType, pool: ThreadPoolExecutor | None) -> Iterator[Bytes]:
    """The bytes of `tensor` as `type`, in order.

    Args:
        tensor: any storage type; its pages are given back to the system as they are used.
        pool: threads to compute on; None computes in this one.

    Raises:
        ModelFileError: the weights hold NaN or infinite values, or values beyond `type`'s range.
    """
    chunks = _row_chunks(tensor)
    if tensor.type == type:
        yield from map(_checked, chunks)
    elif pool is None:
        yield from (_convert(chunk, type) for chunk in chunks)
    else:
        yield from _ordered(pool, (partial(_convert, chunk, type) for chunk in chunks))
    drop_pages(tensor.data)


def _checked(chunk: Tensor) -> Bytes:
    check_finite(chunk)
    return chunk.data


def _row_chunks(tensor: Tensor) -> Iterator[Tensor]:
    columns = tensor.shape[-1]
    rows, width = prod(tensor.shape[:-1]), row_bytes(tensor.type, columns)
    step = max(1, _CHUNK_ELEMENTS // columns)
    for start in range(0, rows, step):
        count = min(step, rows - start)
        data = tensor.data[start * width : (start + count) * width]
        yield Tensor(tensor.name, (count, columns), tensor.type, data)


def _convert(chunk: Tensor, type: GGMLType) -> Bytes:
    values = dequantize(chunk)
    if not np.isfinite(values).all():
        raise ModelFileError(f"{chunk.name}: the weights contain NaN or infinite values")
    if type == GGMLType.F16 and np.abs(values).max(initial=0) > np.finfo(np.float16).max:
        raise ModelFileError(
            f"{chunk.name}: values up to {np.abs(values).max():.3g} do not fit float16: "
            "choose BF16 or F32"
        )
    return quantize(values, type)


def _ordered(pool: ThreadPoolExecutor, jobs: Iterator[Callable[[], Bytes]]) -> Iterator[Bytes]:
    """Results in the jobs' order, with only as many jobs under way as keep the threads busy."""
    waiting: deque[Future[Bytes]] = deque()
    try:
        for job in jobs:
            waiting.append(pool.submit(job))
            if len(waiting) > 4:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
