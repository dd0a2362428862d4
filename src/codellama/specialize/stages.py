"""Every box of Figure 2 as a function that returns a Recipe, and the pipelines that they form.

    general Llama → code (+ infilling) → long context        Code Llama
                  → code → Python → long context             Code Llama - Python
    Code Llama    → instruct                                 Code Llama - Instruct

The paper's numbers are those of §2 and Table 1 of arXiv 2308.12950. What it does not state is
marked "not stated" and follows Llama 2 (arXiv 2307.09288). Recipes for SmolLM2-135M are in smol.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from codellama.errors import RequestError
from codellama.specialize.recipe import Infilling, Optimizer, Profile, Recipe
from codellama.specialize.smol import smol_135m, smol_chat, smol_instruct, smol_long, smol_refine

__all__ = [
    "PROFILES", "RECIPES", "Gate", "Pipeline", "code", "instruct", "long_context", "pipeline",
    "profile", "python",
]  # fmt: skip

CODE_MIX = (("code", 0.85), ("nl_code", 0.08), ("nl", 0.07))
PYTHON_MIX = (("python", 0.75), ("code", 0.10), ("nl_code", 0.10), ("nl", 0.05))
INSTRUCT_MIX = (("instruct", 0.92), ("code", 0.06), ("nl", 0.02))
"""Rehearsal of 6% code and 2% natural language (§2.5)."""

_PEAK = {"7b": 3e-4, "13b": 3e-4, "34b": 1.5e-4, "70b": 1.5e-4}  # Llama 2's, kept (§2.6)
_INFILLS = ("7b", "13b", "70b")
_CODE_TOKENS = {"7b": 500e9, "13b": 500e9, "34b": 500e9, "70b": 1000e9}
_LONG = {  # (steps, tokens of a batch): §2.4, §2.6; 70B: not stated, the default
    ("7b", "base"): (3_000, 1 << 21),
    ("34b", "base"): (11_000, 1 << 20),
    ("34b", "python"): (11_000, 1 << 20),
}
_LONG_DEFAULT = (10_000, 1 << 21)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """What must hold after a stage before the next one starts."""

    natural_language_rise: float = 0.03
    """Largest rise of bits per byte on held-out natural language, as a share."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipeline:
    """Stages in order, from one base model."""

    name: str
    base: str
    stages: tuple[Recipe, ...]
    gate: Gate = Gate()


def code(size: str) -> Recipe:
    """Code training: 500B tokens (70B: 1T) of 4M a step at 4,096, infilling for 7B, 13B, 70B."""
    return Recipe(
        name=f"code-{size}",
        tokens=int(_CODE_TOKENS[size]),
        batch_tokens=1 << 22,
        sequence=4096,
        mix=CODE_MIX,
        optimizer=Optimizer(learning_rate=_PEAK[size]),
        infilling=Infilling() if size in _INFILLS else None,
        whole=False,
    )


def python(size: str) -> Recipe:
    """Python training: 100B tokens, initial learning rate 1e-4, without infilling."""
    return Recipe(
        name=f"python-{size}",
        tokens=int(100e9),
        batch_tokens=1 << 22,  # not stated; that of code training
        sequence=4096,
        mix=PYTHON_MIX,
        optimizer=Optimizer(learning_rate=1e-4),
        whole=False,
    )


def long_context(size: str, variant: str) -> Recipe:
    """Long-context fine-tuning: 16,384 tokens, RoPE's base from 1e4 to 1e6, learning rate 2e-5.

    Raises RequestError for the 70B Python and Instruct models, which had none.
    """
    if size == "70b" and variant != "base":
        raise RequestError(f"the {variant} 70B model had no long-context stage (paper §2.1)")
    steps, batch = _LONG.get((size, variant), _LONG_DEFAULT)
    infills = variant == "base" and size in _INFILLS
    return Recipe(
        name=f"long-{size}-{variant}",
        tokens=steps * batch,
        batch_tokens=batch,
        sequence=16_384,
        mix=CODE_MIX if variant == "base" else PYTHON_MIX,  # not stated; that of the stage before
        optimizer=Optimizer(learning_rate=2e-5, warmup=20, schedule="constant"),  # not stated
        infilling=Infilling() if infills else None,  # not stated; these models infill afterwards
        rope_theta=1e6,
        context=16_384,
        whole=False,
    )


