"""What is measured, in llama-bench's words: pp512, tg64, tg64@d2048, tg32x16, and answer64.

`pp` computes a prompt, `tg` computes tokens one by one after `@d` others, `x` sequences side by
side; both leave sampling out, as llama-bench does. `answer` is what a user gets: the whole engine,
scheduling, sampling and text included.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from codellama.errors import RequestError

__all__ = ["Case", "default_cases", "parse_cases"]

Kind = Literal["pp", "tg", "answer"]

_FORM = re.compile(r"(pp|tg|answer)([1-9][0-9]{0,6})(?:@d([0-9]{1,6}))?(?:x([1-9][0-9]{0,3}))?")


@dataclass(frozen=True, slots=True)
class Case:
    """One measurement.

    Attributes:
        kind: "pp", "tg" or "answer".
        tokens: computed per sequence while the clock runs.
        depth: tokens in the cache before.
        sequences: computed together.
    """

    kind: Kind
    tokens: int
    depth: int = 0
    sequences: int = 1

    @classmethod
    def parse(cls, text: str) -> Case:
        """RequestError for what is no case.

        >>> Case.parse("tg64@d2048")
        Case(kind='tg', tokens=64, depth=2048, sequences=1)
        """
        match = _FORM.fullmatch(text)
        if match is None or (match[1] != "tg" and match[4]) or (match[1] == "answer" and match[3]):
            examples = "pp512, pp512@d2048, tg64, tg64@d2048, tg32x16 or answer64"
            raise RequestError(f"{text!r} is no case: say {examples}")
        kind: Kind = "pp" if match[1] == "pp" else "tg" if match[1] == "tg" else "answer"
        return cls(kind, int(match[2]), int(match[3] or 0), int(match[4] or 1))

    @property
    def label(self) -> str:
        depth = f"@d{self.depth}" if self.depth else ""
        return f"{self.kind}{self.tokens}{depth}" + (
            f"x{self.sequences}" if self.sequences > 1 else ""
        )

    @property
    def length(self) -> int:
        """Tokens of one sequence at the end."""
        return self.depth + self.tokens + (ANSWER_PROMPT if self.kind == "answer" else 0)


ANSWER_PROMPT = 16  # tokens before an answer: too few for their prefill to matter


def parse_cases(text: str) -> list[Case]:
    """A comma-separated list, without repetitions."""
    return list(dict.fromkeys(Case.parse(part.strip()) for part in text.split(",")))


def default_cases(context: int) -> list[Case]:
    """Prefill, decode, depth sweep and batch sweep, as far as the context reaches."""
    text = "pp128,pp512,pp2048,tg64,tg64@d2048,tg32@d8000,tg32x2,tg32x4,tg32x8,tg32x16,answer64"
    return [case for case in parse_cases(text) if case.length <= context]
