"""Embeddings for every dialect: the mean of the last hidden states, of length 1.

A text is one turn of the engine, between two steps of what is being generated.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np

from codellama.engine.engine import Engine
from codellama.errors import ContextOverflowError, RequestError
from codellama.model import prompts
from codellama.serve.models import Lease

__all__ = ["embed_texts"]

MOST_TEXTS = 2048  # OpenAI's bound


async def embed_texts(
    lease: Lease,
    texts: Sequence[str | list[int]],
    *,
    truncate: bool = False,
    dimensions: int | None = None,
) -> tuple[list[list[float]], int]:
    """One vector per text, and the tokens of all.

    Args:
        truncate: cut texts that are too long instead of refusing them.
        dimensions: keep the first so many, and scale to length 1 again.
    """
    if len(texts) > MOST_TEXTS:
        raise RequestError(f"{len(texts)} texts to embed: at most {MOST_TEXTS} are taken")
    if dimensions is not None and dimensions < 1:
        raise RequestError(f"dimensions is {dimensions}: it must be at least 1")
    tokenizer = lease.loaded.prompts.tokenizer
    vectors, total = [], 0
    for text in texts:
        ids = prompts.completion(tokenizer, text) if isinstance(text, str) else list(text)
        if not ids:
            raise RequestError("a text to embed is empty")
        if len(ids) > lease.context:
            if not truncate:
                raise ContextOverflowError(len(ids), lease.context)
            ids = ids[: lease.context]
        total += len(ids)
        future = lease.loaded.worker.call(lambda engine, ids=ids: _mean(engine, ids))  # type: ignore[misc]
        mean_D = await asyncio.wrap_future(future)
        if dimensions is not None:
            mean_D = mean_D[:dimensions]
        norm = float(np.linalg.norm(mean_D)) or 1.0
        vectors.append((mean_D / norm).astype(np.float32).tolist())
    return vectors, total


def _mean(engine: Engine, ids: list[int]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    mean_D: np.ndarray[tuple[int], np.dtype[np.float64]] = engine.hidden(ids).mean(
        axis=0, dtype=np.float64
    )
    return mean_D
