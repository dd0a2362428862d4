"""Figures as SVG text, for screen and print: matplotlib, no colours that a grey printer loses."""

from __future__ import annotations

import io
import re
from collections import defaultdict
from math import isnan
from typing import TYPE_CHECKING, Any

from codellama.errors import NotFoundError
from codellama.evaluate.report.collect import Finished
from codellama.evaluate.report.paper import FIGURE_4A, FIGURE_6, TEMPERATURES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["key_retrieval", "perplexity_by_length", "perplexity_by_position", "temperatures"]

# Told apart by marker and dash as well as by colour (Okabe and Ito's, safe for colour blindness).
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P")
PAPER = {"color": "#888888", "linewidth": 1.0, "markersize": 3}


def _figure(width: float, height: float, columns: int = 1) -> tuple[Figure, Any]:
    try:
        import matplotlib
    except ImportError:
        raise NotFoundError("figures need matplotlib: pip install 'codellama[eval]'") from None
    matplotlib.use("svg")
    from matplotlib import pyplot

    pyplot.rcParams.update(
        {
            "svg.fonttype": "none",
            "svg.hashsalt": "codellama",
            "font.family": "sans-serif",
            "font.size": 9,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.color": "#e4e4e4",
            "grid.linewidth": 0.6,
        }
    )
    return pyplot.subplots(1, columns, figsize=(width, height), squeeze=False)


def _svg(figure: Figure, label: str) -> str:
    from matplotlib import pyplot

    text = io.StringIO()
    figure.savefig(text, format="svg", bbox_inches="tight", metadata={"Date": None})
    pyplot.close(figure)
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    # Ids are made unique, since several figures share a page; a label is what a reader without
    # eyes gets.
    unique = re.sub(r"\W", "", label)
    svg = re.sub(r'id="([^"]+)"', rf'id="{unique}-\1"', svg)
    svg = re.sub(r'(href="#|url\(#)', rf"\1{unique}-", svg)
    return svg.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)


def _tokens(axis: Any, at: list[int]) -> None:
    """A logarithmic axis of token counts, labelled in words of the field: 512, 2k, 128k."""
    axis.set_xscale("log", base=2)
    shown = [n for n in at if n & (n - 1) == 0]
    axis.set_xticks(shown, [f"{n >> 10}k" if n >= 1024 else str(n) for n in shown])
    axis.minorticks_off()


def perplexity_by_position(runs: list[Finished]) -> str | None:
    """Perplexity of the tokens in each range of positions."""
    runs = [run for run in runs if run.suite == "perplexity"]
    if not runs:
        return None
    figure, axes = _figure(6.2, 3.2)
    axis, every = axes[0][0], set[int]()
    for i, run in enumerate(runs):
        points = [
            (int(name.split()[1].split("-")[1]), value, interval)
            for name, value, interval in run.figures
            if re.fullmatch(r"perplexity \d+-\d+", name)
        ]
        x = [p[0] for p in points]
        every |= set(x)
        name = run.label(runs)
        axis.plot(
            x, [p[1] for p in points], color=COLOURS[i % 6], marker=MARKERS[i % 6], label=name
        )
        if all(p[2] for p in points):
            low, high = ([p[2][k] for p in points] for k in (0, 1))  # type: ignore[index]
            axis.fill_between(x, low, high, color=COLOURS[i % 6], alpha=0.15, linewidth=0)
    _tokens(axis, sorted(every))
    axis.set_xlabel("up to position (tokens)")
    axis.set_ylabel("perplexity")
    axis.legend(frameon=False)
    return _svg(figure, "Perplexity by position")


def perplexity_by_length(runs: list[Finished]) -> str | None:
    """Figure 4a: perplexity of files cut to each length, ours and the paper's, a panel each: the
    texts differ, so the levels do not compare.
    """
    runs = [run for run in runs if run.suite == "perplexity"]
    if not runs:
        return None
    figure, axes = _figure(7.6, 3.0, 2)
    for i, run in enumerate(runs):
        points = [(int(n.split("@")[1]), v) for n, v, _ in run.figures if "@" in n]
        x, y = zip(*points, strict=True)
        name = run.label(runs)
        axes[0][0].plot(x, y, color=COLOURS[i % 6], marker=MARKERS[i % 6], label=name)
    for i, (name, values) in enumerate(FIGURE_4A.items()):
        axes[0][1].plot(list(values), list(values.values()), marker=MARKERS[i], label=name, **PAPER)
    for axis, title in zip(axes[0], ("this run, own split", "the paper, Figure 4a"), strict=True):
        _tokens(axis, sorted({int(x) for line in axis.get_lines() for x in line.get_xdata()}))
        axis.set_xlabel("context (tokens)")
        axis.set_title(title, fontsize=9)
        axis.legend(frameon=False)
    axes[0][0].set_ylabel("perplexity")
    return _svg(figure, "Perplexity by context length")


def key_retrieval(run: Finished) -> str | None:
    """Share of keys found, by context length and the key's position."""
    cells = {
        tuple(map(float, name.split(" @ "))): value
        for name, value, _ in run.figures
        if " @ " in name
    }
    if not cells:
        return None
    lengths = sorted({length for length, _ in cells})
    positions = sorted({position for _, position in cells})
    figure, axes = _figure(1.4 + 0.8 * len(positions), 0.9 + 0.45 * len(lengths))
    axis = axes[0][0]
    grid = [[100 * cells.get((length, p), float("nan")) for p in positions] for length in lengths]
    axis.imshow(grid, cmap="Blues", vmin=0, vmax=100, aspect="auto")
    for y, row in enumerate(grid):
        for x, value in enumerate(row):
            ink = "white" if value > 55 else "black"
            shown = "–" if isnan(value) else f"{value:.0f}"  # – was not asked
            axis.text(x, y, shown, ha="center", va="center", color=ink)
    axis.set_xticks(range(len(positions)), [f"{p:g}" for p in positions])
    axis.set_yticks(range(len(lengths)), [f"{length:,.0f}" for length in lengths])
    axis.set_xlabel("position of the key")
    axis.set_ylabel("tokens")
    axis.grid(False)
    return _svg(figure, f"Key retrieval of {run.model} in percent")


def temperatures(runs: list[Finished], suite: str) -> str | None:
    """Figure 6: pass@k over temperature, beside the paper's curves. Needs two sampled runs."""
    models: dict[str, list[Finished]] = defaultdict(list)
    for run in runs:
        if run.suite == suite and run.temperature > 0:
            models[run.model].append(run)
    if not any(len(each) > 1 for each in models.values()):
        return None
    ks = [k for k in (1, 10, 100) if any(f"pass@{k}" in run.result for run in runs)]
    figure, axes = _figure(2.7 * len(ks) + 0.6, 2.8, len(ks))
    for axis, k in zip(axes[0], ks, strict=True):
        for i, (name, curves) in enumerate(FIGURE_6.get(suite, {}).items()):
            axis.plot(TEMPERATURES, curves[k], marker=MARKERS[i], label=name, **PAPER)
        for i, (name, own) in enumerate(models.items()):
            points = [
                (r.temperature, 100 * r.result[f"pass@{k}"]) for r in own if f"pass@{k}" in r.result
            ]
            axis.plot(*zip(*points, strict=True), color=COLOURS[i], marker=MARKERS[i], label=name)
        axis.set_title(f"pass@{k}", fontsize=9)
        axis.set_xlabel("temperature")
        axis.set_ylim(bottom=0)
    axes[0][0].set_ylabel("%")
    axes[0][-1].legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return _svg(figure, f"pass@k over temperature, {suite}")
