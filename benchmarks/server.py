"""Requests side by side against servers with llama.cpp's API: ours, and a peer's, in turn.

    python benchmarks/server.py --model FILE.gguf --parallel 1,4,16 --tokens 128 [--out NAME] \\
        --peer "llama-server=PATH/llama-server -t 2 -np 16 -c 16384"

Each round starts a server, warms it up with one request, sends each number of requests at once as
streams, and ends it; the order of servers turns from round to round. Prompts differ in their first
word, so that no prefix is shared; answers are greedy and of equal length. Total tokens a second
count from the first request sent to the last token received, prompts included; the time to the
first token is the median of all requests. A peer's command gets `-m FILE --port N`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shlex
import socket
import statistics
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import httpx

from codellama.bench.machine import processor

RESULTS = Path(__file__).parent / "results"
OURS = "ours"
PROMPT = "{} of the following Python function, which merges two sorted lists into one:\n"

Figures = dict[int, tuple[float, float, float]]
"""By number of requests: total tokens a second, median seconds to the first token, peak MB."""


async def one(client: httpx.AsyncClient, index: int, tokens: int) -> tuple[int, float]:
    """(tokens received, seconds to the first one)"""
    body = {
        "prompt": PROMPT.format(f"Description {index}"),
        "n_predict": tokens,
        "temperature": 0.0,
        "ignore_eos": True,
        "stream": True,
        "cache_prompt": False,
    }
    begin, first, count = time.perf_counter(), 0.0, 0
    async with client.stream("POST", "/completion", json=body) as answer:
        if answer.status_code != 200:
            sys.exit(f"status {answer.status_code}: {(await answer.aread())[:200]!r}")
        async for line in answer.aiter_lines():
            if not line.startswith("data: "):
                continue
            event = json.loads(line[6:])
            first = first or time.perf_counter() - begin
            if event.get("stop"):
                count = event.get("tokens_predicted", tokens)
    return count, first


async def together(url: str, n: int, tokens: int) -> tuple[float, float]:
    """(total tokens a second, median seconds to the first token) of n requests at once"""
    limits = httpx.Limits(max_connections=n)
    async with httpx.AsyncClient(base_url=url, timeout=600, limits=limits) as client:
        begin = time.perf_counter()
        done = await asyncio.gather(*(one(client, index, tokens) for index in range(n)))
        seconds = time.perf_counter() - begin
    return sum(count for count, _ in done) / seconds, statistics.median(t for _, t in done)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(url: str, process: subprocess.Popen[bytes], every: float = 0.05) -> None:
    """Until the server answers, asked so often; sys.exit if it ends first."""
    while process.poll() is None:
        try:
            if httpx.get(f"{url}/health", timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(every)
    sys.exit(f"the server ended with {process.returncode}")


def serve(command: list[str], parallel: list[int], tokens: int) -> Figures:
    """One server's life."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    quiet = subprocess.DEVNULL
    process = subprocess.Popen([*command, "--port", str(port)], stdout=quiet, stderr=quiet)
    found: Figures = {}
    try:
        wait_for(url, process)
        asyncio.run(together(url, 1, 8))
        for n in parallel:
            rate, first = asyncio.run(together(url, n, tokens))
            found[n] = (rate, first, 0.0)
    finally:
        process.terminate()
        _, _, usage = os.wait4(process.pid, 0)
        process.returncode = 0
    return {n: (rate, first, usage.ru_maxrss / 1000) for n, (rate, first, _) in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="a GGUF file")
    parser.add_argument("--peer", action="append", default=[], help="NAME=PATH [ARGUMENTS]")
    parser.add_argument("--parallel", default="1,4,16")
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", default="", help="name of the result files; none: print only")
    args = parser.parse_args()
    parallel = [int(n) for n in args.parallel.split(",")]
    script = Path(sys.executable).with_name("codellama")
    commands = {OURS: [str(script), "serve", "--model", str(args.model), "--no-cache"]}
    for text in args.peer:
        name, _, rest = text.partition("=")
        commands[name] = [*shlex.split(rest), "-m", str(args.model)]
    found: dict[str, list[Figures]] = {name: [] for name in commands}
    for index in range(args.rounds):
        for name in commands if index % 2 == 0 else reversed(commands):
            found[name].append(serve(commands[name], parallel, args.tokens))
            print(f"round {index + 1}: {name}", file=sys.stderr)
    about = f"{processor()}; {args.model.name}, {args.tokens} tokens each, {args.rounds} rounds"
    rows = ["| server | parallel | tok/s | first token, s | peak MB | ours to it |"]
    rows.append("|---|---|---|---|---|---|")
    for name, rounds in found.items():
        for n in parallel:
            rate, first, memory = (
                statistics.median(column) for column in zip(*(r[n] for r in rounds), strict=True)
            )
            pairs = zip(found[OURS], rounds, strict=True)
            ratio = statistics.median(a[n][0] / b[n][0] for a, b in pairs)
            cells = [name, str(n), f"{rate:.1f}", f"{first:.3f}", f"{memory:,.0f}", f"{ratio:.2f}"]
            rows.append(f"| {' | '.join(cells)} |")
    text = "\n".join([about, "", *rows])
    print(text)
    if args.out:
        stamp = datetime.now(UTC).strftime("%Y-%m-%d")
        path = RESULTS / f"{stamp}-{args.out}"
        path.with_suffix(".md").write_text(f"# Servers, {stamp}\n\n{text}\n")
        path.with_suffix(".json").write_text(
            json.dumps({"about": about, "rounds": found}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
