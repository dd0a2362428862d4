"""Perplexity by position under several RoPE bases and models, in one figure (paper §2.4, Fig. 4a).

    python benchmarks/rope.py "theta 1e5"=smollm2:135m "theta 1e6, untrained"=smollm2:135m@1e6 \
        "theta 1e6, trained"=run/smol-long/model.gguf --corpus FOLDER --tokens 8192 --documents 6

Each case is NAME=MODEL or NAME=MODEL@THETA: the model as its file says, or with another base and
nothing else changed. All read the same held-out files of the folder, those of every tenth path's
hash that are long enough. What was scored is kept under --work and goes on after a kill. Writes
OUT.json, OUT.md and OUT.svg. The text is whatever the folder holds: whether a model has been
trained on it is for the caller to know. Does not measure speed.
"""

from __future__ import annotations

import argparse
import json
import platform
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from codellama import CodeLlama, __version__
from codellama.cli.evaluation_models import LocalModel
from codellama.cli.output import count_bar
from codellama.engine.native_runner import NativeRunner
from codellama.evaluate.data import Data
from codellama.evaluate.longcontext import Perplexity
from codellama.evaluate.report.collect import Finished
from codellama.evaluate.report.figures import perplexity_by_position
from codellama.evaluate.run import Run
from codellama.evaluate.suite import Options
from codellama.hub import resolve
from codellama.weights.load import open_model


class OneAtATime(LocalModel):
    """The model with its RoPE base in its identity: a folder holds one base's results."""

    theta: float

    def identity(self) -> dict[str, str | int]:
        return {**super().identity(), "rope_theta": f"{self.theta:g}"}


def opened(
    name: str, model: str, theta: float | None, tokens: int, threads: int | None
) -> OneAtATime:
    """A model whose positions reach `tokens`, with another base if one is given."""
    path = Path(resolve(model))
    file = open_model(path)
    changed = replace(file.config, rope_theta=theta or file.config.rope_theta, context=tokens)
    file.config = changed
    runner = NativeRunner(file, context=tokens, threads=threads)
    llm = CodeLlama(runner, file.tokenizer(), changed)
    found = OneAtATime(llm, name, path)
    found.theta = changed.rope_theta
    return found


def scored(name: str, words: str, options: argparse.Namespace) -> dict[str, Any]:
    """One case's result, as `codellama evaluate perplexity` writes it."""
    model, at, theta = words.partition("@")
    lengths = tuple(n for n in (1024, 2048, 4096, 8192, 16384, 32768) if n <= options.tokens)
    chosen = Options(limit=options.documents, corpus=str(options.corpus), lengths=lengths)
    base = float(theta) if at else None
    asked = opened(name, model, base, options.tokens, options.threads)
    asked.parallel = 1  # one cache of the whole length
    suite = Perplexity(Data(), chosen, asked)
    with count_bar() as progress:
        folder = options.work / name.replace("/", "_").replace(" ", "-")
        run = Run(folder, suite, model=asked.identity(), progress=progress)
        run.generate(asked)
        run.extract()
        run.execute(None)
    return run.score()


def rows(results: list[dict[str, Any]]) -> list[str]:
    """A Markdown table: positions down, cases across, each with its 95 % interval."""
    cases = [Finished(Path(), result) for result in results]
    lines = [
        f"| tokens | {' | '.join(case.model for case in cases)} |",
        f"|---|{'---|' * len(cases)}",
    ]
    for name, *_ in cases[0].figures:
        if not name.startswith("perplexity ") or "@" in name:
            continue
        cells = []
        for case in cases:
            value, (low, high) = case.result[name], case.result[f"{name} 95%"]
            cells.append(f"{value:.2f} ({low:.2f} to {high:.2f})")
        lines.append(f"| {name.split()[1].replace('-', ' to ')} | {' | '.join(cells)} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="+", metavar="NAME=MODEL[@THETA]")
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--documents", type=int, default=6)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--work", type=Path, default=Path("rope-runs"))
    parser.add_argument("--out", type=Path, default=Path("rope"))
    options = parser.parse_args()
    results = []
    for case in options.cases:
        name, equals, model = case.partition("=")
        if not equals:
            parser.error(f"{case}: a case is NAME=MODEL or NAME=MODEL@THETA")
        results.append(scored(name, model, options))
    record = {
        "date": datetime.now(UTC).date().isoformat(),
        "codellama": __version__,
        "machine": platform.machine(),
        "corpus": options.corpus.name,
        "tokens": options.tokens,
        "results": results,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")
    figure = perplexity_by_position([Finished(Path(), result) for result in results])
    options.out.with_suffix(".svg").write_text(f"{figure}\n")
    text = "\n".join(rows(results))
    options.out.with_suffix(".md").write_text(f"{text}\n")
    print(text)


if __name__ == "__main__":
    main()
