"""From starting a process to its first token, and its peak memory: ours and peers in turn.

    python benchmarks/cold_start.py --model FILE.gguf [--rounds 5] [--out NAME] \\
        --peer "llama-completion=PATH/llama-completion -no-cnv --no-display-prompt -t 2" \\
        --peer "llama-cli=PATH/llama-cli -st --simple-io -t 2" \\
        --server "llama-server=PATH/llama-server -t 2"

A peer is a command that continues a prompt: `-m FILE -p PROMPT -n 1` is added to it. The clock runs
from the start of the process to the first byte of its standard output that is no white space, after
the prompt where that is printed first; the file is in the page cache. A server gets
`-m FILE --port N`, and the clock runs to the answer of /completion with one token, asked as soon as
/health says that it can be; ours is timed so, too. Peak memory counts mapped files, as the system
does.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import httpx

from codellama.bench.machine import processor
from server import free_port, wait_for

RESULTS = Path(__file__).parent / "results"
PROMPT = "def fibonacci(n):\n    "
MARK = PROMPT.splitlines()[0].encode()
OURS, OUR_SERVER = "ours", "ours, served"

Figures = tuple[float, float]
"""Seconds, peak resident MB."""


def start(command: list[str], text: str) -> Figures:
    """To the first visible byte, behind the prompt if the program shows it."""
    begin = time.perf_counter()
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(text.encode())
    process.stdin.close()
    seen, seconds = b"", 0.0
    with process.stdout as pipe:
        while byte := pipe.read(1):
            seen += byte
            shown = seen.endswith(MARK)
            if shown or not (seconds or byte.isspace()):
                seconds = 0.0 if shown else time.perf_counter() - begin
    return seconds, ended(process, "" if seconds else f"{command[0]} printed nothing")


def start_server(command: list[str]) -> Figures:
    """To the answer of one token."""
    port = free_port()
    url, quiet = f"http://127.0.0.1:{port}", subprocess.DEVNULL
    begin = time.perf_counter()
    process = subprocess.Popen([*command, "--port", str(port)], stdout=quiet, stderr=quiet)
    wait_for(url, process, every=0.005)
    body = {"prompt": PROMPT, "n_predict": 1, "temperature": 0}
    try:
        answer = httpx.post(f"{url}/completion", json=body, timeout=60)
        seconds = time.perf_counter() - begin
    finally:
        process.terminate()
    wrong = "" if answer.status_code == 200 else f"{command[0]}: {answer.text[:200]}"
    return seconds, ended(process, wrong)


def ended(process: subprocess.Popen[bytes], error: str) -> float:
    """Peak resident MB of a process that has ended, or ends; sys.exit with an error."""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if error:
        sys.exit(error)
    return usage.ru_maxrss / 1000


def main() -> None:
    # Without bytecode beside our sources every start would compile them: 100 ms that no user waits.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="a GGUF file")
    parser.add_argument("--peer", action="append", default=[], help="NAME=PATH [ARGUMENTS]")
    parser.add_argument("--server", action="append", default=[], help="NAME=PATH [ARGUMENTS]")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", default="", help="name of the result files; none: print only")
    args = parser.parse_args()
    script, model = str(Path(sys.executable).with_name("codellama")), str(args.model)
    ours = [script, "complete", model, "--max-tokens", "2"]  # one of them heals the prompt's end
    runs: dict[str, Callable[[], Figures]] = {OURS: partial(start, ours, PROMPT)}
    for text in args.peer:
        name, _, rest = text.partition("=")
        runs[name] = partial(start, [*shlex.split(rest), "-m", model, "-p", PROMPT, "-n", "1"], "")
    if args.server:
        runs[OUR_SERVER] = partial(start_server, [script, "serve", "--model", model, "--no-cache"])
    for text in args.server:
        name, _, rest = text.partition("=")
        runs[name] = partial(start_server, [*shlex.split(rest), "-m", model])
    args.model.read_bytes()  # into the page cache
    found: dict[str, list[Figures]] = {name: [] for name in runs}
    for index in range(args.rounds):
        for name in runs if index % 2 == 0 else reversed(runs):
            found[name].append(runs[name]())
    about = f"{processor()}; {args.model.name}, {args.rounds} rounds, file in the page cache"
    servers = {OUR_SERVER, *(text.partition("=")[0] for text in args.server)}
    rows = [
        "| process | to the first token, s | peak memory, MB | ours to it |",
        "|---|---|---|---|",
    ]
    for name, each in found.items():
        seconds, memory = (statistics.median(column) for column in zip(*each, strict=True))
        mine = found[OUR_SERVER if name in servers else OURS]
        ratio = statistics.median(a[0] / b[0] for a, b in zip(mine, each, strict=True))
        rows.append(f"| {name} | {seconds:.2f} | {memory:,.0f} | {ratio:.2f} |")
    text = "\n".join([about, "", *rows])
    print(text)
    if args.out:
        stamp = datetime.now(UTC).strftime("%Y-%m-%d")
        path = RESULTS / f"{stamp}-{args.out}"
        path.with_suffix(".md").write_text(f"# Cold start, {stamp}\n\n{text}\n")
        path.with_suffix(".json").write_text(
            json.dumps({"about": about, "runs": found}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
