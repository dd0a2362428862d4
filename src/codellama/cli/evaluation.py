"""The verb `evaluate` and its options, as Typer parses them. What it does is in evaluate.py."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from codellama.cli.options import (
    ContextLength,
    EngineThreads,
    Json,
    ModelName,
    ServerUrl,
    Unconfined,
)

__all__ = ["contamination", "evaluate", "report"]


def evaluate(
    suite: Annotated[
        str | None, typer.Argument(metavar="[SUITE]", help="Without one: a list of all.")
    ] = None,
    model: ModelName = None,
    url: ServerUrl = None,
    samples: Annotated[
        Path | None, typer.Option(help="Judge this JSON Lines file (task_id, completion).")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The run's folder.", show_default="codellama-runs/…")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Where data files are looked for first.")
    ] = None,
    stage: Annotated[
        list[str] | None,
        typer.Option(help="generate, extract, execute or score; repeatable.", show_default="all"),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many.")] = None,
    n: Annotated[int, typer.Option("--n", "-n", min=1, max=1000, help="Samples a problem.")] = 1,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.0,
    top_p: Annotated[float, typer.Option("--top-p", help="Nucleus.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Of all samples.")] = 0,
    max_tokens: Annotated[
        int | None, typer.Option("--max-tokens", min=1, help="Longest answer.")
    ] = None,
    order: Annotated[str | None, typer.Option(help="Infilling prompts: psm or spm.")] = None,
    heal: Annotated[bool, typer.Option("--heal", help="Token healing in infilling.")] = False,
    until_suffix: Annotated[
        bool, typer.Option("--until-suffix", help="End middles where they repeat the suffix.")
    ] = False,
    nonempty: Annotated[
        bool, typer.Option("--nonempty", help="Middles are more than white space.")
    ] = False,
    dry: Annotated[
        float, typer.Option(min=0, max=100, help="Penalty on middles that repeat themselves: 0.8.")
    ] = 0.0,
    length: Annotated[
        list[int] | None, typer.Option(min=64, help="Context length in tokens; repeatable.")
    ] = None,
    corpus: Annotated[
        Path | None, typer.Option(help="A folder of held-out code, for the suites on own files.")
    ] = None,
    context: ContextLength = None,
    threads: EngineThreads = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Programs judged at once.", show_default="cores + 1")
    ] = None,
    time_factor: Annotated[
        float | None,
        typer.Option(
            "--time-factor", min=0.1, help="Times the time limits.", show_default="measured"
        ),
    ] = None,
    ray: Annotated[
        str | None, typer.Option(help="Fan out over a Ray cluster: its address, or 'local'.")
    ] = None,
    unconfined: Unconfined = False,
    json: Json = False,
) -> None:
    """Measure a model: pass@k, infilling, long context, safety (the paper's Tables 2 to 9).

    Model-written programs run in a sandbox, without network. A run that was cut off goes on
    where it stopped.

    Example: codellama evaluate humaneval --model smollm2:135m --limit 10
    """
    from codellama.cli import evaluate as work
    from codellama.errors import RequestError
    from codellama.evaluate.asks import Decoding
    from codellama.evaluate.suite import Options

    if suite is None:
        work.list_suites(as_json=json)
        return
    unknown = set(stage or ()) - set(work.STAGES)
    if unknown:
        raise RequestError(f"--stage {unknown.pop()}: it must be one of {', '.join(work.STAGES)}")
    if order not in (None, "psm", "spm"):
        raise RequestError(f"--order {order}: it must be psm or spm")
    wish = work.Wish(
        model=model,
        url=url,
        samples=samples,
        out=out,
        data=data,
        stages=tuple(stage or work.STAGES),
        n=n,
        context=context,
        threads=threads,
        workers=workers,
        time_factor=time_factor,
        ray=ray,
        unconfined=unconfined,
        as_json=json,
    )
    options = Options(
        limit=limit,
        order=order,  # type: ignore[arg-type]
        heal=heal,
        until_suffix=until_suffix,
        nonempty=nonempty,
        dry=dry,
        lengths=tuple(length or ()),
        corpus=str(corpus) if corpus else None,
        max_tokens=max_tokens,
    )
    work.evaluate(suite, wish, options, Decoding(temperature=temperature, top_p=top_p, seed=seed))


def report(
    runs: Annotated[
        list[Path] | None, typer.Argument(help="Run folders, or folders of them.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Writes OUT.html and OUT.md.")] = Path("report"),
    most: Annotated[
        int, typer.Option(min=0, help="Problems of a run shown one by one, at most.")
    ] = 200,
) -> None:
    """One page about all runs: tables beside the paper's, figures, every problem.

    Example: codellama report codellama-runs --out report
    """
    from codellama.evaluate.report import write_report

    for path in write_report(list(runs or [Path("codellama-runs")]), out, most=most):
        print(path)


def contamination(
    corpus: Annotated[Path, typer.Argument(help='A folder, or JSON Lines with "text".')],
    suite: Annotated[
        list[str] | None, typer.Option(help="Repeatable.", show_default="all with data here")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Where data files are looked for first.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Also write this JSON file, for `codellama report`.")
    ] = None,
    json: Json = False,
) -> None:
    """How much of each benchmark is in a training corpus: shared 10-grams, and Python functions
    that are the same but for their names.

    Example: codellama contamination ./corpus.jsonl --suite humaneval
    """
    from codellama.cli import evaluate as work

    work.contamination(corpus, suite or [], data, out, as_json=json)
