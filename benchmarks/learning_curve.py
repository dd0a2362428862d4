"""Infilling against tokens of training: checkpoints of a LoRA stage, as adapters on their base.

    python benchmarks/learning_curve.py run/smol-135m-lora/checkpoints/* \
        --data FOLDER --limit 200 --out curve

HumanEval's single lines (exact match of the stripped line, nothing is run), in PSM and in SPM with
token healing, greedy, as `infill` gives them: an answer that begins to repeat the suffix ends. And
how many answers ended within 64 tokens; the base answers from the prefix alone.
All read the same problems, a fixed draw of --limit. Writes OUT.json, OUT.md and OUT.svg; what is in
OUT.json already is not asked again. --controls NAME=MODEL adds finished models to the table.
Does not judge by tests: `codellama evaluate humaneval-infilling-single-line` does.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from codellama import CodeLlama, __version__
from codellama.cli.output import count_bar
from codellama.evaluate.data import Data
from codellama.evaluate.statistics import bootstrap, mean
from codellama.hub import resolve
from codellama.weights.files import read_json

LONGEST = 64  # tokens of an answer; 99% of the lines have fewer than 40

Problem = dict[str, Any]
Scores = dict[str, list[float]]


def adapter_of(checkpoint: Path, base: str, target: Path) -> int:
    """Write a checkpoint's adapter; the tokens that it was trained on."""
    from safetensors.torch import load_file

    from codellama.specialize.base import load_base
    from codellama.specialize.export import save_adapter
    from codellama.specialize.lora import NewRows, add_lora, lora_layers
    from codellama.specialize.recipe import Lora

    state = read_json(checkpoint / "state.json", 1 << 20)
    tensors = load_file(checkpoint / "tensors.safetensors")
    lora = Lora(**state["recipe"]["lora"])
    seed = state["recipe"]["seed"]
    made = load_base(resolve(base), infill=state["recipe"]["infilling"] is not None, seed=seed)
    add_lora(made.model, lora, seed, made.source.tensor)
    for name, layer in lora_layers(made.model):
        place = name.removesuffix(".weight")
        layer.a.data = tensors[f"master.{place}.a"]
        layer.b.data = tensors[f"master.{place}.b"]
    rows = None
    if made.new_ids:
        rows = NewRows(made.model.tok_embeddings, made.new_ids)
        rows.rows.data = tensors["master.new_rows"]
    save_adapter(target, made, lora, rows, state["recipe"]["name"], base_name=base)
    return int(state["tokens"])


def drawn(data: Data, limit: int) -> list[Problem]:
    problems = data.lines("humaneval_infilling/HumanEval-SingleLineInfilling.jsonl")
    random.Random(0).shuffle(problems)
    return problems[:limit]


def first_line(text: str) -> str:
    stripped = text.strip("\n")
    return stripped.split("\n")[0].strip()


def infilled(llm: CodeLlama, problems: list[Problem], order: str) -> Scores:
    """Per problem: whether the middle is the line, and whether it was ended."""
    prompts = [
        llm.prompts.infilling(each["prompt"], each["suffix"], order=order, heal=order == "spm")
        for each in problems
    ]
    answers = llm._answer(prompts, {"max_tokens": LONGEST, "temperature": 0.0})
    pairs = list(zip(answers, problems, strict=True))
    return {
        f"{order} exact": [
            float(a.text.strip() == p["canonical_solution"].strip()) for a, p in pairs
        ],
        f"{order} ended": [float(a.finish_reason == "stop") for a, _ in pairs],
    }


def continued(llm: CodeLlama, problems: list[Problem]) -> Scores:
    """The prefix alone, and the first line of what follows: all that the base can do."""
    answers = llm.complete_many(
        [each["prompt"] for each in problems], max_tokens=LONGEST, temperature=0.0
    )
    pairs = zip(answers, problems, strict=True)
    return {
        "prefix exact": [
            float(first_line(a.text) == p["canonical_solution"].strip()) for a, p in pairs
        ]
    }


