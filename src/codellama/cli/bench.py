"""`bench`: this engine's speed here, its distance to the machine's limits, and a peer beside it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from codellama.cli.options import Json, KvTypeName
from codellama.cli.output import progress_bar, table
from codellama.errors import RequestError

__all__ = ["bench"]


def bench(
    model: Annotated[str, typer.Argument(help="A name, a file or a folder.")] = "smollm2:135m",
    cases: Annotated[
        str | None,
        typer.Option(
            help="What to measure: pp512 is a prompt of 512 tokens, tg64 64 tokens one by one, "
            "@d2048 after 2,048 others, x16 for 16 sequences together, answer64 with sampling "
            "and text.",
            show_default="prefill, decode, depths and batches",
        ),
    ] = None,
    rounds: Annotated[int, typer.Option(help="Runs of each engine; medians are shown.")] = 3,
    threads: Annotated[
        int | None, typer.Option(help="CPU threads.", show_default="one per core")
    ] = None,
    isa: Annotated[str | None, typer.Option(help="Instruction set.", show_default="best")] = None,
    peer: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]PATH",
            help="A llama-bench to run beside, in turn, with its own options after it: "
            '"PATH -fa 1"; repeatable. GGUF files only.',
        ),
    ] = None,
    kv_type: KvTypeName = "f16",
    plot: Annotated[Path | None, typer.Option(help="Write the roofline as a picture.")] = None,
    as_json: Json = False,
) -> None:
    """Measure prefill, decode, depths and batches, beside the machine's limits and a peer.

    Every run is a process of its own. Ratios of one session hold; figures of a shared machine
    drift from hour to hour.

    Example: codellama bench smollm2:135m --cases pp512,tg64 --rounds 1
    """
    from codellama.api.merged import open_merged
    from codellama.bench.cases import default_cases, parse_cases
    from codellama.bench.limits import Workload
    from codellama.bench.machine import measure_machine
    from codellama.bench.peer import Peer
    from codellama.bench.report import as_json as report_json
    from codellama.bench.report import lines
    from codellama.bench.session import Session, run_round, summarize
    from codellama.hub import resolve
    from codellama.model.config import kv_type_of
    from codellama.native import default_threads

    if rounds < 1 or (threads is not None and threads < 1):
        raise RequestError("--rounds and --threads must be 1 or more")
    kept = kv_type_of(kv_type, "--kv-type")
    source = open_merged(resolve(model))
    path = source.path  # with adapters: of the merged file, which a peer can read too
    if peer and (source.format != "gguf" or path.is_dir()):
        raise RequestError(f"{path.name} is no GGUF file: a llama-bench reads nothing else")
    chosen = parse_cases(cases) if cases else default_cases(source.config.context)
    peers = tuple(Peer.parse(text) for text in peer or ())
    session = Session(path, chosen, threads or default_threads(), isa, peers, kept)
    with progress_bar() as tell:
        machines, done = [], []
        for index in range(rounds):
            at = f"round {index + 1} of {rounds}"
            machine = measure_machine(
                session.threads,
                Workload.of(source).weight_bytes,
                progress=partial(_tell_probe, tell, at),
            )
            machines.append(machine)
            tell(0, 0, at)
            done.append(run_round(session, index))
    result = summarize(source, session, machines, done)
    if as_json:
        json.dump(report_json(result), sys.stdout, indent=1)
        print()
    else:
        for part in lines(result):
            print(part if isinstance(part, str) else "\n" + table(part[1], part[0]))
    if plot is not None:
        from codellama.bench.plot import plot as draw

        draw(result, plot)


def _tell_probe(tell: Callable[[int, int, str], None], at: str, what: str) -> None:
    tell(0, 0, f"{at}, measuring the machine: {what}")
