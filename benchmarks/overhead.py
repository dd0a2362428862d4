"""What a decode step costs beside the model: scheduling, sampling, log-probabilities, text, and the
masks of constrained answers.

    python benchmarks/overhead.py [--model smollm2:135m] [--tokens 200] [--rounds 5] [--out NAME]

A stream's time is split by a clock around the runner: what is spent outside it is ours to keep
small. One row per way of sampling; medians over rounds, in which the ways take turns. The goal is
2% of a step of the smallest model at a vocabulary of 49,152.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from codellama import CodeLlama
from codellama.bench.machine import processor
from codellama.engine.constrain import Grammars
from codellama.engine.python_gap import PythonGap
from codellama.engine.request import Constraint
from codellama.engine.runner import Batch, Logits, Runner

PROMPT = "def fib(n):"
RESULTS = Path(__file__).parent / "results"

WAYS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "temperature 0.8": {"temperature": 0.8},
    "temperature 0.8, top_p 0.95": {"temperature": 0.8, "top_p": 0.95},
    "temperature 0.8, top_k 40, top_p 0.9": {"temperature": 0.8, "top_k": 40, "top_p": 0.9},
    "temperature 0.8, min_p 0.05": {"temperature": 0.8, "min_p": 0.05},
    "greedy, repetition_penalty 1.1": {"repetition_penalty": 1.1},
    "greedy, dry_multiplier 0.8": {"dry_multiplier": 0.8},
    "greedy, logprobs 0": {"logprobs": 0},
    "greedy, logprobs 5": {"logprobs": 5},
    "greedy, any JSON": {"form": "json"},
    "greedy, a JSON schema": {"form": "schema"},
    "greedy, a regular expression": {"form": "regex"},
    "greedy, parses as Python": {"form": "python"},
}
SCHEMA = {"type": "object", "properties": {"names": {"type": "array", "items": {"type": "string"}}}}


class Clocked:
    """A runner that adds up the time spent in it."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self.seconds = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runner, name)

    def run(self, batch: Batch) -> Logits:
        begin = time.perf_counter()
        logits_RV = self._runner.run(batch)
        self.seconds += time.perf_counter() - begin
        return logits_RV


def constraint(llm: CodeLlama, forms: Grammars, form: str | None) -> Constraint | None:
    """A new one of a form, without end, so that answers are as long as any."""
    if form == "python":
        return PythonGap(
            PROMPT, "\n", piece=llm.tokenizer.piece, vocab_size=llm.runner.vocab_size,
            stop_ids=llm.tokenizer.stop_ids,
        )  # fmt: skip
    makers = {"json": forms.json, "schema": lambda: forms.json_schema(SCHEMA)}
    makers["regex"] = lambda: forms.regex("([a-z]+ )*")
    return makers[form]() if form else None


def measure(
    llm: CodeLlama, forms: Grammars, tokens: int, way: dict[str, Any]
) -> tuple[float, float]:
    """(microseconds outside the model per token, share of the whole)"""
    runner = Clocked(llm.runner)
    fresh = CodeLlama(runner, llm.tokenizer, llm.config)
    way = dict(way)
    form = way.pop("form", None)
    prompt = replace(fresh.prompts.completion(PROMPT), constraint=constraint(llm, forms, form))
    keywords = {"max_tokens": tokens, "ignore_eos": form is None, "temperature": 0.0, "seed": 1}
    pieces = fresh._stream(prompt, keywords | way)
    next(pieces)
    begin, before = time.perf_counter(), runner.seconds
    for _ in pieces:
        pass
    total = time.perf_counter() - begin
    outside = total - (runner.seconds - before)
    assert pieces.completion is not None
    made = pieces.completion.usage.completion_tokens  # a constrained answer may end
    return 1e6 * outside / made, outside / total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2:135m")
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", default="", help="name of the result files; none: print only")
    args = parser.parse_args()
    llm = CodeLlama.load(args.model, context=args.tokens + 64)
    tokenizer = llm.tokenizer
    forms = Grammars(
        tokenizer.piece, tokenizer.vocab_size, vocab_size=llm.runner.vocab_size,
        stop_ids=tokenizer.stop_ids, encode=lambda raw: tokenizer.encode(raw.decode()),
    )  # fmt: skip
    measure(llm, forms, args.tokens, {})
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in WAYS}
    for _ in range(args.rounds):
        for name, way in WAYS.items():
            found[name].append(measure(llm, forms, args.tokens, way))
    about = (
        f"{processor()}, {llm.runner.threads} threads, {llm.runner.isa}; {args.model}, vocabulary "
        f"{llm.runner.vocab_size:,}, {args.tokens} tokens, {args.rounds} rounds"
    )
    rows = [
        "| way of drawing | µs a token outside the model | share of the step |",
        "|---|---|---|",
    ]
    for name, each in found.items():
        micros, share = (statistics.median(column) for column in zip(*each, strict=True))
        rows.append(f"| {name} | {micros:.0f} | {share:.2%} |")
    text = "\n".join([about, "", *rows])
    print(text)
    if args.out:
        stamp = datetime.now(UTC).strftime("%Y-%m-%d")
        path = RESULTS / f"{stamp}-{args.out}"
        path.with_suffix(".md").write_text(f"# Beside the model, {stamp}\n\n{text}\n")
        path.with_suffix(".json").write_text(
            json.dumps({"about": about, "runs": found}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
