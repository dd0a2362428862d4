"""log.jsonl of a run: one line a step, cut back to the checkpoint that a run resumes from.

Knows JSON lines that have a "step", not what else is in them.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["append", "cut"]

_NAME = "log.jsonl"


def append(folder: Path, record: Mapping[str, Any]) -> None:
    """One more line."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / _NAME).open("a") as file:
        file.write(json.dumps(record) + "\n")


def cut(folder: Path, step: int) -> None:
    """Leave what is up to a step: what came after will be done, and written, again."""
    path = folder / _NAME
    lines = path.read_text().splitlines() if path.exists() else []
    kept = [line for line in lines if _step_of(line) <= step]
    draft = path.with_suffix(".partial")
    draft.write_text("".join(line + "\n" for line in kept))
    os.replace(draft, path)


def _step_of(line: str) -> float:
    """The step of a line; beyond all steps for a line cut off by a crash."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf
