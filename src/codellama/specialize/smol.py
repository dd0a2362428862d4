"""Recipes for SmolLM2-135M within the hours of a laptop: the boxes of Figure 2, small.

They differ from the paper's on purpose, each where its docstring says so; the paper's own are in
stages.py, and so are the pipelines that these form.
"""

from __future__ import annotations

from dataclasses import replace

from codellama.errors import RequestError
from codellama.specialize.recipe import Infilling, Lora, Optimizer, Recipe

__all__ = ["smol_135m", "smol_chat", "smol_instruct", "smol_long", "smol_refine"]


def smol_135m(tokens: int = 2_000_000, method: str = "lora") -> Recipe:
    """SmolLM2-135M → code with infilling, for a laptop: functions in rows of 1,024, WSD.

    Differs from the paper on purpose: spans along lines and syntax beside characters, and most of
    the loss on middles and their ends (short budgets: with half of the spans longer than a line,
    360,000 tokens taught the first line and not where to stop); no loss on sentinels whose places
    are random; LoRA by default (its adapter, 20 MB in float16, is small enough to ship). The rate
    falls from early on: held at 2e-3, the loss of held-out middles stood still from 240,000 to
    700,000 tokens, and 72,000 tokens of a falling one then took a tenth off it.
    """
    if method not in ("lora", "qlora", "full"):
        raise RequestError(f"method is {method!r}: it must be lora, qlora or full")
    lora = method != "full"
    return Recipe(
        name=f"smol-135m-{method}",
        tokens=tokens,
        batch_tokens=2_048,
        sequence=1024,
        mix=(("python", 0.94), ("code", 0.06)),
        optimizer=Optimizer(
            learning_rate=1e-3 if lora else 5e-4,
            warmup=10,
            schedule="wsd",
            decay=0.7,
            final_ratio=0.05,
            weight_decay=0.0 if lora else 0.1,
        ),
        infilling=Infilling(
            spans=(
                ("line", 0.5),
                ("lines", 0.15),
                ("rest", 0.2),
                ("nodes", 0.05),
                ("characters", 0.1),
            ),
            sentinel_weight=0.0,
            middle_weight=10.0,
        ),
        lora=Lora(rank=32, alpha=64, quantized=method == "qlora") if lora else None,
    )


def smol_long(tokens: int = 300_000, rank: int | None = None) -> Recipe:
    """Long context for SmolLM2-135M: RoPE's base from 1e5 to 1e6, rows of 16,384.

    Args:
        rank: of adapters that learn it; None trains all weights.
    """
    whole = Recipe(
        name="smol-long",
        tokens=tokens,
        batch_tokens=16_384,
        sequence=16_384,
        mix=(("python", 0.94), ("code", 0.06)),
        optimizer=Optimizer(learning_rate=1e-4, warmup=3, schedule="constant"),
        infilling=Infilling(sentinel_weight=0.0),
        rope_theta=1e6,
        context=16_384,
    )
    if rank is None:
        return whole
    falling = Optimizer(learning_rate=1e-3, warmup=3, schedule="wsd", decay=0.7, weight_decay=0.0)
    return replace(
        whole, name="smol-long-lora", optimizer=falling, lora=Lora(rank=rank, alpha=2 * rank)
    )


def _rehearsed(recipe: Recipe) -> Recipe:
    """Its code beside conversations: middles at a weight of 5, which leaves the answers two fifths
    of the loss where they are that share of the tokens.
    """
    assert recipe.infilling is not None
    return replace(recipe, infilling=replace(recipe.infilling, middle_weight=5.0))


def smol_instruct(tokens: int = 300_000) -> Recipe:
    """Instructions for SmolLM2-135M, with code rehearsed as infilling (arXiv 2509.24637: without
    it, instruction tuning unlearns infilling).
    """
    return replace(
        _rehearsed(smol_135m(tokens, "full")),
        name="smol-instruct",
        mix=(("instruct", 0.75), ("python", 0.25)),
        optimizer=Optimizer(learning_rate=1e-4, warmup=10),
    )


def smol_chat(tokens: int = 150_000) -> Recipe:
    """Instructions in adapters of rank 4, stacked on those of smol_135m: 22 MB together. Two fifths
    of the tokens rehearse infilling (arXiv 2509.24637).
    """
    return replace(
        _rehearsed(smol_135m(tokens)),
        name="smol-chat-lora",
        mix=(("instruct", 0.6), ("python", 0.4)),
        optimizer=Optimizer(
            learning_rate=5e-4, warmup=5, schedule="wsd", final_ratio=0.05, weight_decay=0.0
        ),
        lora=Lora(rank=4, alpha=8),
    )


def smol_refine(tokens: int = 800_000) -> Recipe:
    """Going on from an adapter (`--adapter`) with functions that stand alone (`corpus build --unit
    standalone`), single lines most of all, beside what the base writes itself (`corpus rehearse`):
    12% its texts, left to right, and 18% its answers. Two thirds of the middles are suffix first,
    the order that is learned last. The rate falls from the start to 0.
    """
    base = smol_135m(tokens)
    assert base.infilling is not None
    return replace(
        base,
        name="smol-refine",
        mix=(("python", 0.70), ("nl", 0.12), ("instruct", 0.18)),
        optimizer=Optimizer(
            learning_rate=8e-4, warmup=10, schedule="wsd", decay=1.0, final_ratio=0.0,
            weight_decay=0.0,
        ),
        infilling=replace(
            base.infilling,
            spm=0.65,
            spans=(("line", 0.65), ("rest", 0.25), ("lines", 0.10)),
            middle_weight=8.0,
            plain=("nl",),
        ),
    )  # fmt: skip