def instruct(size: str) -> Recipe:
    """Instruction tuning: about 5B tokens in batches of 524,288, with rehearsal (§2.5, §2.6)."""
    return Recipe(
        name=f"instruct-{size}",
        tokens=int(5e9),
        batch_tokens=1 << 19,
        sequence=4096,  # not stated; Llama 2's
        mix=INSTRUCT_MIX,
        optimizer=Optimizer(learning_rate=2e-5, warmup=20),  # not stated; Llama 2's
        infilling=Infilling() if size in _INFILLS else None,  # of the rehearsed code
    )


def _paper(size: str, variant: str) -> Pipeline:
    """The paper's path to one of its models."""
    stages = [code(size)]
    if variant == "python" or (size == "70b" and variant == "instruct"):
        # The 70B Instruct model descends from the Python one (§2.1). Other Python models come
        # from code training without infilling.
        first = stages[0] if size == "70b" else replace(stages[0], infilling=None)
        stages = [first, python(size)]
    if not (size == "70b" and variant != "base"):
        stages.append(long_context(size, "python" if variant == "python" else "base"))
    if variant == "instruct":
        stages.append(instruct(size))
    return Pipeline(name=f"codellama-{size}-{variant}", base=f"llama2:{size}", stages=tuple(stages))


def _smol(method: str) -> Pipeline:
    return Pipeline(
        name="smol-135m" if method == "lora" else f"smol-135m-{method}",
        base="smollm2:135m",
        stages=(smol_135m(method=method),),
    )


def _smol_refine() -> Pipeline:
    """On from `smol-135m`, or from the model that ships."""
    return Pipeline(name="smol-135m-refine", base="smollm2:135m", stages=(smol_refine(),))


def _smol_long() -> Pipeline:
    """Code with infilling, then long context, both in adapters."""
    stages = (smol_135m(), smol_long(150_000, rank=4))
    return Pipeline(name="smol-135m-long", base="smollm2:135m", stages=stages)


def _smol_chat() -> Pipeline:
    """Code with infilling, then instructions: the model that ships with the project."""
    return Pipeline(name="smol-135m-chat", base="smollm2:135m", stages=(smol_135m(), smol_chat()))


def _smol_whole() -> Pipeline:
    """All of Figure 2 on a laptop: code with infilling → long context → instruct."""
    stages = (smol_135m(method="full"), smol_long(), smol_instruct())
    return Pipeline(name="smol-135m-whole", base="smollm2:135m", stages=stages)


RECIPES: dict[str, Callable[[], Pipeline]] = {
    **{
        f"codellama-{size}-{variant}": partial(_paper, size, variant)
        for size in ("7b", "13b", "34b", "70b")
        for variant in ("base", "python", "instruct")
    },
    "smol-135m": partial(_smol, "lora"),
    "smol-135m-qlora": partial(_smol, "qlora"),
    "smol-135m-full": partial(_smol, "full"),
    "smol-135m-long": _smol_long,
    "smol-135m-chat": _smol_chat,
    "smol-135m-refine": _smol_refine,
    "smol-135m-whole": _smol_whole,
}

PROFILES = {
    "laptop": Profile(),
    "laptop-long": Profile(name="laptop-long", micro_rows=1, recompute=True),
    "laptop-float32": Profile(name="laptop-float32", dtype="float32"),
    "gpu": Profile(name="gpu", device="cuda", micro_rows=8, recompute=True),
    "h100x8": Profile(
        name="h100x8", device="cuda", micro_rows=4, recompute=True, mesh=(("dp", 8),)
    ),
    "h100x512": Profile(
        name="h100x512", device="cuda", micro_rows=4, recompute=True,
        checkpoint_minutes=30, mesh=(("dp", 64), ("tp", 8)),
    ),
}  # fmt: skip


def pipeline(name: str) -> Pipeline:
    """A recipe by name. Raises RequestError with the known ones."""
    if name not in RECIPES:
        raise RequestError(f"there is no recipe {name!r}; known: {', '.join(RECIPES)}")
    return RECIPES[name]()


def profile(name: str) -> Profile:
    """A profile by name. Raises RequestError with the known ones."""
    if name not in PROFILES:
        raise RequestError(f"there is no profile {name!r}; known: {', '.join(PROFILES)}")
    return PROFILES[name]
