"""Run folders as the report sees them: figures, tables beside the paper's, problems."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from codellama.errors import NotFoundError
from codellama.evaluate.records import read_lines
from codellama.evaluate.report.paper import TABLES, PaperTable
from codellama.evaluate.run import read_json
from codellama.evaluate.suites import SUITES

__all__ = ["Attempt", "Finished", "find_overlaps", "find_runs"]

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")
META = frozenset(
    ("suite", "n", "samples", "metric", "problems", "notes", "config", "execution", "times")
)


@dataclass(frozen=True, slots=True)
class Attempt:
    """One problem's sample, for the drill-down."""

    task_id: str
    status: str
    prompt: str
    completion: str
    detail: str
    wall_s: float


@dataclass(frozen=True, slots=True)
class Finished:
    """One scored run.

    Attributes:
        figures: (name, value, 95 % interval or None), in the score's order.
        attempts: at most so many of each problem's samples as `find_runs` was asked for.
    """

    folder: Path
    result: dict[str, Any]
    attempts: list[Attempt] = field(default_factory=list)

    @property
    def suite(self) -> str:
        return str(self.result["suite"])

    @property
    def model(self) -> str:
        model = self.result["config"]["model"]
        return str(model.get("name") or model.get("samples"))

    def label(self, runs: list[Finished]) -> str:
        """The model among these runs: with its temperature, and the folder's name where another
        would read the same.
        """
        name = f"{self.model}, T\N{NO-BREAK SPACE}{self.temperature:g}"
        name = name if self.temperature else self.model
        same = [
            run
            for run in runs
            if (run.suite, run.model, run.temperature) == (self.suite, self.model, self.temperature)
        ]
        return f"{name} ({self.folder.name})" if len(same) > 1 and self.folder.name else name

    @property
    def temperature(self) -> float:
        return float(self.result["config"]["decoding"]["temperature"])

    @property
    def figures(self) -> list[tuple[str, float, tuple[float, float] | None]]:
        found = []
        for key, value in self.result.items():
            if key in META or key.endswith(" 95%") or not isinstance(value, int | float):
                continue
            interval = self.result.get(f"{key} 95%")
            found.append((key, float(value), tuple(interval) if interval else None))
        return found

    @property
    def headline(self) -> float:
        return float(self.result.get(self.result["metric"], 0.0))

    @property
    def paper(self) -> PaperTable | None:
        return TABLES.get(self.suite)

    def row(self, table: PaperTable) -> list[float | None]:
        """This run's figures under a paper table's columns."""
        values = (self.result.get(column) for column in table.columns)
        return [None if v is None else table.scale * float(v) for v in values]

    @property
    def settings(self) -> list[tuple[str, str]]:
        """What is needed to repeat the run."""
        config = self.result["config"]
        decoding = config["decoding"]
        greedy = decoding["temperature"] == 0
        pairs = [
            ("model", _words(config["model"])),
            ("decoding", "greedy" if greedy else _words(decoding)),
            ("samples per problem", str(config["samples per problem"])),
            ("options", _words({k: v for k, v in config["options"].items() if v})),
            ("versions", _words(config["versions"])),
            ("begun", config["begun"]),
        ]
        if "execution" in self.result:
            pairs.append(("programs", _words(self.result["execution"])))
        if "times" in self.result:
            times = self.result["times"].items()
            pairs.append(
                ("time taken", ", ".join(f"{k.removesuffix('_s')} {v} s" for k, v in times))
            )
        return [(name, value) for name, value in pairs if value]


def _words(values: dict[str, Any]) -> str:
    parts = []
    for key, value in values.items():
        text = _words(value) if isinstance(value, dict) else str(value)
        parts.append(f"{key} {text}")
    return ", ".join(parts)


def find_runs(folders: list[Path], *, most: int = 200) -> list[Finished]:
    """Every scored run in or below the folders, in order of suite, model and temperature.

    Args:
        most: problems of a run that are shown one by one: the failed first.

    Raises:
        NotFoundError: there is none.
    """
    paths = sorted({p for folder in folders for p in folder.rglob("result.json")})
    runs = [Finished(p.parent, read_json(p), _attempts(p.parent, most)) for p in paths]
    if not runs:
        raise NotFoundError(
            f"no scored runs in {', '.join(map(str, folders))}: begin with `codellama evaluate`"
        )
    place = {name: i for i, name in enumerate(SUITES)}
    last = len(place)
    return sorted(runs, key=lambda r: (place.get(r.suite, last), r.suite, r.model, r.temperature))


def find_overlaps(folders: list[Path]) -> dict[str, list[dict[str, Any]]]:
    """Suite → overlaps with corpora, from the contamination*.json files below the folders."""
    found: dict[str, list[dict[str, Any]]] = {}
    for path in sorted({p for f in folders for p in f.rglob("contamination*.json")}):
        record = read_json(path)
        for each in record["overlaps"]:
            found.setdefault(each["suite"], []).append({**each, "corpus": record["corpus"]})
    return found


def _attempts(folder: Path, most: int) -> list[Attempt]:
    problems = read_json(folder / "problems.json")["problems"]
    prompts = {each["task_id"]: each["prompt"] for each in problems}
    completions = {
        (each["task_id"], each["sample"]): each["completion"]
        for each in read_lines(folder / "samples.jsonl")
    }
    found = []
    for record in read_lines(folder / "outcomes.jsonl", torn=True):
        completion = completions.get((record["task_id"], record["sample"]), "")
        if record["sample"] == 0 and isinstance(completion, str):
            found.append(
                Attempt(
                    record["task_id"],
                    record["status"],
                    _shortened(prompts.get(record["task_id"], "")),
                    _shortened(completion),
                    _shortened(record.get("detail", "")),
                    record["wall_s"],
                )
            )
    # By name as people count: HumanEval/9 before HumanEval/10.
    found.sort(key=lambda a: (a.status == "passed", _counted(a.task_id)))
    return found[:most]


def _counted(name: str) -> list[tuple[int, str]]:
    return [(int(n or 0), text) for n, text in re.findall(r"(\d+)|(\D+)", name)]


def _shortened(text: str, most: int = 4000) -> str:
    """What a page can show: without control characters, the middle of a long text left out."""
    text = CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)
    if len(text) <= most:
        return text
    return f"{text[: most // 2]}\n… {len(text) - most} characters left out …\n{text[-most // 2 :]}"
