"""What a decode step costs beside the model: scheduling, sampling, log-probabilities and text.

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
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from codellama import CodeLlama
from codellama.bench.machine import processor
from codellama.engine.runner import Batch, Logits, Runner

RESULTS = Path(__file__).parent / "results"

WAYS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "temperature 0.8": {"temperature": 0.8},
    "temperature 0.8, top_p 0.95": {"temperature": 0.8, "top_p": 0.95},
    "temperature 0.8, top_k 40, top_p 0.9": {"temperature": 0.8, "top_k": 40, "top_p": 0.9},
    "temperature 0.8, min_p 0.05": {"temperature": 0.8, "min_p": 0.05},
    "greedy, repetition_penalty 1.1": {"repetition_penalty": 1.1},
    "greedy, logprobs 0": {"logprobs": 0},
    "greedy, logprobs 5": {"logprobs": 5},
}


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


def measure(llm: CodeLlama, tokens: int, way: dict[str, Any]) -> tuple[float, float]:
    """(microseconds outside the model per token, share of the whole)"""
    runner = Clocked(llm.runner)
    fresh = CodeLlama(runner, llm.tokenizer, llm.config)
    pieces = fresh.stream("def fib(n):", max_tokens=tokens, ignore_eos=True, seed=1, **way)
    next(pieces)
    begin, before = time.perf_counter(), runner.seconds
    for _ in pieces:
        pass
    total = time.perf_counter() - begin
    outside = total - (runner.seconds - before)
    return 1e6 * outside / tokens, outside / total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2:135m")
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", default="", help="name of the result files; none: print only")
    args = parser.parse_args()
    llm = CodeLlama.load(args.model, context=args.tokens + 64)
    measure(llm, args.tokens, {})
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in WAYS}
    for _ in range(args.rounds):
        for name, way in WAYS.items():
            found[name].append(measure(llm, args.tokens, way))
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
