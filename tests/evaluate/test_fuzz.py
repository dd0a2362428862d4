"""Bytes from files and from candidates: every parser answers or refuses, none breaks."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from codellama.errors import RequestError
from codellama.evaluate.bleu import sentence_bleu
from codellama.evaluate.contamination import functions
from codellama.evaluate.gsm8k import final_number
from codellama.evaluate.infilling import documented
from codellama.evaluate.inside.rpc import Candidate, Channel, Judge, judge
from codellama.evaluate.records import Appender, read_lines

RELAXED = settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["t", "d", "s", "q", "h", "b", "c", "y", "x"]), inner)
    ),
    max_leaves=8,
)
PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.complex_numbers(allow_nan=False),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text() | st.integers(), inner, max_size=4)
        | st.frozensets(st.integers() | st.text(), max_size=4)
    ),
    max_leaves=12,
)


@RELAXED
@given(raw=st.binary(max_size=200))
def test_record_files(raw: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(raw)
    with contextlib.suppress(RequestError):
        assert all(isinstance(record, dict) for record in read_lines(path, torn=True))
    with Appender(path) as file:
        file.write({"a": 1})
    assert path.read_bytes().endswith(b'{"a": 1}\n')


@RELAXED
@given(value=PLAIN)
def test_plain_values_cross_and_come_back_equal(value: Any) -> None:
    channel: Any = None
    sent = json.loads(json.dumps(Candidate(channel).encode(value)))
    got = Judge(channel).decode(sent)
    assert got == value
    assert type(got) is type(value)


@RELAXED
@given(data=JSON)
def test_the_judge_decodes_or_refuses(data: Any) -> None:
    channel: Any = None
    with contextlib.suppress(Exception):
        Judge(channel).decode(data)


@RELAXED
@given(raw=st.binary(max_size=300))
def test_the_judge_survives_any_bytes(raw: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a candidate sends, the verdict is "failed"."""
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.sendall(raw)
    task = json.dumps({"prelude": "", "remote": ["f"], "tests": "assert f(1) == 2"})
    reader, writer = os.pipe()
    os.write(writer, task.encode())
    os.close(writer)
    with os.fdopen(reader) as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        channel = Channel(ours.detach())
        try:
            assert judge(channel)["verdict"] == "failed"
        finally:
            channel.reader.close()
            with contextlib.suppress(OSError):
                channel.writer.close()


@RELAXED
@given(text=st.text(max_size=80))
def test_texts_of_models(text: str) -> None:
    final_number(text)
    functions(text)
    documented("a.py", text)
    assert 0.0 <= sentence_bleu(text, "return the sum of x") <= 100.0
