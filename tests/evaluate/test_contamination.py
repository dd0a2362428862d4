"""Overlap with benchmarks: copies and renamed copies are found, boilerplate is not."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from codellama.errors import NotFoundError, RequestError
from codellama.evaluate.contamination import documents, functions, overlaps
from codellama.evaluate.data import Data
from codellama.evaluate.suites import make_suite


def test_a_copied_problem_is_found() -> None:
    suite = make_suite("humaneval", Data())
    problem = suite.problems()[10]
    text = problem.prompt + problem.data["canonical_solution"]
    (row,) = overlaps([("copy.py", f"import os\n\n{text}"), ("else.py", "x = 1")], [suite])
    assert row.problems == 164
    assert row.mostly == 1
    assert row.same_function >= 1
    assert (problem.task_id, "copy.py") in row.examples
    assert row.share == pytest.approx(1 / 164, abs=0.003)


def test_a_renamed_copy_is_found_by_its_tree() -> None:
    suite = make_suite("humaneval", Data())
    problem = suite.problems()[0]
    code = problem.prompt + problem.data["canonical_solution"]
    start = code.index("for idx")
    body = code[start:].replace("idx", "k").replace("elem", "z").replace("distance", "gap")
    renamed = f"def near(a, limit):\n    {body}".replace("numbers", "a").replace(
        "threshold", "limit"
    )
    (row,) = overlaps([("renamed.py", renamed)], [suite])
    assert row.same_function == 1
    assert row.mostly == 0


def test_a_clean_corpus_touches_nothing() -> None:
    suite = make_suite("humaneval", Data())
    text = "def f(x):\n    y = x + 1\n    z = y * 2\n    return z, y, x\n" * 50
    (row,) = overlaps([("a.py", text)], [suite])
    assert (row.touched, row.mostly, row.same_function, row.share) == (0, 0, 0, 0.0)


def test_the_frame_of_a_suite_is_not_its_problems(data: Data) -> None:
    """MBPP's prompt has the same words around each task, MultiPL-E's programs the same head."""
    suite = make_suite("multipl-e-java", data)
    head = suite.problems()[0].prompt.split("class Problem")[0]
    (row,) = overlaps([("head.java", head)], [suite])
    assert row.touched == 0


def test_function_shapes() -> None:
    first = functions('def f(a: int) -> int:\n    """Doc."""\n    b = a\n    c = b\n    return c\n')
    same = functions("def g(x):\n    y = x  # other\n    z = y\n    return z\n")
    other = functions("def g(x):\n    y = x\n    z = x\n    return z\n")
    assert first == same != other
    assert functions("def f(:") == functions("def f(x): return x") == set()


def test_corpora_are_folders_or_lines(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.py").write_text("x = 1")
    assert list(documents(tmp_path)) == [("sub/a.py", "x = 1")]
    path = tmp_path / "c.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps({"path": "p", "text": "t"}).encode()))
    assert list(documents(path)) == [("p", "t")]
    built = tmp_path / "built"  # what `codellama corpus build` leaves: manifest, shards, the rest
    (built / "shards").mkdir(parents=True)
    (built / "manifest.json").write_text("{}")
    (built / "shards" / "a.jsonl.gz").write_bytes(b"not text")
    path.rename(built / "kept.jsonl.gz")
    assert list(documents(built)) == [("p", "t")]
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"content": "t"}\n{"x": 1}\n')
    with pytest.raises(RequestError, match="line 2"):
        list(documents(bad))
    with pytest.raises(NotFoundError):
        list(documents(tmp_path / "none"))
