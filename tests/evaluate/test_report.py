"""The report: one page that needs nothing else, every number in it, safe with what models write."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from codellama.errors import NotFoundError
from codellama.evaluate.report import write_report
from codellama.evaluate.report.collect import find_runs
from codellama.evaluate.report.paper import FIGURE_4A, TABLES
from codellama.evaluate.suites import SUITES

HOSTILE = '</pre><script>alert("x")</script>{{ 7 * 7 }} \x00\ud800'


def make_run(folder: Path, suite: str, figures: dict[str, Any], **more: Any) -> Path:
    """A run folder as run.py leaves it."""
    folder.mkdir(parents=True)
    metric = more.get("metric", "pass@1")
    temperature = more.get("temperature", 0.0)
    config = {
        "suite": suite,
        "options": {"limit": None, "order": None},
        "decoding": {"temperature": temperature, "top_p": 1.0, "seed": 0},
        "samples per problem": 1,
        "model": {"name": "tiny:1m", "context": 1024},
        "begun": "2026-01-01T00:00:00+00:00",
        "versions": {"codellama": "0", "python": "3"},
    }
    result = {
        "suite": suite,
        "n": 2,
        "samples": 2,
        **figures,
        "metric": metric,
        "problems": 164,
        "notes": ["a note about this run"],
        "config": config,
        "execution": {"isolation": "bubblewrap", "time limit factor": 1.0},
        "times": {"generate_s": 1.5},
    }
    problems = [{"task_id": f"t/{i}", "prompt": f"prompt {i}", "data": {}} for i in range(2)]
    (folder / "problems.json").write_text(json.dumps({"total": 164, "problems": problems}))
    samples = [{"task_id": f"t/{i}", "sample": 0, "completion": HOSTILE} for i in range(2)]
    (folder / "samples.jsonl").write_text("".join(json.dumps(s) + "\n" for s in samples))
    outcomes = [
        {"task_id": "t/0", "sample": 0, "status": "passed", "wall_s": 0.1},
        {"task_id": "t/1", "sample": 0, "status": "failed", "wall_s": 0.2, "detail": HOSTILE},
    ]
    (folder / "outcomes.jsonl").write_text("".join(json.dumps(o) + "\n" for o in outcomes))
    (folder / "result.json").write_text(json.dumps(result))
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    root = tmp_path / "runs"
    pass1 = {"pass@1": 0.125, "pass@1 95%": [0.0625, 0.25]}
    make_run(root / "he", "humaneval", pass1)
    for temperature in (0.1, 0.8):
        figures = {"pass@1": 0.1, "pass@10": 0.3}
        make_run(root / f"t{temperature}", "humaneval", figures, temperature=temperature)
    cells = {f"{n} @ {p}": 0.5 for n in (2048, 8192) for p in (0, 0.2, 1)}
    make_run(root / "key", "key-retrieval", {"accuracy": 0.5, **cells}, metric="accuracy")
    by_position = {f"perplexity {a}-{b}": 4.0 for a, b in ((0, 128), (128, 256))}
    figures = {"perplexity": 3.5, "perplexity@512": 3.6, "perplexity@1024": 3.5, **by_position}
    make_run(root / "ppl", "perplexity", figures, metric="perplexity")
    overlap = {"suite": "humaneval", "problems": 164, "touched": 3, "mostly": 2}
    record = {"corpus": "corpus.jsonl", "overlaps": [{**overlap, "same_function": 1}]}
    (root / "contamination.json").write_text(json.dumps(record))
    return root


class Page(HTMLParser):
    """Tags, addresses and text of a page; complains where tags do not close."""

    VOID = ("meta", "br", "hr", "img", "link", "path", "use", "rect", "image", "line")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [v or "" for k, v in attrs if k in ("href", "src", "xlink:href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-1:]}"
            self.open.pop()


def test_the_page_is_whole_and_needs_nothing_else(runs: Path, tmp_path: Path) -> None:
    html, markdown = write_report([runs], tmp_path / "out" / "report.html")
    text = html.read_text()
    page = Page(text)
    assert all(address.startswith(("#", "data:")) for address in page.addresses)
    assert "@import" not in text and "url(http" not in text
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    assert page.tags.count("svg") == 5 - 1  # two of perplexity, keys, temperatures
    assert page.tags.count("script") == 1
    assert markdown.name == "report.md"


def test_what_models_write_stays_text(runs: Path, tmp_path: Path) -> None:
    html, _ = write_report([runs], tmp_path / "report")
    text = html.read_text()
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert" in text
    assert "{{ 7 * 7 }}" in text


def test_numbers_stand_beside_the_papers(runs: Path, tmp_path: Path) -> None:
    html, markdown = write_report([runs], tmp_path / "report")
    for text in (html.read_text(), markdown.read_text()):
        assert "12.5 %" in text and "6.2 % to 25.0 %" in text
        assert "33.5" in text  # Code Llama 7B's pass@1
        assert "A note about this run" in text
        assert "3 of 164 problems share 10 words" in text
    assert "| **tiny:1m, this run** | **12.5** |" in markdown.read_text()


def test_problems_are_shown_one_by_one(runs: Path, tmp_path: Path) -> None:
    html, _ = write_report([runs], tmp_path / "report", most=1)
    text = html.read_text()
    assert "1 problem, one by one (of 2)" in text
    assert "prompt 1" in text and "prompt 0" not in text  # the failed one comes first


def test_two_runs_of_one_model_have_two_names(runs: Path, tmp_path: Path) -> None:
    found = find_runs([runs])
    (first,) = (run for run in found if run.suite == "humaneval" and not run.temperature)
    assert first.label(found) == "tiny:1m"
    twin = replace(first, folder=tmp_path / "again")
    assert twin.label([*found, twin]) == "tiny:1m (again)"
    sampled = next(run for run in found if run.temperature)
    assert sampled.label(found).startswith("tiny:1m, T\N{NO-BREAK SPACE}0.")
    suites = list(SUITES)
    places = [suites.index(run.suite) for run in found]
    assert places == sorted(places)


def test_without_runs_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"no scored runs.*begin with"):
        write_report([tmp_path], tmp_path / "report")


def test_the_papers_numbers_are_the_papers() -> None:
    """A spot check against the fact sheet: sums of columns, since a slip changes one."""
    rows = dict(TABLES["humaneval"].rows)
    assert rows["Code Llama 34B"] == (48.8, 76.8, 93.0)
    assert sum(row[0] for row in rows.values()) == pytest.approx(636.2)  # type: ignore[misc]
    assert sum(row[1][0] for row in TABLES["mbpp"].rows) == pytest.approx(764.8)  # type: ignore[misc]
    assert min(FIGURE_4A["Code Llama 34B"].values()) == 1.272
