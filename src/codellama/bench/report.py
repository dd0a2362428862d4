"""A result as tables for people and as JSON for programs."""

from __future__ import annotations

import platform
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from codellama.bench.session import Result, Row

__all__ = ["Table", "as_json", "lines", "markdown"]

GB, GOP, MB = 1e9, 1e9, 1e6

Table = tuple[list[str], list[list[str]]]
"""Header and rows."""


def lines(result: Result) -> list[str | Table]:
    """What is printed: sentences about model and machine, speeds, what the processes took."""
    machine, about = result.machine, result.rounds[0]["ours"].about
    peaks = ", ".join(f"{name} {rate / GOP:,.0f}" for name, rate in machine.peaks.items())
    return [
        f"{result.model}: {result.file_bytes / MB:,.0f} MB of weights, "
        f"{result.workload.weight_bytes / MB:,.0f} MB read a step; "
        f"instruction set {about['isa']}, {about['threads']} threads, KV cache "
        f"{result.workload.kv_type}, {len(result.rounds)} rounds",
        f"{machine.processor}, {machine.cores} cores, {machine.memory / GB:.0f} GB",
        f"memory read: {machine.bandwidth / GB:.1f} GB/s from 1 GiB, "
        f"{machine.cached_bandwidth / GB:.1f} GB/s from {machine.working_set / MB:,.0f} MB",
        f"multiply-adds, Gop/s: {peaks or 'no known instruction'}",
        _speeds(result),
        _processes(result),
    ]


def markdown(table: Table) -> str:
    """A table for a result file."""
    header, rows = table
    ruled = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in ruled)


def _speeds(result: Result) -> Table:
    peers = result.engines[1:]
    header = ["case", "tok/s", "limit", "share", "bound by"]
    for name in peers:
        header += [name, "ratio"]
    rows = []
    for row in result.rows:
        cells = [row.case.label, _short(row.ours), _short(row.limit), f"{row.share:.0%}", row.bound]
        for name in peers:
            each = row.peers.get(name)
            cells += [_short(each.rate), f"{each.ratio:.2f}"] if each else ["–", "–"]
        rows.append(cells)
    return header, rows


def _processes(result: Result) -> Table:
    rows = []
    for name, of in (("load, s", "load_s"), ("peak memory, MB", "peak_mb")):
        figures = [result.median(of, engine) for engine in result.engines]
        rows.append([name, *("–" if each is None else _short(each) for each in figures)])
    return ["process", *result.engines], rows


def _short(value: float) -> str:
    """Three digits or more: 0.12, 12.3, 1,234."""
    if value >= 999.5:  # .3g of what rounds to 1,000 is 1e+03
        return f"{value:,.0f}"
    return f"{value:.3g}" if value >= 1 else f"{value:.2f}"


def as_json(result: Result) -> dict[str, Any]:
    """All that was measured, every run too; rates in tokens, bytes and operations a second.
    `machine`: the medians of `machines`, one for each round.

    `int8_share` is null where no int8 instruction is known.
    """
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "model": result.model,
        "file_bytes": result.file_bytes,
        "step_bytes": result.workload.weight_bytes,
        "kv_type": result.workload.kv_type,
        "python": platform.python_version(),
        "machine": asdict(result.machine),
        "machines": [asdict(each) for each in result.machines],
        "int8_instruction": result.instruction,
        "rows": [_row(result, row) for row in result.rows],
        "load_s": {engine: result.median("load_s", engine) for engine in result.engines},
        "peak_mb": {engine: result.median("peak_mb", engine) for engine in result.engines},
        "rounds": [{name: asdict(run) for name, run in done.items()} for done in result.rounds],
    }


def _row(result: Result, row: Row) -> dict[str, Any]:
    cost = result.workload.cost(row.case)
    return {
        "case": row.case.label,
        "ours": row.ours,
        "limit": row.limit,
        "share": row.share,
        "bound": row.bound,
        "bytes_per_token": cost.bytes / cost.tokens,
        "ops_per_token": cost.ops / cost.tokens,
        "bandwidth_share": row.bandwidth_share,
        "int8_share": row.int8_share,
        "peers": {name: asdict(each) for name, each in row.peers.items()},
    }
