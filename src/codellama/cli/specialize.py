"""`specialize` and `plan`: Figure 2 of the paper from the command line.

Puts names (hub), recipes (specialize) and what people see together. PyTorch is imported when a verb
runs.
"""

from __future__ import annotations

import json as json_module
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from codellama.cli.options import Json
from codellama.cli.output import human_bytes, table
from codellama.cli.training_view import View
from codellama.errors import RequestError

if TYPE_CHECKING:
    from codellama.model.config import ModelConfig
    from codellama.specialize.recipe import Profile, Recipe
    from codellama.specialize.stages import Pipeline

__all__ = ["plan", "specialize"]

RecipeName = Annotated[str, typer.Argument(help="smol-135m, codellama-7b-base, …")]
ProfileName = Annotated[str, typer.Option("--profile", help="laptop, gpu, h100x8, …")]


def specialize(
    recipe: RecipeName,
    corpus: Annotated[Path, typer.Argument(help="A folder made by `codellama corpus build`.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The run's folder; resumes there.")],
    profile: ProfileName = "laptop",
    base: Annotated[
        str | None, typer.Option(help="Model to start from.", show_default="the recipe's")
    ] = None,
    adapter: Annotated[
        Path | None, typer.Option(help="Go on training this adapter of the base.")
    ] = None,
    average: Annotated[
        bool, typer.Option("--average", help="Keep the mean of --adapter and the trained one.")
    ] = False,
    tokens: Annotated[
        int | None, typer.Option(help="Tokens of every stage.", show_default="the recipe's")
    ] = None,
    mix: Annotated[
        str | None, typer.Option(help="Shares of the tokens: python=0.9,code=0.1.")
    ] = None,
    spans: Annotated[
        str | None, typer.Option(help="Kinds of middles and their weights: line=0.5,rest=0.5.")
    ] = None,
    suffix_first: Annotated[
        float | None,
        typer.Option("--suffix-first", help="Share of middles in that order.", show_default="0.5"),
    ] = None,
    plain: Annotated[
        str | None, typer.Option(help="Sets that stay left to right: nl,nl_code.")
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(help="Stop after so long; the same command goes on.")
    ] = None,
    export: Annotated[
        Path | None, typer.Option(help="Write the result: a .gguf file or a folder.")
    ] = None,
    type: Annotated[str, typer.Option("--type", "-t", help="Of a .gguf export.")] = "Q8_0",
    threads: Annotated[int | None, typer.Option(help="CPU threads.")] = None,
    cp: Annotated[
        int | None,
        typer.Option(min=1, help="Processes of torchrun's that share a row.", show_default="1"),
    ] = None,
    tp: Annotated[
        int | None,
        typer.Option(min=1, help="… that share every layer.", show_default="the profile's, or 1"),
    ] = None,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Also log to OUT/tensorboard.")
    ] = False,
) -> None:
    """Make a Code Llama of a general Llama: code with infilling, Python, long context, instruct.

    Stopped at any moment, the same command goes on where it was, to the bit.

    Example: codellama specialize smol-135m ./corpus --out ./run --export smol.gguf
    """
    _needs_torch()
    from codellama.hub import resolve
    from codellama.hub.catalogue import DEFAULT_MODEL
    from codellama.specialize.corpus.build import load_corpus
    from codellama.specialize.parallel import start_parallel
    from codellama.specialize.run import as_documents, run_pipeline
    from codellama.specialize.stages import pipeline as find_pipeline
    from codellama.specialize.stages import profile as find_profile

    chosen = _with_mix(_with_tokens(find_pipeline(recipe), tokens), mix)
    chosen = _with_middles(chosen, spans, suffix_first, plain)
    if adapter is not None:
        chosen = _with_rank_of(chosen, adapter)
    machine = _with_axes(replace(find_profile(profile), threads=threads), cp=cp, tp=tp)
    sets = {name: as_documents(records) for name, records in load_corpus(corpus).items()}
    parallel = start_parallel(machine)
    speaks = parallel is None or not parallel.rank
    view = View(machine, out / "tensorboard" if tensorboard and speaks else None)
    try:
        outcome = run_pipeline(
            chosen, machine, resolve(base or chosen.base or DEFAULT_MODEL), sets, out,
            base_name=base or chosen.base, adapter=adapter, average=average,
            parallel=parallel,
            seconds=None if minutes is None else 60 * minutes,
            on_stage=view.stage if speaks else None, on_step=view.step, on_warning=view.warn,
        )  # fmt: skip
    finally:
        view.end()
        if parallel is not None:
            parallel.close()
    if not speaks:
        return
    _draw(chosen, out, view)
    if not outcome.finished or outcome.model is None:
        print(f"stopped: the same command goes on from {out}")
        return
    for result in outcome.results:
        rows = [
            (
                name,
                f"{s['before']:.4f}",
                f"{s['after']:.4f}",
                f"{s['after'] / s['before'] - 1:+.1%}",
            )
            for name, s in result["bits_per_byte"].items()
        ]
        if rows:
            print(table(rows, (f"bits per byte, {result['stage']}", "before", "after", "")))
    if export is not None:
        _export(outcome.model, export, type)


