"""Repeating a file with a change: plain decoding beside speculation, the same greedy text.

    python benchmarks/code_editing.py [--model smollm2:135m] [--lines 300] [--rounds 3] [--out NAME]

The prompt is a file of so many lines (from Python's argparse) and the beginning of the same file
with one name replaced; the answer goes on with it, as an editor's rewrite would. Plain and
speculating runs alternate, in both orders, in one process; a fresh engine each time, so that no
prefix cache helps. The time is that of the answer: the prompt's computation is taken out. Texts
must be equal, or the benchmark fails.
"""

from __future__ import annotations

import argparse
import argparse as source_of_text
import json
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from codellama import CodeLlama
from codellama.bench.machine import processor

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True, slots=True)
class Run:
    """One answer: tokens a second after the first one, drafted and accepted tokens."""

    rate: float
    drafted: int
    accepted: int


def prompt_of(lines: int) -> str:
    """The file, then the first ten lines of its changed copy."""
    text = Path(source_of_text.__file__).read_text().splitlines()[83 : 83 + lines]
    changed = [line.replace("string", "text") for line in text]
    return "\n".join(
        ["# before", *text, "", "# after: `string` is called `text`", *changed[:10], ""]
    )


def answer(llm: CodeLlama, ids: list[int], n: int, speculate: bool) -> tuple[Run, list[int]]:
    """One greedy answer of n tokens by a fresh engine on the same weights."""
    fresh = CodeLlama(llm.runner, llm.tokenizer, llm.config)
    pieces = fresh.stream(ids, max_tokens=n, ignore_eos=True, speculate=speculate)
    next(pieces)
    begin = time.perf_counter()
    for _ in pieces:
        pass
    seconds = time.perf_counter() - begin
    done = pieces.completion
    assert done is not None
    return Run(
        (n - 1) / seconds, done.usage.drafted_tokens, done.usage.accepted_tokens
    ), done.tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2:135m")
    parser.add_argument("--lines", type=int, default=300)
    parser.add_argument("--tokens", type=int, help="of the answer; default the file's own length")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--out", default="", help="name of the result files; none: print only")
    args = parser.parse_args()
    llm = CodeLlama.load(args.model, context=8192, threads=args.threads)
    ids = llm.tokenizer.encode(prompt_of(args.lines), bos=True)
    n = args.tokens or min(len(ids) - 200, llm.context - len(ids))
    runs: dict[bool, list[Run]] = {False: [], True: []}
    texts = set()
    for index in range(args.rounds):
        for speculate in (False, True) if index % 2 == 0 else (True, False):
            run, tokens = answer(llm, ids, n, speculate)
            runs[speculate].append(run)
            texts.add(tuple(tokens))
            print(
                f"round {index + 1}, speculate={speculate}: {run.rate:.0f} tok/s", file=sys.stderr
            )
    if len(texts) != 1:
        sys.exit("the texts differ: speculation is broken")
    rates = {key: statistics.median(run.rate for run in each) for key, each in runs.items()}
    ratio = statistics.median(b.rate / a.rate for a, b in zip(*runs.values(), strict=True))
    last = runs[True][-1]
    lines = [
        f"{processor()}, {llm.runner.threads} threads, {llm.runner.isa}; {args.model}, "
        f"prompt {len(ids)} tokens, answer {n}, greedy, {args.rounds} rounds, same text",
        f"plain {rates[False]:.0f} tok/s, speculating {rates[True]:.0f} tok/s: {ratio:.2f} times",
        f"drafted {last.drafted}, accepted {last.accepted} ({last.accepted / last.drafted:.0%})",
    ]
    print("\n".join(lines))
    if args.out:
        stamp = datetime.now(UTC).strftime("%Y-%m-%d")
        path = RESULTS / f"{stamp}-{args.out}"
        path.with_suffix(".md").write_text(
            f"# Code editing, {stamp}\n\n" + "".join(f"- {line}\n" for line in lines)
        )
        found = {"plain": runs[False], "speculating": runs[True]}
        path.with_suffix(".json").write_text(
            json.dumps(
                {"about": lines, **{k: [asdict(r) for r in v] for k, v in found.items()}}, indent=1
            )
            + "\n"
        )


if __name__ == "__main__":
    main()
