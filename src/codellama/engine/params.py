"""How tokens are drawn and when an answer ends: SamplingParams.

Knows no text: stop strings, breakers and line limits are carried for the callers, who own the
tokenizer.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from typing import Any

from codellama.engine import checks
from codellama.errors import RequestError

__all__ = ["SamplingParams"]

MAX_LOGPROBS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How tokens are drawn and when to stop. Frozen; derive variants with `dataclasses.replace`.

    Attributes:
        max_tokens: most tokens generated; None goes on to the end of the context; 0 only fills the
            prefix cache.
        temperature: 0 (below 1e-5) is greedy; otherwise logits are divided by it before top_k,
            top_p and min_p.
        top_k: keep the k likeliest tokens; 0 or -1 keeps all.
        top_p: keep the fewest likeliest tokens whose probabilities reach this sum.
        min_p: drop tokens less likely than this share of the likeliest one.
        repetition_penalty: divides positive, multiplies negative logits of recent tokens; 1 is off;
            0.01 to 100.
        repeat_last_n: how many recent tokens (prompt and output) the three penalties see; -1 all, 0
            none.
        presence_penalty, frequency_penalty: subtracted from the logit of recent tokens once, and
            once per occurrence.
        dry_multiplier: "don't repeat yourself": a token that would continue a repeat of n ≥
            dry_allowed_length tokens loses dry_multiplier · dry_base^(n − dry_allowed_length) of
            its logit; 0 is off, 0.8 is usual. Unlike the penalties above it leaves single tokens
            alone, and answers that go in circles end (llama.cpp's sampler of that name).
        dry_penalty_last_n: where repeats are looked for: None in the answer alone (code repeats its
            surroundings, rightly), -1 in the prompt, too, else in so many last tokens; 0 is off.
        dry_sequence_breakers: texts that no repeat contains. Applied by whoever owns the tokenizer,
            as `dry_breakers`: ids of the tokens that have one of them.
        logit_bias: token id → number added to its logit before anything else; -inf forbids it. A
            mapping or pairs; kept as pairs in order of id.
        seed: makes draws repeatable on any batch; None takes a random one, which the Output
            reports.
        logprobs: report the log-probability of each token and of this many likeliest ones; None
            reports none.
        stop: texts that end the answer and are not part of it. Applied by whoever owns the
            tokenizer.
        stop_ids: token ids that end the answer, on top of the model's own.
        ignore_eos: generate past the model's own stop ids.
        max_lines: lines after which the answer ends. Applied by whoever owns the tokenizer.
        speculate: draft tokens by prompt lookup, and by the draft model if the engine has one; the
            text does not change. None: only if it has one.

    Raises:
        RequestError: a field out of its range, by name.

    >>> SamplingParams(temperature=0.8, top_p=0.95, seed=7, stop="\\ndef").stop
    ('\\ndef',)
    """

    max_tokens: int | None = 256
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    repeat_last_n: int = 64
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_penalty_last_n: int | None = None
    dry_sequence_breakers: tuple[str, ...] = ()
    dry_breakers: frozenset[int] = frozenset()
    logit_bias: tuple[tuple[int, float], ...] = ()
    seed: int | None = None
    logprobs: int | None = None
    stop: tuple[str, ...] = ()
    stop_ids: frozenset[int] = frozenset()
    ignore_eos: bool = False
    max_lines: int | None = None
    speculate: bool | None = None

    def __post_init__(self) -> None:
        checks.integer("max_tokens", self.max_tokens, 0, optional=True)
        checks.number("temperature", self.temperature, 0.0, 1000.0)
        checks.integer("top_k", self.top_k, -1)
        checks.number("top_p", self.top_p, 0.0, 1.0)
        checks.number("min_p", self.min_p, 0.0, 1.0)
        checks.number("repetition_penalty", self.repetition_penalty, 0.01, 100.0)
        checks.integer("repeat_last_n", self.repeat_last_n, -1)
        checks.number("presence_penalty", self.presence_penalty, -2.0, 2.0)
        checks.number("frequency_penalty", self.frequency_penalty, -2.0, 2.0)
        checks.number("dry_multiplier", self.dry_multiplier, 0.0, 100.0)
        checks.number("dry_base", self.dry_base, 1.0, 100.0)
        checks.integer("dry_allowed_length", self.dry_allowed_length, 1)
        checks.integer("dry_penalty_last_n", self.dry_penalty_last_n, -1, optional=True)
        checks.integer("seed", self.seed, -(2**63), 2**64 - 1, optional=True)
        checks.integer("logprobs", self.logprobs, 0, MAX_LOGPROBS, optional=True)
        checks.integer("max_lines", self.max_lines, 1, optional=True)
        checks.flag("ignore_eos", self.ignore_eos)
        checks.flag("speculate", self.speculate, optional=True)
        object.__setattr__(self, "logit_bias", checks.biases("logit_bias", self.logit_bias))
        for name in ("stop", "dry_sequence_breakers"):
            object.__setattr__(self, name, checks.texts(name, getattr(self, name)))
        for name in ("stop_ids", "dry_breakers"):
            object.__setattr__(self, name, checks.ids(name, getattr(self, name)))

    @classmethod
    def from_keywords(cls, keywords: dict[str, Any]) -> SamplingParams:
        """The params that a caller's keyword arguments name.

        Raises:
            RequestError: an unknown keyword (the message lists the known ones) or a value out of
                range.
        """
        known = [each.name for each in fields(cls)]
        for name in keywords:
            if name not in known:
                raise RequestError(
                    f"unknown parameter {name!r}: the known ones are {', '.join(known)}"
                )
        return cls(**keywords)

    def drawn_seed(self) -> int:
        """The seed to use and report; greedy answers need none, and compare equal."""
        if self.seed is not None:
            return self.seed
        return 0 if self.temperature == 0.0 else int.from_bytes(os.urandom(8), "little") >> 1

    def check_ids(self, vocab_size: int) -> None:
        """Raises RequestError where logit_bias or dry_breakers name what a vocabulary lacks."""
        largest = {
            "logit_bias": max((id for id, _bias in self.logit_bias), default=0),
            "dry_breakers": max(self.dry_breakers, default=0),
        }
        for name, id in largest.items():
            if id >= vocab_size:
                raise RequestError(f"{name}: {id} is no token id: they end at {vocab_size - 1}")

    @property
    def penalizes(self) -> bool:
        """Whether any penalty changes logits."""
        return bool(self.repeat_last_n) and (
            self.repetition_penalty != 1.0 or bool(self.presence_penalty or self.frequency_penalty)
        )

    @property
    def avoids_repeats(self) -> bool:
        """Whether DRY changes logits."""
        return self.dry_multiplier > 0.0 and self.dry_penalty_last_n != 0
