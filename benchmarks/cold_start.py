"""From starting a process to its first token, and its peak memory: ours and peers in turn.

    python benchmarks/cold_start.py --model FILE.gguf [--rounds 5] [--out NAME] \\
        --peer "llama-completion=PATH/llama-completion -no-cnv --no-display-prompt -t 2"

A peer is a command that continues a prompt: `-m FILE -p PROMPT -n 1` is added to it. The clock runs
from the start of the process to the first byte of its standard output that is no white space; the
file is in the page cache. Peak memory counts mapped files, as the system does.
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
from datetime import UTC, datetime
from pathlib import Path

from codellama.bench.machine import processor

RESULTS = Path(__file__).parent / "results"
PROMPT = "def fibonacci(n):\n    "
OURS = "ours"


def start(command: list[str], text: str) -> tuple[float, float]:
    """(seconds to the first visible byte, peak resident MB)"""
    begin = time.perf_counter()
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(text.encode())
    process.stdin.close()
    with process.stdout as pipe:
        while (byte := pipe.read(1)) and byte.isspace():
            pass
        seconds = time.perf_counter() - begin
        pipe.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if not byte:
        sys.exit(f"{command[0]} printed nothing")
    return seconds, usage.ru_maxrss / 1000


def main() -> None:
    # Without bytecode beside our sources every start would compile them: 100 ms that no user waits.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="a GGUF file")
    parser.add_argument("--peer", action="append", default=[], help="NAME=PATH [ARGUMENTS]")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", default="", help="name of the result files; none: print only")
    args = parser.parse_args()
    script = Path(sys.executable).with_name("codellama")
    commands = {OURS: ([str(script), "complete", str(args.model), "--max-tokens", "1"], PROMPT)}
    for text in args.peer:
        name, _, rest = text.partition("=")
        ending = ["-m", str(args.model), "-p", PROMPT, "-n", "1"]
        commands[name] = ([*shlex.split(rest), *ending], "")
    args.model.read_bytes()  # into the page cache
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    for index in range(args.rounds):
        for name in commands if index % 2 == 0 else reversed(commands):
            found[name].append(start(*commands[name]))
    about = f"{processor()}; {args.model.name}, {args.rounds} rounds, file in the page cache"
    rows = [
        "| process | to the first token, s | peak memory, MB | ours to it |",
        "|---|---|---|---|",
    ]
    for name, each in found.items():
        seconds, memory = (statistics.median(column) for column in zip(*each, strict=True))
        ratio = statistics.median(a[0] / b[0] for a, b in zip(found[OURS], each, strict=True))
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
