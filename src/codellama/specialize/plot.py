"""The course of a run as a picture: loss and learning rate against tokens, from log.jsonl."""

from __future__ import annotations

import json
from pathlib import Path

from codellama.errors import RequestError

__all__ = ["plot_log"]

_SMOOTHING = 0.1  # weight of a new step in the running mean


def plot_log(log: Path, target: Path) -> None:
    """Write an SVG or PNG. Raises RequestError without matplotlib or without steps."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise RequestError("plots need matplotlib: pip install 'codellama[train]'") from None
    lines = log.read_text().splitlines() if log.is_file() else []
    steps = [json.loads(line) for line in lines]
    if not steps:
        raise RequestError(f"{log}: no step was logged yet")
    tokens = [step["tokens"] for step in steps]
    smooth, mean = [], steps[0]["loss"]
    for step in steps:
        mean += _SMOOTHING * (step["loss"] - mean)
        smooth.append(mean)
    figure = Figure(figsize=(7, 5), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    top.plot(tokens, [step["loss"] for step in steps], alpha=0.3, label="each step")
    top.plot(tokens, smooth, label="running mean")
    top.set_ylabel("loss (nats a token)")
    top.legend()
    bottom.plot(tokens, [step["learning_rate"] for step in steps])
    bottom.set_ylabel("learning rate")
    bottom.set_xlabel("tokens")
    draft = target.with_name(f".{target.name}.partial")
    figure.savefig(draft, format=target.suffix.removeprefix("."), metadata={})
    draft.replace(target)
