"""What became of one program: passed, or why not.

"error" is the sandbox's failure, never the program's: it is judged again, and no score counts it as
a wrong answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Status", "Verdict"]

Status = Literal["passed", "failed", "timeout", "memory", "output", "compile", "error"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """A status, what the program or its tests said, and how long it took."""

    status: Status
    detail: str = ""
    wall_s: float = 0.0

    @property
    def passed(self) -> bool:
        return self.status == "passed"
