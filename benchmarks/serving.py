"""Serving beside llama.cpp's llama-server: many streams, a typing session, a restart.

    python benchmarks/serving.py load    --model FILE.gguf --peer PATH/llama-server --streams 1 4 16
    python benchmarks/serving.py typing  --model FILE.gguf --peer PATH/llama-server
    python benchmarks/serving.py restart --model FILE.gguf

Both servers speak /completion and /infill, so one client sends the same bytes to both, one server
at a time, ours and the peer's in turn in both orders. Greedy, the same threads, float16 caches; our
prompt lookup is off unless --speculate (the peer has none by default). The peer has continuous
batching, one slot per stream, and for typing the settings that suit it best here: -b 4096, so that
it does not cut the prefix (which would spoil its cache at every key), and --cache-reuse 256 as
llama.vscode recommends.

`typing` needs a model that infills. SmolLM2 does not: a copy is written whose metadata names three
unused tokens as sentinels, so that both servers do the same work; what it says is nonsense.

A session is 200 keystrokes at 8 a second into a file of 2,000 tokens, in bursts of 5 and a pause
of half a second: each key sends a request and closes the one before; the last of a burst is waited
for. Times to the first token are of those, and of the others as far as they came before the next
key.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

KEYS_PER_S, BURST, PAUSE_S = 8, 5, 0.5


@dataclass
class Times:
    """One request: when its tokens came, in seconds from the request."""

    tokens: list[float] = field(default_factory=list)
    last: dict[str, Any] = field(default_factory=dict)


class Server:
    """A server process on a port of its own."""

    def __init__(self, command: list[str], port: int, env: dict[str, str] | None = None) -> None:
        self.port = port
        self._log = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            command, stdout=self._log, stderr=self._log, env={**os.environ, **(env or {})}
        )
        for _ in range(600):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1) as reply:
                    if reply.status == 200:
                        return
            except OSError:
                time.sleep(0.05)
            if self._process.poll() is not None:
                break
        self._log.seek(0)
        raise SystemExit(f"{command[0]} did not start:\n{self._log.read()[-2000:].decode()}")

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()


def ours(arguments: argparse.Namespace, context: int, streams: int, **env: str) -> Server:
    command = [sys.executable, "-m", "codellama", "serve", "--port", str(arguments.port)]
    command += ["--model", str(arguments.model), "--context", str(context)]
    command += ["--threads", str(arguments.threads)]
    env = {"CODELLAMA_SPECULATE": "1" if arguments.speculate else "0", **env}
    env |= {"CODELLAMA_NUM_PARALLEL": str(streams)}
    if "XDG_CACHE_HOME" not in env:
        command.append("--no-cache")
    return Server(command, arguments.port, env)


def peer(arguments: argparse.Namespace, context: int, streams: int, *more: str) -> Server:
    command = [str(arguments.peer), "-m", str(arguments.model), "--port", str(arguments.port)]
    command += ["-t", str(arguments.threads), "-np", str(streams), "-c", str(context * streams)]
    command += ["-fa", "on"]  # its faster attention where measured
    return Server([*command, *more], arguments.port)


async def ask(port: int, path: str, body: dict[str, Any], times: Times) -> Times:
    """One streamed request; cancelling the task closes the socket."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        data = json.dumps(body | {"stream": True}).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        begin = time.perf_counter()
        writer.write(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
        status = await reader.readline()
        if b" 200 " not in status:
            raise SystemExit(f"{path}: {status!r} {(await reader.read(2000))!r}")
        while line := await reader.readline():
            if not line.startswith(b"data: "):
                if line == b"0\r\n":
                    break
                continue
            event = json.loads(line[6:])
            if event.get("content"):
                times.tokens.append(time.perf_counter() - begin)
            if event.get("stop"):
                times.last = event
                break
        return times
    finally:
        writer.close()


def source(n_lines: int, salt: int) -> str:
    """A file of code-like lines, other ones for each salt."""
    return "".join(
        f"def function_{salt}_{i}(value):\n    return value + {i}\n" for i in range(n_lines)
    )


# Scenarios: each returns figures of one server.


async def load(port: int, streams: int, n_predict: int) -> dict[str, float]:
    body = {"n_predict": n_predict, "temperature": 0, "ignore_eos": True, "cache_prompt": True}
    await ask(port, "/completion", body | {"prompt": "warm", "n_predict": 2}, Times())
    begin = time.perf_counter()
    asked = [
        ask(port, "/completion", body | {"prompt": source(8, salt + 1)}, Times())
        for salt in range(streams)
    ]
    done = await asyncio.gather(*asked)
    wall = time.perf_counter() - begin
    tokens = sum(int(each.last["tokens_predicted"]) for each in done)
    gaps = [b - a for each in done for a, b in zip(each.tokens, each.tokens[1:], strict=False)]
    return {
        "tokens_per_s": tokens / wall,
        **percentiles("ttft_ms", [each.tokens[0] for each in done]),
        **percentiles("inter_token_ms", gaps),
    }


async def typing(port: int, keys: int) -> dict[str, float]:
    prefix, suffix = source(90, 1), "\n\n" + source(24, 2)
    typed = "    result = [function_1_3(value) for value in values if value]\n" * 20
    firsts: list[float] = []
    cut = 0
    pending: tuple[asyncio.Task[Times], Times] | None = None
    body = {"n_predict": 24, "temperature": 0, "input_suffix": suffix, "cache_prompt": True}
    await ask(port, "/infill", body | {"input_prefix": prefix, "prompt": ""}, Times())
    for key in range(1, keys + 1):
        if pending is not None and not pending[0].done():
            pending[0].cancel()
        if pending is not None and not pending[1].tokens:
            cut += 1
        line = typed[:key].rpartition("\n")
        fields = {"input_prefix": prefix + line[0] + line[1], "prompt": line[2]}
        times = Times()
        pending = asyncio.ensure_future(ask(port, "/infill", body | fields, times)), times
        if key % BURST:
            await asyncio.sleep(1 / KEYS_PER_S)
            if times.tokens:
                firsts.append(times.tokens[0])
        else:
            firsts.append((await pending[0]).tokens[0])
            pending = None
            await asyncio.sleep(PAUSE_S)
    return {**percentiles("ttft_ms", firsts), "keys": keys, "cut_before_a_token": cut}


async def first(port: int, n_lines: int) -> float:
    times = await ask(
        port,
        "/completion",
        {"prompt": source(n_lines, 9), "n_predict": 4, "temperature": 0},
        Times(),
    )
    return times.tokens[0]


def percentiles(name: str, seconds: list[float]) -> dict[str, float]:
    ordered = sorted(seconds)
    at = lambda share: 1e3 * ordered[min(len(ordered) - 1, int(share * len(ordered)))]  # noqa: E731
    return {f"{name}_p50": at(0.5), f"{name}_p95": at(0.95)}


def run_load(arguments: argparse.Namespace) -> dict[str, Any]:
    context, results = 1024, {}
    for streams in arguments.streams:
        made: dict[str, list[dict[str, float]]] = {"ours": [], "peer": []}
        for run in range(arguments.runs):
            for who in ("ours", "peer") if run % 2 == 0 else ("peer", "ours"):
                start = ours if who == "ours" else peer
                with start(arguments, context, streams):
                    made[who].append(asyncio.run(load(arguments.port, streams, arguments.predict)))
        results[f"{streams} streams"] = medians(made)
    return results


def run_typing(arguments: argparse.Namespace) -> dict[str, Any]:
    made: dict[str, list[dict[str, float]]] = {"ours": [], "peer": []}
    with tempfile.TemporaryDirectory() as folder:
        arguments.model = with_sentinels(arguments.model, Path(folder) / "infills.gguf")
        for run in range(arguments.runs):
            for who in ("ours", "peer") if run % 2 == 0 else ("peer", "ours"):
                if who == "ours":
                    server = ours(arguments, 4096, 2)
                else:
                    server = peer(
                        arguments, 4096, 1, "-b", "4096", "-ub", "1024", "--cache-reuse", "256"
                    )
                with server:
                    made[who].append(asyncio.run(typing(arguments.port, arguments.keys)))
    return {"typing": medians(made)}


def run_restart(arguments: argparse.Namespace) -> dict[str, Any]:
    cold, warm = [], []
    for _ in range(arguments.runs):
        with tempfile.TemporaryDirectory() as folder:
            env = {
                "XDG_CACHE_HOME": folder,
                "CODELLAMA_MODELS": os.environ.get(
                    "CODELLAMA_MODELS", str(Path.home() / ".cache/codellama/models")
                ),
            }
            for figures in (cold, warm):
                with ours(arguments, 8192, 1, **env) as server:
                    asyncio.run(
                        ask(server.port, "/completion", {"prompt": "x", "n_predict": 1}, Times())
                    )
                    figures.append(asyncio.run(first(server.port, 145)))
    ratios = [a / b for a, b in zip(cold, warm, strict=True)]
    return {
        "restart": {
            "cold_ms": 1e3 * statistics.median(cold),
            "restored_ms": 1e3 * statistics.median(warm),
            "times_faster": statistics.median(ratios),
        }
    }


def medians(made: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Per figure: ours, the peer's, and the median of the ratios run by run."""
    table: dict[str, Any] = {}
    for name in made["ours"][0]:
        mine, theirs = ([each[name] for each in made[who]] for who in ("ours", "peer"))
        ratios = [a / b for a, b in zip(mine, theirs, strict=True) if b]
        table[name] = {
            "ours": round(statistics.median(mine), 2),
            "peer": round(statistics.median(theirs), 2),
            "ratio": round(statistics.median(ratios), 3) if ratios else None,
        }
    return table


def with_sentinels(model: Path, target: Path) -> Path:
    """A copy that names three unused tokens as infilling sentinels, where there are none."""
    import numpy as np

    from codellama.weights.gguf import read_gguf
    from codellama.weights.gguf_write import LazyTensor, write_gguf

    file = read_gguf(model)
    if "tokenizer.ggml.fim_pre_token_id" in file.metadata:
        return model
    unused = [5, 6, 7]  # SmolLM2: <reponame> and its neighbours, special and never written
    metadata = dict(file.metadata)
    for key, id in zip(("pre", "suf", "mid"), unused, strict=True):
        metadata[f"tokenizer.ggml.fim_{key}_token_id"] = id
    tensors = [
        LazyTensor(t.name, t.shape, t.type, lambda t=t: [np.ascontiguousarray(t.data).reshape(-1)])
        for t in file.tensors.values()
    ]
    write_gguf(target, metadata, tensors)
    return target


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("scenario", choices=["load", "typing", "restart"])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--peer", type=Path)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--predict", type=int, default=64)
    parser.add_argument("--keys", type=int, default=200)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--port", type=int, default=18_345)
    parser.add_argument("--speculate", action="store_true")
    parser.add_argument("--out", type=Path, help="folder for a dated result file")
    arguments = parser.parse_args()
    if arguments.scenario != "restart" and arguments.peer is None:
        parser.error("--peer PATH/llama-server is needed")
    run = {"load": run_load, "typing": run_typing, "restart": run_restart}[arguments.scenario]
    results = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "model": arguments.model.name,
        "runs": arguments.runs,
        "speculate": arguments.speculate,
        "results": run(arguments),
    }
    text = json.dumps(results, indent=2)
    print(text)
    if arguments.out is not None:
        arguments.out.mkdir(parents=True, exist_ok=True)
        day = datetime.now(UTC).strftime("%Y-%m-%d")
        (arguments.out / f"{day}-serving-{arguments.scenario}.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
