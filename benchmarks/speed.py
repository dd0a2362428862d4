"""This engine beside its peers, case by case, on one machine in one run: the rounds behind a claim.

    python benchmarks/speed.py --model FILE.gguf --cases pp512,tg64 \\
        --peer PATH/llama-bench --peer "ik=PATH/llama-bench -rtr 1" --rounds 5 --out NAME

`codellama bench` does the measuring; this keeps its rounds in a file as they are done, so that
they may be spread over quiet minutes (`--keep FILE`: further calls add rounds), and writes
benchmarks/results/DATE-NAME.{json,md}. A peer's arguments are its best settings, found by hand;
write down what they are with --note.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from codellama.bench.cases import parse_cases
from codellama.bench.limits import Workload
from codellama.bench.machine import Machine, measure_machine
from codellama.bench.peer import Peer
from codellama.bench.report import as_json, lines, markdown
from codellama.bench.session import Result, Round, Session, run_round, summarize
from codellama.bench.worker import Run
from codellama.model.config import kv_type_of
from codellama.native import default_threads
from codellama.weights.load import open_model

RESULTS = Path(__file__).parent / "results"


def kept(path: Path | None) -> tuple[list[Machine], list[Round]]:
    """Rounds of earlier calls, and the machine as it was before each; none where there is no file.

    A line of the file is one round: [machine, {engine: run}].
    """
    if path is None or not path.exists():
        return [], []
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    rounds = [{k: Run(**run) for k, run in done.items()} for _machine, done in lines]
    return [Machine(**machine) for machine, _done in lines], rounds


def measure(session: Session, rounds: int, keep: Path | None) -> Result:
    """So many more rounds, on top of those that were kept."""
    source = open_model(session.model)
    machines, done = kept(keep)
    for index in range(len(done), len(done) + rounds):
        machines.append(measure_machine(session.threads, Workload.of(source).weight_bytes))
        done.append(run_round(session, index))
        print(f"{session.model.name}: round {index + 1}", file=sys.stderr)
        if keep is not None:
            runs = {k: asdict(run) for k, run in done[-1].items()}
            with keep.open("a") as file:
                file.write(json.dumps([asdict(machines[-1]), runs]) + "\n")
    return summarize(source, session, machines, done)


def write(result: Result, name: str, notes: list[str]) -> None:
    """Both result files, and the table to the terminal."""
    stamp = datetime.now(UTC).strftime("%Y-%m-%d")
    parts = [part if isinstance(part, str) else "\n" + markdown(part) for part in lines(result)]
    text = "\n".join(f"- {part}" if not part.startswith("\n") else part for part in parts)
    print(text)
    if not name:
        return
    RESULTS.mkdir(exist_ok=True)
    about = "".join(f"- {note}\n" for note in [f"Python {platform.python_version()}", *notes])
    path = RESULTS / f"{stamp}-{name}"
    path.with_suffix(".md").write_text(f"# {name}, {stamp}\n\n{about}{text}\n")
    path.with_suffix(".json").write_text(
        json.dumps({"notes": notes, **as_json(result)}, indent=1) + "\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="a GGUF file")
    parser.add_argument("--cases", default="pp512,tg64", help="as for codellama bench")
    parser.add_argument("--peer", action="append", default=[], help="[NAME=]PATH [ARGUMENTS]")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=default_threads())
    parser.add_argument("--isa", help="our instruction set; default the best")
    parser.add_argument("--kv-type", default="f16", help="how our cache keeps keys and values")
    parser.add_argument("--keep", type=Path, help="a file of rounds to add to")
    parser.add_argument("--out", default="", help="name of the result files; none: print only")
    parser.add_argument("--note", action="append", default=[], help="written into the result")
    args = parser.parse_args()
    peers = tuple(Peer.parse(text) for text in args.peer)
    cases, kv_type = parse_cases(args.cases), kv_type_of(args.kv_type, "--kv-type")
    session = Session(args.model, cases, args.threads, args.isa, peers, kv_type)
    write(measure(session, args.rounds, args.keep), args.out, args.note)


if __name__ == "__main__":
    main()