def plan(
    recipe: RecipeName,
    profile: ProfileName = "laptop",
    devices: Annotated[
        int | None, typer.Option(help="How many.", show_default="the profile's mesh")
    ] = None,
    peak: Annotated[
        float | None, typer.Option(help="TFLOP/s of one device.", show_default="989, or measured")
    ] = None,
    share: Annotated[float, typer.Option(help="Share of the peak that is reached.")] = 0.40,
    memory: Annotated[float, typer.Option(help="GB of one device.")] = 80.0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Cut the model over the profile's mesh, pretended.")
    ] = False,
    json: Json = False,
) -> None:
    """What a recipe costs before anything is spent: hours, memory, disk, losses to failures.

    Example: codellama plan codellama-7b-base --profile h100x512 --dry-run
    """
    _needs_torch()
    from codellama.model.config import PUBLISHED
    from codellama.specialize.plan import H100, plan_stage
    from codellama.specialize.stages import pipeline as find_pipeline
    from codellama.specialize.stages import profile as find_profile

    chosen, machine_profile = find_pipeline(recipe), find_profile(profile)
    config = PUBLISHED[chosen.base]
    count = devices or _devices(machine_profile)
    if count < 1 or not 0 < share <= 1 or memory <= 0 or (peak is not None and peak <= 0):
        raise RequestError("devices, peak and memory must be positive, share between 0 and 1")
    flops = _peak(machine_profile) if peak is None else peak * 1e12
    machine = replace(H100, peak=flops, share=share, devices=count, memory=memory * 1e9)
    plans = [plan_stage(config, stage, machine_profile, machine) for stage in chosen.stages]
    layout = _layout(config, machine_profile) if dry_run else None
    if json:
        about = {"recipe": recipe, "stages": [asdict(p) for p in plans], "layout": layout}
        print(json_module.dumps(about))
        return
    if layout is not None:
        print(
            f"tried on {layout['ranks']} pretended ranks: each holds {layout['parameters']:,} "
            f"parameters, {human_bytes(layout['state_bytes'])} with masters and moments"
        )
    rows = [
        (
            p.name, f"{p.tokens:.3g}", f"{p.steps:,}", f"{p.tokens_per_second:,.0f}",
            f"{p.hours:,.1f}", f"{p.device_hours:,.0f}",
            f"{human_bytes(p.device_bytes)}{'' if p.fits else ' (too much)'}",
            human_bytes(p.disk_bytes), f"{p.checkpoint_minutes:.0f}", f"{p.waste:.1%}",
        )
        for p in plans
    ]  # fmt: skip
    header = (
        "stage", "tokens", "steps", "tokens/s", "hours", "device-hours", "memory each", "disk",
        "checkpoint every (min)", "lost to failures",
    )  # fmt: skip
    print(f"{count} device{'s' if count > 1 else ''} of {flops / 1e12:,.3g} TFLOP/s at {share:.0%}")
    print(table(list(zip(header, *rows, strict=True)), ("", *["" for _ in rows])))


def _layout(config: ModelConfig, profile: Profile) -> dict[str, Any]:
    from codellama.specialize.distributed import dry_run

    return asdict(dry_run(config, profile))


def _devices(profile: Profile) -> int:
    count = 1
    for _, size in profile.mesh:
        count *= size
    return count


def _peak(profile: Profile) -> float:
    """FLOP/s of a device: an H100's as published, of this machine's processor as measured."""
    from codellama.specialize.plan import H100

    if profile.device == "cuda":
        return H100.peak
    from codellama.specialize.speed import compute_dtype, matmul_peak

    return matmul_peak(compute_dtype(profile), profile.device)


