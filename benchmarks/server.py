"""Requests side by side against servers with llama.cpp's API: ours, and a peer's, in turn.

    python benchmarks/server.py --model FILE.gguf --parallel 1,4,16 --tokens 128 [--out NAME] \\
        --peer "llama-server=PATH/llama-server -t 2 -np 16 -c 16384"

Each round starts a server, warms it up with one request, sends each number of requests at once as
streams, and ends it; the order of servers turns from round to round. Prompts differ in their first
word, so that no prefix is shared; answers are greedy and of equal length. Total tokens a second
count from the first request sent to the last token received, prompts included; the time to the
first token is the median of all requests. The client reads sockets and decodes nothing meanwhile.
A peer's command gets `-m FILE --port N`.
"""

from __future__ import annotations

import argparse
import http.client
import io
import json
import os
import selectors
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


class Stream:
    """One request's answer as it arrives. Nothing of it is decoded before the last byte is here:
    client and server share the processors, and what the client takes, the server lacks.
    """

    def __init__(self, port: int, index: int, tokens: int) -> None:
        body = json.dumps(
            {
                "prompt": PROMPT.format(f"Description {index}"),
                "n_predict": tokens,
                "temperature": 0.0,
                "ignore_eos": True,
                "stream": True,
                "cache_prompt": False,
            }
        )
        self.first = 0.0
        self._answer = bytearray()
        self._begin = time.perf_counter()
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=600)
        head = f"POST /completion HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n"
        kind = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        self.socket.sendall((head + kind + body).encode())

    def receive(self) -> bool:
        """Take what is there; False at the end."""
        data = self.socket.recv(1 << 16)
        self._answer += data
        if not self.first and b"data: " in self._answer:
            self.first = time.perf_counter() - self._begin
        return bool(data)

    def tokens(self) -> int:
        """How many the server says it made, in its last event. sys.exit on any other answer."""
        answer = http.client.HTTPResponse(self)  # type: ignore[arg-type]
        answer.begin()
        body = answer.read()
        if answer.status != 200:
            sys.exit(f"status {answer.status}: {body[:200]!r}")
        events = [line[6:] for line in body.splitlines() if line.startswith(b"data: {")]
        return int(json.loads(events[-1])["tokens_predicted"])

    def makefile(self, mode: str) -> io.BytesIO:
        """All that was received: what http.client asks of a socket."""
        return io.BytesIO(self._answer)


def together(port: int, n: int, tokens: int) -> tuple[float, float]:
    """(total tokens a second, median seconds to the first token) of n requests at once"""
    begin = time.perf_counter()
    streams = [Stream(port, index, tokens) for index in range(n)]
    with selectors.DefaultSelector() as ready:
        for stream in streams:
            ready.register(stream.socket, selectors.EVENT_READ, stream)
        while ready.get_map():
            for key, _ in ready.select():
                if not key.data.receive():
                    ready.unregister(key.fileobj)
                    key.data.socket.close()
    seconds = time.perf_counter() - begin
    count = sum(stream.tokens() for stream in streams)
    return count / seconds, statistics.median(stream.first for stream in streams)


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
        together(port, 1, 8)
        for n in parallel:
            rate, first = together(port, n, tokens)
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
