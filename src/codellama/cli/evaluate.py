"""`evaluate`: wires a suite to a model and to the sandbox, and prints the score."""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codellama.cli.output import count_bar, table
from codellama.errors import DownloadError, NotFoundError, RequestError

if TYPE_CHECKING:
    from codellama.evaluate.asks import Decoding, Model
    from codellama.evaluate.fanout import FanOut
    from codellama.evaluate.suite import Options, Suite

__all__ = ["STAGES", "Wish", "contamination", "evaluate", "list_suites"]

STAGES = ("generate", "extract", "execute", "score")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What the command line asked for."""

    model: str | None
    url: str | None
    samples: Path | None
    out: Path | None
    data: Path | None
    stages: tuple[str, ...]
    n: int
    context: int | None
    threads: int | None
    workers: int | None
    time_factor: float | None
    ray: str | None
    unconfined: bool
    as_json: bool


def list_suites(*, as_json: bool) -> None:
    """All suites, and why one cannot run here."""
    from codellama.evaluate.data import Data
    from codellama.evaluate.suites import SUITES, make_suite

    rows = []
    for name in SUITES:
        suite = make_suite(name, Data())
        rows.append((name, suite.title, suite.table, suite.unavailable() or ""))
    if as_json:
        keys = ("suite", "title", "table", "unavailable")
        print(json.dumps([dict(zip(keys, row, strict=True)) for row in rows]))
        return
    print(table(rows, ("SUITE", "WHAT", "IN THE PAPER", "")))


def evaluate(name: str, wish: Wish, options: Options, decoding: Decoding) -> None:
    from codellama.evaluate.data import Data
    from codellama.evaluate.suites import make_suite, suite_class

    suite_class(name)
    if sum(map(bool, (wish.model and not wish.url, wish.url, wish.samples))) > 1:
        raise RequestError("give one of --model, --url and --samples")
    data = Data(wish.data, fetch=_fetch)
    model = None if wish.samples or "generate" not in wish.stages else _model(wish)
    suite = make_suite(name, data, options, model)
    missing = suite.unavailable()
    if missing:
        raise RequestError(f"{name} cannot run here: {missing}")
    if wish.samples and wish.out is None:
        with tempfile.TemporaryDirectory(prefix="codellama-evaluate-") as folder:
            result = _run(suite, model, Path(folder), wish, decoding)
    else:
        result = _run(suite, model, _folder(name, wish, decoding), wish, decoding)
    if result is not None:
        _print(result, suite, wish.as_json)


def _run(
    suite: Suite, model: Model | None, folder: Path, wish: Wish, decoding: Decoding
) -> dict[str, Any] | None:
    from codellama.evaluate.run import Run, read_json

    if model is not None:
        identity: dict[str, Any] = model.identity()
    elif wish.samples:
        identity = {"samples": wish.samples.name}
    elif (folder / "config.json").exists():
        identity = read_json(folder / "config.json")["model"]
    else:
        raise NotFoundError(f"{folder} has no run yet: begin with the generate stage")
    with count_bar() as progress:
        run = Run(folder, suite, model=identity, decoding=decoding, n=wish.n, progress=progress)
        if model is not None:
            run.generate(model, _fan_out(wish, None))
        if wish.samples:
            run.take_samples(wish.samples)
        elif "extract" in wish.stages:
            run.extract()
        if "execute" in wish.stages:
            run.execute(_executor(suite, wish), _fan_out(wish, wish.workers))
    return run.score() if "score" in wish.stages else None


def _executor(suite: Suite, wish: Wish) -> Any:
    from codellama.evaluate.executor import SandboxExecutor
    from codellama.evaluate.sandbox import Sandbox

    if not suite.executes:
        return None
    return SandboxExecutor(Sandbox(confined=not wish.unconfined), wish.time_factor)


def _fan_out(wish: Wish, workers: int | None) -> FanOut | None:
    from codellama.evaluate.fanout import Local

    if wish.ray is not None:
        from codellama.evaluate.ray_fanout import RayFanOut

        address = None if wish.ray == "local" else wish.ray
        return RayFanOut(address, workers or 2)
    return None if workers is None else Local(workers)


def _folder(name: str, wish: Wish, decoding: Decoding) -> Path:
    if wish.out is not None:
        return wish.out
    model = (wish.model or "model").strip("/").replace("/", "_").replace(":", "-")
    sampled = "" if decoding.temperature == 0 else f"-t{decoding.temperature:g}-n{wish.n}"
    return Path("codellama-runs") / model / f"{name}{sampled}"


def _model(wish: Wish) -> Model:
    from codellama.cli.evaluation_models import LazyModel, UrlModel
    from codellama.hub.catalogue import DEFAULT_MODEL

    if wish.url:
        if not wish.model:
            raise RequestError("--url needs --model: the model's name on that server")
        return UrlModel(wish.url, wish.model)
    return LazyModel(wish.model or DEFAULT_MODEL, wish.context, wish.threads)


def _fetch(address: str) -> bytes:
    import httpx

    print(f"fetching {address}", file=sys.stderr)
    try:
        reply = httpx.get(address, follow_redirects=True, timeout=60)
        reply.raise_for_status()
    except httpx.HTTPError as error:
        raise DownloadError(f"{address}: {error}") from None
    return reply.content


def contamination(
    corpus: Path, names: list[str], data: Path | None, out: Path | None, *, as_json: bool
) -> None:
    """Overlap of a corpus with suites; without names, all whose data is here."""
    from dataclasses import asdict

    from codellama.evaluate.contamination import documents, overlaps
    from codellama.evaluate.data import Data
    from codellama.evaluate.records import write_json
    from codellama.evaluate.suites import SUITES, make_suite

    found = []
    for name in names or SUITES:
        suite = make_suite(name, Data(data, _fetch if names else None))
        try:
            if names or suite.contaminable:
                suite.problems()
                found.append(suite)
        except NotFoundError:
            if names:
                raise
    rows = overlaps(documents(corpus), found)
    record = {"corpus": corpus.name, "overlaps": [asdict(row) for row in rows]}
    if out is not None:
        write_json(out, record)
    if as_json:
        print(json.dumps(record))
        return
    cells = [
        (
            r.suite,
            str(r.problems),
            str(r.touched),
            str(r.mostly),
            str(r.same_function),
            f"{r.share:.1%}",
        )
        for r in rows
    ]
    print(table(cells, ("SUITE", "PROBLEMS", "TOUCHED", "HALF OR MORE", "SAME FUNCTION", "SHARE")))


def _print(result: dict[str, Any], suite: Suite, as_json: bool) -> None:
    if as_json:
        print(json.dumps(result))
        return
    print(f"{suite.title}: {result['n']} of {result['problems']} problems")
    hidden = {
        "suite",
        "n",
        "samples",
        "metric",
        "problems",
        "notes",
        "config",
        "execution",
        "times",
    }
    rows = []
    for key, value in result.items():
        if key in hidden or key.endswith(" 95%"):
            continue
        interval = result.get(f"{key} 95%")
        between = f"{interval[0]:.3f} to {interval[1]:.3f}" if interval else ""
        if isinstance(value, int | float):
            rows.append((key, f"{value:.3f}" if isinstance(value, float) else str(value), between))
    print(table(rows, ("FIGURE", "VALUE", "95% INTERVAL")))
    for note in result["notes"]:
        print(f"note: {note}")