def _with_tokens(pipeline: Pipeline, tokens: int | None) -> Pipeline:
    if tokens is None:
        return pipeline
    if tokens < 1:
        raise RequestError(f"--tokens is {tokens}: it must be positive")

    def shorter(stage: Recipe) -> Recipe:
        return replace(stage, tokens=max(tokens, stage.sequence))

    return replace(pipeline, stages=tuple(map(shorter, pipeline.stages)))


def _weights(text: str) -> tuple[tuple[str, float], ...]:
    """NAME=NUMBER,… as pairs. ValueError where a number is none."""
    pairs = [part.partition("=") for part in text.split(",")]
    return tuple((name.strip(), float(weight)) for name, _, weight in pairs)


def _with_mix(pipeline: Pipeline, text: str | None) -> Pipeline:
    if text is None:
        return pipeline
    try:
        mix = _weights(text)
        stages = tuple(replace(stage, mix=mix) for stage in pipeline.stages)
    except ValueError as error:
        raise RequestError(f"--mix {text!r}: {error}; for example python=0.9,code=0.1") from None
    return replace(pipeline, stages=stages)


def _with_middles(
    pipeline: Pipeline, spans: str | None, suffix_first: float | None, plain: str | None
) -> Pipeline:
    """Other middles in every stage that infills."""
    from codellama.specialize.recipe import SpanKind

    changes: dict[str, Any] = {} if suffix_first is None else {"spm": suffix_first}
    if plain is not None:
        changes["plain"] = tuple(name.strip() for name in plain.split(","))
        known = {name for stage in pipeline.stages for name, _ in stage.mix}
        if unknown := set(changes["plain"]) - known:
            raise RequestError(f"--plain {plain}: the mix has no {', '.join(sorted(unknown))}")
    try:
        if spans is not None:
            changes["spans"] = _weights(spans)
            if unknown := {kind for kind, _ in changes["spans"]} - set(get_args(SpanKind)):
                raise ValueError(f"no kind {', '.join(sorted(unknown))}")
        stages = tuple(
            stage
            if stage.infilling is None
            else replace(stage, infilling=replace(stage.infilling, **changes))
            for stage in pipeline.stages
        )
    except ValueError as error:
        kinds = ", ".join(get_args(SpanKind))
        raise RequestError(
            f"--spans {spans}, --suffix-first {suffix_first}: {error}; kinds are {kinds}"
        ) from None
    return replace(pipeline, stages=stages)


def _with_rank_of(pipeline: Pipeline, adapter: Path) -> Pipeline:
    """The first stage goes on at the adapter's rank, which stages before may have stacked up."""
    from codellama.weights.adapter_file import read_own_adapter

    first, *rest = pipeline.stages
    if first.lora is None:
        return pipeline
    read = read_own_adapter(adapter)
    rank = next((array.shape[0] for name, array in read.arrays.items() if name.endswith(".a")), 0)
    if rank < 1:
        return pipeline
    lora = replace(first.lora, rank=rank, alpha=read.scale * rank)
    return replace(pipeline, stages=(replace(first, lora=lora), *rest))


def _with_axes(profile: Profile, **counts: int | None) -> Profile:
    """With these axes of its mesh, where one was named; 1 leaves an axis out."""
    axes = dict(profile.mesh) | {name: n for name, n in counts.items() if n is not None}
    mesh = [(name, axes[name]) for name in ("dp", "cp", "tp") if name in axes]
    return replace(profile, mesh=tuple(m for m in mesh if m[0] == "dp" or m[1] > 1))


def _needs_torch() -> None:
    try:
        import torch  # noqa: F401
    except ImportError:
        raise RequestError("training needs PyTorch: pip install 'codellama[train]'") from None


def _export(model: Path, target: Path, type: str) -> None:
    from codellama.weights.export import export_hf, quantize_model
    from codellama.weights.load import open_model

    source = open_model(model)
    if target.suffix == ".gguf":
        quantize_model(source, target, type)
    else:
        export_hf(source, target, dtype="BF16")
    print(f"{target} is written")


def _draw(pipeline: Pipeline, out: Path, view: View) -> None:
    from codellama.specialize.plot import plot_log

    for stage in pipeline.stages:
        log = out / stage.name / "log.jsonl"
        if log.is_file():
            try:
                plot_log(log, log.with_name("loss.svg"))
            except RequestError as error:
                view.warn(str(error))
