"""One process that loads a model and measures cases, and the call that starts it.

A process of its own, so that load time and peak memory are a run's own, and so that ours and a
peer's runs look alike: start, load, warm up, measure, end. `python -m codellama.bench.worker` reads
a task as JSON from standard input and writes a Run to standard output.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from codellama.api import CodeLlama
from codellama.bench.cases import ANSWER_PROMPT, Case
from codellama.engine.native_runner import NativeRunner
from codellama.engine.runner import BLOCK_SIZE, Batch, Int32
from codellama.engine.scheduler import SchedulerConfig
from codellama.errors import CodeLlamaError, RequestError
from codellama.model.config import KvType
from codellama.weights.load import ModelFile, open_model

__all__ = ["Run", "Task", "measure", "run_ours"]

CHUNK = SchedulerConfig().step_tokens  # prompts go in pieces, as the engine computes them


@dataclass(frozen=True, slots=True)
class Task:
    """What a worker is asked: a file, cases by label, threads and instruction set (None: best), and
    how the cache keeps keys and values.
    """

    model: str
    cases: list[str]
    threads: int | None = None
    isa: str | None = None
    kv_type: KvType = "f16"


@dataclass(frozen=True, slots=True)
class Run:
    """One process's figures: tokens a second by case, and what the process took.

    Attributes:
        load_s: from opening the file to ready; None where the engine does not tell.
        peak_mb: most resident memory, mapped files included.
        about: the engine's own words about itself (instruction set, threads, bytes).
    """

    rates: dict[str, float]
    load_s: float | None
    peak_mb: float | None
    about: dict[str, str | int] = field(default_factory=dict)


def run_ours(task: Task) -> Run:
    """Measure in a fresh process. RequestError with its last words where it fails."""
    done = subprocess.run(
        [sys.executable, "-m", "codellama.bench.worker"],
        input=json.dumps(asdict(task)),
        capture_output=True,
        text=True,
    )
    if done.returncode:
        words = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise RequestError(f"measuring {Path(task.model).name} failed: {words[-1]}")
    return Run(**json.loads(done.stdout))


def measure(task: Task) -> Run:
    """Load and measure in this process."""
    cases = [Case.parse(text) for text in task.cases]
    begin = time.perf_counter()
    source = open_model(task.model)
    runner = _load(source, cases, task)
    load_s = time.perf_counter() - begin
    bench = _Bench(source, runner)
    rates = {case.label: case.tokens * case.sequences / bench.seconds(case) for case in cases}
    about: dict[str, str | int] = {
        "isa": runner.isa,
        "threads": runner.threads,
        "weight_bytes": runner.weight_bytes,
        "cache_bytes": runner.cache_bytes,
        "kv_type": runner.kv_type,
    }
    return Run(rates, load_s, _peak_mb(), about)


def _load(source: ModelFile, cases: list[Case], task: Task) -> NativeRunner:
    longest = max(case.length for case in cases) + 1
    if longest > source.config.context:
        raise RequestError(
            f"{source.config.name} serves {source.config.context} tokens: a case needs {longest}"
        )
    tables = max(case.sequences * _blocks(case) for case in cases)
    return NativeRunner(
        source,
        context=longest,
        n_blocks=tables,
        threads=task.threads,
        isa=task.isa,
        kv_type=task.kv_type,
    )


def _blocks(case: Case) -> int:
    """Blocks of one sequence of the case, with room for the token after it."""
    return -(-(case.length + 1) // BLOCK_SIZE)


class _Bench:
    """Cases on a loaded model; each warms up before its clock starts."""

    def __init__(self, source: ModelFile, runner: NativeRunner) -> None:
        self._source = source
        self._runner = runner
        self._random = np.random.default_rng(0)

    def seconds(self, case: Case) -> float:
        if case.kind == "answer":
            return self._answer(case)
        return self._prefill(case) if case.kind == "pp" else self._decode(case)

    def _tokens(self, n: int) -> Int32:
        return self._random.integers(3, self._runner.vocab_size, n, np.int32)

    def _prefill(self, case: Case) -> float:
        table_SB = np.arange(_blocks(case), dtype=np.int32)[None]
        tokens = self._tokens(case.length)
        self._fill(tokens[: max(case.depth, min(case.tokens, CHUNK))], 0, table_SB)
        begin = time.perf_counter()
        self._fill(tokens[case.depth :], case.depth, table_SB)
        return time.perf_counter() - begin

    def _fill(self, tokens: Int32, past: int, table_SB: Int32) -> None:
        for start in range(0, len(tokens), CHUNK):
            part = tokens[start : start + CHUNK]
            last = len(part) - 1
            self._step(part, [0, len(part)], [past + start], table_SB, [last], prompt=True)

    def _decode(self, case: Case) -> float:
        n, width = case.sequences, _blocks(case)
        tables_SB = np.arange(n * width, dtype=np.int32).reshape(n, width)
        for table_B in tables_SB if case.depth else ():
            self._fill(self._tokens(case.depth), 0, table_B[None])
        tokens_ST = self._tokens(n * case.tokens).reshape(n, case.tokens)
        starts, rows = list(range(n + 1)), list(range(n))
        self._step(tokens_ST[:, 0].copy(), starts, [case.depth] * n, tables_SB, rows)
        begin = time.perf_counter()
        for i in range(case.tokens):
            self._step(tokens_ST[:, i].copy(), starts, [case.depth + i] * n, tables_SB, rows)
        return time.perf_counter() - begin

    def _step(
        self,
        tokens_T: Int32,
        starts: list[int],
        past: list[int],
        tables_SB: Int32,
        rows: list[int],
        *,
        prompt: bool = False,
    ) -> None:
        self._runner.run(
            Batch(
                tokens_T=tokens_T,
                starts_S1=np.array(starts, np.int32),
                past_S=np.array(past, np.int32),
                blocks_SB=tables_SB,
                rows_R=np.array(rows, np.int32),
                n_decode=0 if prompt else len(tokens_T),
            )
        )

    def _answer(self, case: Case) -> float:
        """Between the first token and the last, through scheduler, sampling and text."""
        llm = CodeLlama(self._runner, self._source.tokenizer(), self._source.config)
        prompt = [int(token) for token in self._tokens(ANSWER_PROMPT)]
        pieces = llm.stream(prompt, max_tokens=case.tokens + 1, ignore_eos=True)
        next(pieces)
        begin = time.perf_counter()
        for _ in pieces:
            pass
        return time.perf_counter() - begin


def _peak_mb() -> float | None:
    """Peak resident memory of this process; None where the system does not tell."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(x.split()[1]) / 1000 for x in lines if x.startswith("VmHWM")), None)


def main() -> None:
    try:
        run = measure(Task(**json.load(sys.stdin)))
    except CodeLlamaError as error:
        sys.exit(str(error))
    print(json.dumps(asdict(run)))


if __name__ == "__main__":
    main()
