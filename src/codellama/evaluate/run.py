"""Generate → extract → execute → score: four stages, four files, each resumed or redone alone.

    config.json      what is run: suite, options, decoding, model, versions
    problems.json    the problems, as the data set gives them
    raw.jsonl        what the model answered, never changed afterwards
    samples.jsonl    completions, in the public form (task_id, completion)
    outcomes.jsonl   a verdict and values for each sample
    result.json      the score, and everything needed to repeat it

A kill at any point loses what is in flight and nothing else. raw.jsonl and outcomes.jsonl are in
the order of completion, samples.jsonl in the data set's: equal answers make equal samples, whatever
the batch size or the number of workers.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zlib import crc32

from codellama.errors import RequestError
from codellama.evaluate.asks import Decoding, Model, Raw
from codellama.evaluate.executor import SandboxExecutor
from codellama.evaluate.fanout import FanOut, Local
from codellama.evaluate.records import Appender, Record, read_lines, write_json, write_lines
from codellama.evaluate.suite import Executor, Outcome, Problem, Suite
from codellama.evaluate.verdicts import Verdict

__all__ = ["Progress", "Run"]

Progress = Callable[[int, int, str], None]
"""(done, total, stage)."""

Key = tuple[str, int]


def _silent(done: int, total: int, stage: str) -> None:
    pass


@dataclass(frozen=True, slots=True)
class Answer:
    """Problem → n raw answers; a value, so that it can travel to another machine."""

    suite: Suite
    model: Model
    n: int
    decoding: Decoding

    def __call__(self, problem: Problem) -> list[Raw]:
        # A seed of its own for each problem: the order of asking changes nothing.
        seed = (self.decoding.seed + crc32(problem.task_id.encode())) % 2**31
        ask = self.suite.ask(problem)
        return self.model.answers(ask, self.n, replace(self.decoding, seed=seed))


@dataclass(frozen=True, slots=True)
class Judge:
    """Sample → outcome; a value, too."""

    suite: Suite
    problems: dict[str, Problem]
    executor: Executor

    def __call__(self, sample: Record) -> Outcome:
        problem = self.problems[sample["task_id"]]
        return self.suite.judge(problem, sample["completion"], self.executor)


class Run:
    """One suite on one model, in one folder.

    Args:
        model: its identity, as `Model.identity` gives it; or {"samples": file} for given ones.

    Raises:
        RequestError: the folder holds a run of something else.
    """

    def __init__(
        self,
        folder: Path,
        suite: Suite,
        *,
        model: dict[str, Any],
        decoding: Decoding | None = None,
        n: int = 1,
        progress: Progress = _silent,
    ) -> None:
        self.folder = folder
        self.suite = suite
        self.model = model
        self.decoding = decoding or Decoding()
        self.n = n
        self.progress = progress
        suite.infills = bool(model.get("infills", suite.infills))
        self._problems: list[Problem] | None = None
        self._total = 0
        self._check_config()

    @property
    def problems(self) -> list[Problem]:
        """Of this run, kept in its folder: later stages need neither data set nor model."""
        if self._problems is None:
            path = self._path("problems", "json")
            if not path.exists():
                self._keep_problems(path)
            kept = read_json(path)
            self._total = kept["total"]
            self._problems = [Problem(**each) for each in kept["problems"]]
        return self._problems

    def _keep_problems(self, path: Path) -> None:
        problems = self.suite.problems()
        selected = problems[: self.suite.options.limit]
        if not selected:
            raise RequestError(f"{self.suite.name} has no problems with these options")
        write_json(path, {"total": len(problems), "problems": [asdict(p) for p in selected]})

    # Stages.

    def generate(self, model: Model, fan_out: FanOut | None = None) -> None:
        """Ask for what raw.jsonl lacks."""
        have = {_key(record) for record in read_lines(self._path("raw"), torn=True)}
        wanted = [
            p for p in self.problems if any((p.task_id, i) not in have for i in range(self.n))
        ]
        done = len(self.problems) - len(wanted)

        answer = Answer(self.suite, model, self.n, self.decoding)
        fan_out = fan_out or Local(min(model.parallel, self.suite.parallel))
        with self._timed("generate", wanted), Appender(self._path("raw")) as file:
            for problem, raws in fan_out(answer, wanted):
                for sample, raw in enumerate(raws):
                    if (problem.task_id, sample) not in have:
                        record = {"task_id": problem.task_id, "sample": sample, "raw": raw}
                        file.write(record)
                done += 1
                self.progress(done, len(self.problems), "generate")

    def extract(self) -> None:
        """Completions from raw answers: cheap, so always anew."""
        by_id = {problem.task_id: problem for problem in self.problems}
        raws = {_key(raw): raw["raw"] for raw in read_lines(self._path("raw"), torn=True)}
        records = [
            {
                "task_id": task_id,
                "sample": sample,
                "completion": self.suite.extract(problem, raws[task_id, sample]),
            }
            for task_id, problem in by_id.items()
            for sample in range(self.n)
            if (task_id, sample) in raws
        ]
        write_lines(self._path("samples"), records)

    def take_samples(self, path: Path) -> None:
        """Given completions, in the public form, instead of generating.

        Raises:
            RequestError: a line without task_id or completion, or of a problem that is not ours.
        """
        by_id = {problem.task_id: problem for problem in self.problems}
        counts: dict[str, int] = defaultdict(int)
        records = []
        for number, line in enumerate(read_lines(path), 1):
            task_id, completion = line.get("task_id"), line.get("completion")
            task_id = self._own_id(task_id, by_id)
            if task_id is None or completion is None:
                raise RequestError(
                    f"{path}, record {number}: needs a task_id of {self.suite.name} "
                    f"(such as {self.problems[0].task_id}) and a completion"
                )
            records.append(
                {"task_id": task_id, "sample": counts[task_id], "completion": completion}
            )
            counts[task_id] += 1
        if not records:
            raise RequestError(f"{path} has no samples")
        write_lines(self._path("samples"), records)

    def execute(self, executor: Executor, fan_out: FanOut | None = None) -> None:
        """Judge what outcomes.jsonl lacks, and again what the sandbox failed on."""
        samples = read_lines(self._path("samples"))
        known = {
            _key(record): record
            for record in read_lines(self._path("outcomes"), torn=True)
            if record["status"] != "error"
        }
        waiting = [s for s in samples if known.get(_key(s), {}).get("of") != _digest(s)]
        kept = [known[_key(s)] for s in samples if known.get(_key(s), {}).get("of") == _digest(s)]
        write_lines(self._path("outcomes"), kept)
        by_id = {problem.task_id: problem for problem in self.problems}
        done = len(kept)

        judge = Judge(self.suite, by_id, executor)
        fan_out = fan_out or Local(cores() + 1)
        with self._timed("execute", waiting), Appender(self._path("outcomes")) as file:
            for sample, outcome in fan_out(judge, waiting):
                file.write(_outcome_record(sample, outcome))
                done += 1
                self.progress(done, len(samples), "execute")
        if self.suite.executes and isinstance(executor, SandboxExecutor):
            write_json(self._path("execution", "json"), executor.description())

    def score(self) -> dict[str, Any]:
        """The figures, written to result.json and returned."""
        outcomes = self._outcomes()
        judged = [problem for problem in self.problems if problem.task_id in outcomes]
        ordered = {problem.task_id: outcomes[problem.task_id] for problem in judged}
        unjudged = sum(o.verdict.status == "error" for each in ordered.values() for o in each)
        result: dict[str, Any] = {
            "suite": self.suite.name,
            "n": len(judged),
            "samples": sum(map(len, ordered.values())),
            **self.suite.score(judged, ordered),
            "metric": self.suite.metric,
            "problems": self._total,
            "notes": self.suite.notes(),
        }
        if unjudged:
            result["unjudged"] = unjudged
            result["notes"] += [
                f"the sandbox failed on {unjudged} samples, which are left out: run the execute "
                "stage again"
            ]
        result["config"] = read_json(self._path("config", "json"))
        for name in ("execution", "times"):
            if self._path(name, "json").exists():
                result[name] = read_json(self._path(name, "json"))
        write_json(self._path("result", "json"), result)
        return result

    # Files.

    def _path(self, stage: str, kind: str = "jsonl") -> Path:
        return self.folder / f"{stage}.{kind}"

    def _own_id(self, task_id: object, by_id: dict[str, Problem]) -> str | None:
        """MBPP's ids are numbers in its file and text in others'."""
        text = str(task_id)
        return text if text in by_id else None

    def _outcomes(self) -> dict[str, list[Outcome]]:
        found: dict[str, list[Outcome]] = defaultdict(list)
        for record in read_lines(self._path("outcomes"), torn=True):
            verdict = Verdict(record["status"], record.get("detail", ""), record["wall_s"])
            found[record["task_id"]].append(Outcome(verdict, record.get("values", {})))
        return found

    def _config(self) -> dict[str, Any]:
        return {
            "suite": self.suite.name,
            "options": json.loads(json.dumps(asdict(self.suite.options))),
            "decoding": asdict(self.decoding),
            "samples per problem": self.n,
            "model": self.model,
        }

    def _check_config(self) -> None:
        path, config = self._path("config", "json"), self._config()
        if path.exists():
            known = read_json(path)
            for key, value in config.items():
                if known.get(key) != value:
                    raise RequestError(
                        f"{self.folder} holds a run with another {key} ({known.get(key)}, not "
                        f"{value}): choose another --out, or remove it"
                    )
            return
        now = datetime.now(UTC).isoformat(timespec="seconds")
        write_json(path, {**config, "begun": now, "versions": versions()})

    @contextmanager
    def _timed(self, stage: str, work: Sequence[object]) -> Iterator[None]:
        """Adds to a stage's time, of a run that is cut off, too."""
        begin = time.monotonic()
        try:
            yield
        finally:
            path = self._path("times", "json")
            times = read_json(path) if path.exists() else {}
            spent = times.get(f"{stage}_s", 0.0) + time.monotonic() - begin
            if work:
                write_json(path, {**times, f"{stage}_s": round(spent, 2)})


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def versions() -> dict[str, str]:
    from importlib.metadata import version

    return {
        "codellama": version("codellama"),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cores": str(cores()),
    }


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except ValueError:
        raise RequestError(f"{path} is damaged: remove it and run again") from None


def _key(record: Record) -> Key:
    return record["task_id"], record["sample"]


def _digest(sample: Record) -> str:
    text = json.dumps(sample["completion"], ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:16]


def _outcome_record(sample: Record, outcome: Outcome) -> Record:
    record: Record = {
        "task_id": sample["task_id"],
        "sample": sample["sample"],
        "status": outcome.verdict.status,
        "wall_s": round(outcome.verdict.wall_s, 3),
        "of": _digest(sample),
    }
    if outcome.values:
        record["values"] = outcome.values
    if outcome.verdict.detail:
        record["detail"] = outcome.verdict.detail
    return record