def asked(model: str | Path, problems: list[Problem], threads: int | None) -> Scores:
    llm = CodeLlama.load(model, context=2048, threads=threads)
    if not llm.prompts.infills:
        return continued(llm, problems)
    return {**infilled(llm, problems, "psm"), **infilled(llm, problems, "spm")}


def table(points: list[dict[str, Any]]) -> list[str]:
    lines = [
        "| model | tokens | PSM exact | SPM exact | ended, PSM | ended, SPM |",
        "|---|---|---|---|---|---|",
    ]
    for point in points:
        scores = point["scores"]
        cells = [
            _share(scores[key]) if key in scores else "–"
            for key in ("psm exact", "spm exact", "psm ended", "spm ended")
        ]
        if "prefix exact" in scores:
            cells[0] = f"{_share(scores['prefix exact'])}, prefix alone"
        lines.append(f"| {point['name']} | {point['tokens']:,} | {' | '.join(cells)} |")
    return lines


def _share(values: list[float]) -> str:
    low, high = bootstrap(values)
    return f"{100 * mean(values):.1f} ({100 * low:.1f} to {100 * high:.1f})"


def draw(points: list[dict[str, Any]], target: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    curve = [p for p in points if p["curve"]]
    for key, label, mark in (("psm exact", "PSM", "o"), ("spm exact", "SPM, healed", "s")):
        shown = [p for p in curve if key in p["scores"]]
        values = [100 * mean(p["scores"][key]) for p in shown]
        spans = [bootstrap(p["scores"][key]) for p in shown]
        errors = [
            [v - 100 * low for v, (low, _) in zip(values, spans, strict=True)],
            [100 * high - v for v, (_, high) in zip(values, spans, strict=True)],
        ]
        axes.errorbar(
            [p["tokens"] / 1e6 for p in shown],
            values,
            yerr=errors,
            marker=mark,
            capsize=2,
            label=label,
        )
    for point in points:
        if "prefix exact" in point["scores"]:
            axes.axhline(
                100 * mean(point["scores"]["prefix exact"]), color="gray", linestyle="--",
                label=f"{point['name']}, prefix alone",
            )  # fmt: skip
    axes.set_xlabel("tokens of training, millions")
    axes.set_ylabel("single lines, exact match, %")
    axes.set_ylim(bottom=0)
    axes.legend()
    figure.savefig(target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoints", nargs="*", type=Path)
    parser.add_argument("--base", default="smollm2:135m")
    parser.add_argument("--controls", nargs="*", default=[], metavar="NAME=MODEL")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--limit", type=int, default=200)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--out", type=Path, default=Path("curve"))
    options = parser.parse_args()
    problems = drawn(Data(options.data), options.limit)
    record = options.out.with_suffix(".json")
    known: list[dict[str, Any]] = read_json(record)["points"] if record.is_file() else []
    known = [p for p in known if p["problems"] == len(problems)]
    have = {p["name"] for p in known}
    cases = [(options.base, options.base, True)]
    cases += [(path.name, path, True) for path in options.checkpoints]
    cases += [(*pair.split("=", 1), False) for pair in options.controls]
    with count_bar() as progress, tempfile.TemporaryDirectory() as folder:
        for done, (name, model, curve) in enumerate(cases):
            progress(done, len(cases), name)
            if name in have:
                continue
            tokens = 0
            if isinstance(model, Path):
                checkpoint, model = model, Path(folder) / f"{name}.safetensors"
                tokens = adapter_of(checkpoint, options.base, model)
            scores = asked(model, problems, options.threads)
            known.append(
                {"name": name, "tokens": tokens, "curve": curve, "problems": len(problems),
                 "scores": scores}
            )  # fmt: skip
            known.sort(key=lambda p: (not p["curve"], p["tokens"]))
            about = {"date": datetime.now(UTC).date().isoformat(), "codellama": __version__}
            record.write_text(json.dumps({**about, "points": known}))
    options.out.with_suffix(".md").write_text("\n".join([*table(known), ""]))
    draw(known, options.out.with_suffix(".svg"))
    print("\n".join(table(known)))


if __name__ == "__main__":
    main()
