"""Prefill and decode speed of this engine beside llama.cpp's llama-bench, on one file, in one run.

    python benchmarks/speed.py --model FILE.gguf [--peer PATH/llama-bench] [--runs 5] [--out
    benchmarks/results]

Every run is a process of its own, ours and the peer's in turn and in both orders (A B, B A, …),
with the same number of threads and float16 KV caches; figures are medians, the ratio is the
median of the ratios pair by pair. Prefill is one prompt of --prefill tokens from an empty cache,
decode is --decode single tokens after one. Does not measure sampling, text or the network, and
promises nothing about another machine: quote ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Run:
    """One process: tokens per second, and its peak resident memory in MB."""

    prefill: float
    decode: float
    load_s: float
    peak_mb: float


def measure_here(model: Path, n_prefill: int, n_decode: int, threads: int) -> Run:
    """This process loads the model and times one prefill and one decode."""
    import numpy as np

    from codellama.engine.native_runner import NativeRunner
    from codellama.engine.runner import BLOCK_SIZE, Batch
    from codellama.weights.load import open_model

    start = time.perf_counter()
    source = open_model(model)
    context = max(n_prefill, n_decode + 1) + BLOCK_SIZE
    runner = NativeRunner(source, context=context, threads=threads)
    load_s = time.perf_counter() - start
    table_SB = np.arange(runner.n_blocks, dtype=np.int32)[None]
    tokens = np.random.default_rng(0).integers(100, runner.vocab_size - 100, n_prefill, np.int32)

    def step(tokens_T: np.ndarray, past: int) -> None:
        n = len(tokens_T)
        runner.run(
            Batch(
                tokens_T=tokens_T,
                starts_S1=np.array([0, n], np.int32),
                past_S=np.array([past], np.int32),
                blocks_SB=table_SB,
                rows_R=np.array([n - 1], np.int32),
            )
        )

    step(tokens[:1], 0)  # first touch of scratch memory, as the peer's warm-up does
    begin = time.perf_counter()
    step(tokens, 0)
    prefill_s = time.perf_counter() - begin
    begin = time.perf_counter()
    for past in range(n_decode):
        step(tokens[past % n_prefill][None], past)
    decode_s = time.perf_counter() - begin
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return Run(n_prefill / prefill_s, n_decode / decode_s, load_s, peak)


def measure_ours(model: Path, args: argparse.Namespace) -> Run:
    command = [sys.executable, __file__, "--once", "--model", str(model)]
    command += ["--prefill", str(args.prefill), "--decode", str(args.decode)]
    command += ["--threads", str(args.threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return Run(**json.loads(done.stdout))


def measure_peer(model: Path, args: argparse.Namespace) -> Run:
    command = [str(args.peer), "-m", str(model), "-t", str(args.threads), "-r", "1", "-o", "json"]
    command += ["-p", str(args.prefill), "-n", str(args.decode)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    tests = json.loads(process.stdout.read())
    _, _, usage = os.wait4(process.pid, 0)
    speed = {("prefill" if t["n_prompt"] else "decode"): t["avg_ts"] for t in tests}
    return Run(speed["prefill"], speed["decode"], float("nan"), usage.ru_maxrss / 1024)


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), "unknown")


def compare(model: Path, args: argparse.Namespace) -> dict[str, object]:
    """Runs in alternating order; the medians, their ratios and every single run."""
    ours: list[Run] = []
    peers: list[Run] = []
    for index in range(args.runs):
        turns = [("ours", measure_ours), ("peer", measure_peer)]
        for name, measure in turns if index % 2 == 0 else reversed(turns):
            if name == "ours":
                ours.append(measure(model, args))
            elif args.peer:
                peers.append(measure(model, args))
        print(f"{model.name}: run {index + 1} of {args.runs}", file=sys.stderr)
    result: dict[str, object] = {"model": model.name, "bytes": model.stat().st_size}
    for field in ("prefill", "decode", "load_s", "peak_mb"):
        mine = [getattr(run, field) for run in ours]
        result[field] = {"ours": statistics.median(mine)}
        if peers and field != "load_s":
            theirs = [getattr(run, field) for run in peers]
            ratios = [a / b for a, b in zip(mine, theirs, strict=True)]
            result[field] |= {"peer": statistics.median(theirs), "ratio": statistics.median(ratios)}
    result["runs"] = {"ours": [asdict(r) for r in ours], "peer": [asdict(r) for r in peers]}
    return result


def table(results: list[dict[str, object]], args: argparse.Namespace) -> str:
    head = "| file | test | ours | llama.cpp | ratio |\n|---|---|---|---|---|"
    lines = [head]
    names = {"prefill": f"prefill {args.prefill}, tok/s", "decode": f"decode {args.decode}, tok/s"}
    for result in results:
        for field, label in {**names, "peak_mb": "peak memory, MB", "load_s": "load, s"}.items():
            cell = result[field]
            assert isinstance(cell, dict)
            shown = [f"{cell[k]:.2f}" if k in cell else "–" for k in ("ours", "peer", "ratio")]
            lines.append(f"| {result['model']} | {label} | {' | '.join(shown)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, action="append", help="a GGUF file; may be repeated")
    parser.add_argument("--peer", type=Path, help="llama.cpp's llama-bench, best build")
    parser.add_argument(
        "--peer-version", default="not given", help="what is written into the result"
    )
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--prefill", type=int, default=512)
    parser.add_argument("--decode", type=int, default=64)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path, help="folder for a dated result file")
    parser.add_argument("--once", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if not args.model:
        from codellama.hub import resolve

        args.model = [resolve("smollm2:135m")]
    if args.once:
        run = measure_here(args.model[0], args.prefill, args.decode, args.threads)
        print(json.dumps(asdict(run)))
        return
    results = [compare(model, args) for model in args.model]
    text = table(results, args)
    print(text)
    if args.out:
        stamp = datetime.now(UTC).strftime("%Y-%m-%d")
        args.out.mkdir(parents=True, exist_ok=True)
        about = {
            "date": stamp,
            "processor": processor(),
            "threads": args.threads,
            "python": platform.python_version(),
            "peer": args.peer_version,
            "command": "python benchmarks/speed.py "
            f"--runs {args.runs} --prefill {args.prefill} --decode {args.decode}",
        }
        path = args.out / f"{stamp}-speed-{'-'.join(m.stem for m in args.model)[:60]}"
        path.with_suffix(".json").write_text(json.dumps({**about, "results": results}, indent=1))
        notes = "\n".join(f"- {key}: {value}" for key, value in about.items())
        path.with_suffix(".md").write_text(f"# Speed beside llama.cpp\n\n{notes}\n\n{text}\n")


if __name__ == "__main__":
    main()
