"""What people see while they wait, and tables: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

__all__ = ["count_bar", "human_bytes", "progress_bar", "table"]

Progress = Callable[[int, int, str], None]


def human_bytes(n: float) -> str:
    """98362432 → "98 MB", in powers of 1000 as disks are sold."""
    for unit in ("B", "kB", "MB", "GB"):
        if n < 1000:
            return f"{n:.0f} {unit}" if unit == "B" or n >= 10 else f"{n:.1f} {unit}"
        n /= 1000
    return f"{n:.1f} TB"


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """A callback (done, total, label): one bar per label on a terminal, a line per tenth
    elsewhere.
    """
    if not sys.stderr.isatty():
        yield _lines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        tasks: dict[str, object] = {}

        def update(done: int, total: int, label: str) -> None:
            if total <= 0:
                bars.console.print(str(label))
                return
            if label not in tasks:
                tasks[label] = bars.add_task(str(label), total=total)
            bars.update(tasks[label], completed=done, total=total)  # type: ignore[arg-type]

        yield update


def _lines() -> Progress:
    shown: dict[str, int] = {}

    def update(done: int, total: int, label: str) -> None:
        tenth = 10 * done // total if total > 0 else 0
        if shown.get(label) == tenth:
            return
        shown[label] = tenth
        tail = f" {10 * tenth}% of {human_bytes(total)}" if total > 0 else ""
        print(f"{label}{tail}", file=sys.stderr)

    return update


def table(rows: Sequence[Sequence[str]], header: Sequence[str]) -> str:
    """Left-aligned columns, two spaces apart; no lines to break in a narrow terminal."""
    cells = [list(header), *map(list, rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    )


@contextmanager
def count_bar() -> Iterator[Progress]:
    """As progress_bar, of things that are counted."""
    if not sys.stderr.isatty():
        shown: dict[str, int] = {}

        def line(done: int, total: int, label: str) -> None:
            tenth = 10 * done // max(total, 1)
            if shown.get(label) != tenth:
                shown[label] = tenth
                print(f"{label} {done} of {total}", file=sys.stderr)

        yield line
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Bars(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bars:
        tasks: dict[str, Any] = {}

        def update(done: int, total: int, label: str) -> None:
            if label not in tasks:
                tasks[label] = bars.add_task(label, total=total)
            bars.update(tasks[label], completed=done, total=total)

        yield update
