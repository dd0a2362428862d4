"""The roofline as a picture: what each case does, and what the machine would allow."""

from __future__ import annotations

from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

from codellama.bench.limits import Cost
from codellama.bench.session import OURS, Result, Row
from codellama.errors import RequestError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot"]

GOP = 1e9


def plot(result: Result, path: Path) -> None:
    """Write a picture; its form follows the path's ending.

    Left the roofline: operations a second over operations per byte, both logarithmic. Right each
    case's share of its limit. RequestError without matplotlib, or for a path that it cannot write.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise RequestError("plots need matplotlib: pip install 'codellama[bench]'") from None
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    _roofline(left, result)
    _shares(right, result)
    try:
        figure.savefig(path, dpi=120)
    except (OSError, ValueError) as error:
        raise RequestError(f"{path}: cannot be written: {error}") from None


def _rates(result: Result, engine: str) -> list[tuple[Row, Cost, float]]:
    """The cases that an engine knows, with its tokens a second."""
    found = []
    for row in result.rows:
        beside = row.peers.get(engine)
        rate = row.ours if engine == OURS else beside.rate if beside else None
        if rate is not None:
            found.append((row, result.workload.cost(row.case), rate))
    return found


def _roofline(axes: Axes, result: Result) -> None:
    limits = result.limits
    intensities = [result.workload.cost(row.case).intensity for row in result.rows]
    low, high = min(intensities) / 2, max(intensities) * 2
    steps = [low * (high / low) ** (i / 200) for i in range(201)]
    roof = [min(limits.peak, limits.bandwidth * x) / GOP for x in steps]
    axes.loglog(steps, roof, color="black", label="the machine's limit")
    for engine, mark in zip(result.engines, cycle("ox+^v"), strict=False):
        points = [
            (cost.intensity, rate * cost.ops / cost.tokens / GOP)
            for _, cost, rate in _rates(result, engine)
        ]
        if points:
            axes.plot(*zip(*points, strict=True), mark, label=engine)
    for row, cost, rate in _rates(result, OURS):
        at = (cost.intensity, rate * cost.ops / cost.tokens / GOP)
        axes.annotate(row.case.label, at, fontsize=7, xytext=(4, -8), textcoords="offset points")
    axes.set(xlabel="operations per byte", ylabel="Gop/s", title=f"{result.model}: roofline")
    axes.legend()


def _shares(axes: Axes, result: Result) -> None:
    labels = [row.case.label for row in result.rows]
    axes.barh(labels, [100 * row.share for row in result.rows], label=OURS)
    for engine, mark in zip(result.engines[1:], cycle("x+^v"), strict=False):
        found = _rates(result, engine)
        shares = [100 * rate / row.limit for row, _, rate in found]
        axes.plot(shares, [row.case.label for row, *_ in found], f"k{mark}", label=engine)
    axes.axvline(100, color="black")
    axes.invert_yaxis()
    axes.set(xlabel="% of the machine's limit", title="distance to the limit")
    axes.legend()
