"""What a suite asks of a model, and the model behind it: text in, text or numbers out.

Whoever composes the program implements `Model` (the local engine, or a server's URL). Nothing here
knows an engine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from codellama.errors import CodeLlamaError

__all__ = [
    "Ask",
    "Continue",
    "Decoding",
    "Fill",
    "Likelihood",
    "Model",
    "Order",
    "Positions",
    "Raw",
    "Talk",
    "UnsupportedAskError",
]

Order = Literal["psm", "spm"]
Raw = str | list[float] | list[list[float]]
"""A model's answer as it is kept: text; or, for Likelihood, [log-probability, tokens] for each
continuation; or, for Positions, the negative log-likelihood of each token after the first, in nats.
"""


class UnsupportedAskError(CodeLlamaError):
    """This model cannot answer such a question (infilling, likelihoods over a URL, …)."""


@dataclass(frozen=True, slots=True)
class Continue:
    """Continue a text up to one of the stop texts, which are not part of the answer."""

    prompt: str
    stop: tuple[str, ...] = ()
    max_tokens: int = 512


@dataclass(frozen=True, slots=True)
class Fill:
    """The middle between two texts (paper §2.3). `heal` undoes the token boundary at its start;
    `until_suffix` ends it where it begins to repeat the suffix, `nonempty` does not let it end
    before it has begun, and `dry` keeps it from repeating itself (SamplingParams.dry_multiplier):
    the paper did none of this.
    """

    prefix: str
    suffix: str
    order: Order = "spm"
    heal: bool = False
    stop: tuple[str, ...] = ()
    max_tokens: int = 512
    until_suffix: bool = False
    nonempty: bool = False
    dry: float = 0.0


@dataclass(frozen=True, slots=True)
class Talk:
    """The answer to messages {"role", "content"} in the model's chat format."""

    messages: tuple[tuple[str, str], ...]
    stop: tuple[str, ...] = ()
    max_tokens: int = 512


@dataclass(frozen=True, slots=True)
class Likelihood:
    """How likely each continuation is after the context."""

    context: str
    continuations: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Positions:
    """How likely each token of a text is, of its first `tokens`."""

    text: str
    tokens: int


Ask = Continue | Fill | Talk | Likelihood | Positions


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoding:
    """How answers are drawn: greedy by default; the paper's pass@10 and 100 use 0.8 and 0.95."""

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0


class Model(Protocol):
    """A model that answers. Calls may come from several threads at once.

    Attributes:
        name: for people.
        infills: whether Fill can be answered.
        parallel: how many asks at once keep it busy.
        context: longest text, in tokens.
    """

    name: str
    parallel: int

    @property
    def infills(self) -> bool: ...
    @property
    def context(self) -> int: ...

    def identity(self) -> dict[str, str | int]:
        """What makes a result repeatable: file hash, quantization, versions."""
        ...

    def count(self, text: str) -> int:
        """Tokens of a text."""
        ...

    def answers(self, ask: Ask, n: int, decoding: Decoding) -> list[Raw]:
        """n answers to one question; they share its computation.

        Raises:
            UnsupportedAskError: this model cannot.
        """
        ...
