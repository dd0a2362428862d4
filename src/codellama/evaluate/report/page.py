"""The report's HTML and Markdown, from templates."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from importlib import resources
from itertools import groupby
from pathlib import Path
from typing import Any

import jinja2

from codellama.evaluate.report import figures
from codellama.evaluate.report.collect import Finished, find_overlaps, find_runs
from codellama.evaluate.suites import SUITES, suite_class

__all__ = ["write_report"]


def write_report(folders: list[Path], out: Path, *, most: int = 200) -> tuple[Path, Path]:
    """Write OUT.html and OUT.md about every scored run below the folders; returns both paths.

    Raises:
        NotFoundError: no scored runs, or matplotlib is missing.
    """
    runs = find_runs(folders, most=most)
    facts = {
        "runs": runs,
        "sections": _sections(runs),
        "figures": _figures(runs),
        "overlaps": find_overlaps(folders),
        "now": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }
    stem = out.with_suffix("") if out.suffix in (".html", ".md") else out
    paths = (stem.with_suffix(".html"), stem.with_suffix(".md"))
    for path, template in zip(paths, ("report.html.j2", "report.md.j2"), strict=True):
        text = _environment(path.suffix == ".html").get_template(template).render(facts)
        part = path.with_name(f".{path.name}.{os.getpid()}")
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(text, encoding="utf-8", errors="replace")
        os.replace(part, path)
    return paths


def _environment(escape: bool) -> jinja2.Environment:
    def load(name: str) -> str:
        return resources.files("codellama.evaluate.report").joinpath(name).read_text("utf-8")

    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(load),
        autoescape=escape,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["number"] = number
    environment.filters["percent"] = percent
    return environment


def number(value: Any, scale: float = 1.0) -> str:
    """A figure for a table cell: percent with one digit, other units with two or three."""
    if value is None:
        return "–"
    if isinstance(value, str):
        return value
    if scale == 100.0:
        return f"{value:.1f}"
    return f"{value:.3f}" if abs(value) < 1 else f"{value:.2f}"


def percent(run: Finished, value: float) -> str:
    """A figure in the unit of its suite."""
    table = run.paper
    if run.suite in ("perplexity", "bold") or (table is not None and table.scale == 1.0):
        return f"{value:.3f}"
    return f"{100 * value:.1f} %" if 0 <= value <= 1 else f"{value:.2f}"


def _sections(runs: list[Finished]) -> list[dict[str, Any]]:
    """Runs by suite, each with the paper's rows."""
    sections = []
    for suite, group in groupby(runs, key=lambda run: run.suite):
        own = list(group)
        title = suite_class(suite).title if suite in SUITES else suite
        sections.append({"suite": suite, "title": title, "runs": own, "paper": own[0].paper})
    return sections


def _figures(runs: list[Finished]) -> dict[str, list[tuple[str, str]]]:
    """Suite → (caption, SVG)."""
    made: dict[str, list[tuple[str, str]]] = {}

    def add(suite: str, caption: str, svg: str | None) -> None:
        if svg is not None:
            made.setdefault(suite, []).append((caption, svg))

    by_position = "Perplexity by position in the file; the band is the 95 % interval over files."
    by_length = "Perplexity of files cut to each context length. Different texts: compare shapes."
    add("perplexity", by_position, figures.perplexity_by_position(runs))
    add("perplexity", by_length, figures.perplexity_by_length(runs))
    for run in runs:
        if run.suite == "key-retrieval":
            caption = f"{run.model}: share of keys found, in percent."
            add(run.suite, caption, figures.key_retrieval(run))
    for suite in ("humaneval", "mbpp"):
        caption = "pass@k over temperature; grey: the paper's Figure 6."
        add(suite, caption, figures.temperatures(runs, suite))
    return made
