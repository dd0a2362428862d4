"""What a terminal needs to know of a model: whether it talks at all, and how to keep a small one
from going in circles.

The API and servers draw as they are asked to, and evaluations as the paper did.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from codellama.api import CodeLlama

__all__ = ["is_chat_model", "without_circles"]

SMALL = 1_000_000_000
PENALTY = 1.05
"""On the last 64 tokens, for models of fewer than SMALL weights. Of 32 answers of
codellama-smol:135m (four questions, temperature 0.2, 300 tokens at most) 14 ended by themselves and
7 repeated their last 60 characters three times; with the penalty 31 and 1, and with 1.1 as many."""
DRY = 0.8
"""What fills a gap is code, in which single tokens come again, rightly: of codellama-smol:135m's
answers to 253 gaps of several lines, suffix first, 91.3% ended within 256 tokens, with this 99.6%,
and 11.1% were exact in both cases (docs/results/codellama-smol.md)."""


def is_chat_model(llm: CodeLlama, name: str) -> bool:
    """Whether prompts are messages: the file has a chat format, or is called instruct."""
    tagged = llm.chat_template is not None or llm.tokenizer.token_id("<step>") is not None
    return tagged or "instruct" in name.lower() or "instruct" in llm.config.name.lower()


def without_circles(
    llm: CodeLlama, params: Mapping[str, Any], *, fills: bool = False
) -> dict[str, Any]:
    """The parameters of an answer, with a penalty on repetition where the model is small and nobody
    chose one; on repeats of several tokens if it `fills` a gap.
    """
    if llm.config.n_parameters >= SMALL:
        return dict(params)
    penalty = {"dry_multiplier": DRY} if fills else {"repetition_penalty": PENALTY}
    return {**penalty, **params}
