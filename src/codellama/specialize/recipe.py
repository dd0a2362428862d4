"""What a stage trains on and how (Recipe: the science), and on what machine (Profile).

The recipe decides the result; the profile only how long it takes. Both are frozen: derive one from
another with `dataclasses.replace`. The key of a recipe is a hash of all its fields: it enters every
random draw, and a checkpoint of another key is refused.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Literal

__all__ = ["Infilling", "Lora", "Optimizer", "Profile", "Recipe", "SpanKind"]

SpanKind = Literal["characters", "line", "lines", "rest", "nodes"]
Schedule = Literal["cosine", "wsd", "constant"]


def _fraction(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{name} is {value}: it must lie between 0 and 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Infilling:
    """The infilling objective (paper §2.3).

    Attributes:
        rate: share of whole documents that are rearranged; documents cut across rows never are.
        spm: share of these in suffix-first order.
        spans: kinds of middles and their weights. The paper's is ("characters", 1.0) alone.
        sentinel_weight: of PRE, SUF and MID in the loss; 0 where random places cannot be learned.
        middle_weight: of the middle and EOT in the loss.
        plain: sets of the mix whose documents all stay left to right.
    """

    rate: float = 0.9
    spm: float = 0.5
    spans: tuple[tuple[SpanKind, float], ...] = (("characters", 1.0),)
    sentinel_weight: float = 1.0
    middle_weight: float = 1.0
    plain: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _fraction("rate", self.rate)
        _fraction("spm", self.spm)
        if not self.spans or any(weight < 0 for _, weight in self.spans):
            raise ValueError("spans need at least one kind, and weights of 0 or more")
        if sum(weight for _, weight in self.spans) <= 0:
            raise ValueError("the weights of spans are all 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimizer:
    """AdamW as in Llama 2 §2.2, and the learning rate's course.

    Attributes:
        learning_rate: peak.
        final_ratio: last learning rate as a share of the peak (paper: 1/30).
        schedule: "cosine"; "wsd" holds the peak and falls linearly over the last `decay` of the
            steps; "constant".
        warmup: steps of linear rise.
    """

    learning_rate: float
    final_ratio: float = 1 / 30
    schedule: Schedule = "cosine"
    warmup: int = 1000
    decay: float = 0.3
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-5
    weight_decay: float = 0.1
    clip: float = 1.0

    def __post_init__(self) -> None:
        if self.learning_rate <= 0 or self.warmup < 0 or self.clip <= 0:
            raise ValueError("learning_rate and clip must be positive, warmup 0 or more")
        _fraction("final_ratio", self.final_ratio)
        _fraction("decay", self.decay)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lora:
    """Low-rank adapters on the seven matrices of every layer (arXiv 2106.09685).

    The update is scale · B·A with scale = alpha / rank. `quantized` leaves the base as its file
    stores it.
    """

    rank: int = 32
    alpha: float = 32.0
    quantized: bool = False

    def __post_init__(self) -> None:
        if self.rank < 1 or self.alpha <= 0:
            raise ValueError("rank must be 1 or more, alpha positive")

    @property
    def scale(self) -> float:
        return self.alpha / self.rank


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """One box of Figure 2.

    Attributes:
        name: for people; also the name of the run's folder.
        tokens: to train on, counted before padding.
        batch_tokens: of one optimizer step, over all machines.
        sequence: tokens of a row; longer documents are cut into rows.
        mix: set of the corpus → share of the tokens (paper, Table 1).
        optimizer: see Optimizer.
        infilling: None trains left to right.
        lora: None trains all weights.
        rope_theta: new RoPE base, set before the stage (paper §2.4); None keeps the model's.
        whole: documents that fit a row are not cut.
        seed: enters every draw.
    """

    name: str
    tokens: int
    batch_tokens: int
    sequence: int
    mix: tuple[tuple[str, float], ...]
    optimizer: Optimizer
    infilling: Infilling | None = None
    lora: Lora | None = None
    rope_theta: float | None = None
    context: int | None = None
    whole: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.tokens, self.batch_tokens, self.sequence) < 1:
            raise ValueError("tokens, batch_tokens and sequence must be positive")
        if self.batch_tokens < self.sequence:
            raise ValueError("a batch must hold at least one row: batch_tokens >= sequence")
        total = sum(share for _, share in self.mix)
        if not self.mix or any(share <= 0 for _, share in self.mix) or abs(total - 1) > 1e-6:
            raise ValueError(f"the shares of the mix must be positive and add up to 1, not {total}")

    @property
    def rows(self) -> int:
        """Rows of one optimizer step."""
        return self.batch_tokens // self.sequence

    @property
    def steps(self) -> int:
        """Optimizer steps of the stage."""
        return max(1, round(self.tokens / (self.rows * self.sequence)))

    @property
    def key(self) -> str:
        """16 hex digits that change with any field; one that came later only where it is set, so
        that runs from before it go on.
        """
        fields = asdict(self)
        if self.infilling is not None and not self.infilling.plain:
            del fields["infilling"]["plain"]
        text = json.dumps(fields, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """The machine. Changes speed and memory, not what is computed (up to floating point).

    Attributes:
        dtype: of the forward and backward products; weights and sums stay float32. "auto" is
            bfloat16 where the device has instructions for it (speed.py).
        micro_rows: rows of one forward pass; gradients are summed over the batch.
        checkpoint_minutes: between checkpoints; keep: how many stay.
        recompute: activation checkpointing: a third more compute for much less memory.
        compile: torch.compile of what is element-wise; None where the stage is long enough to pay
            for it and a C++ compiler is there.
        threads: None leaves PyTorch's choice.
    """

    name: str = "laptop"
    device: str = "cpu"
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    micro_rows: int = 2
    checkpoint_minutes: float = 5.0
    keep: int = 2
    recompute: bool = False
    compile: bool | None = None
    threads: int | None = None
    mesh: tuple[tuple[str, int], ...] = ()
