"""Answers that end where the file parses, and nowhere else."""

from __future__ import annotations

import pytest

from codellama.engine.engine import Engine
from codellama.engine.python_gap import PythonGap, parses
from codellama.engine.request import Request, SamplingParams
from codellama.errors import RequestError
from fakes import ByteTokenizer, FakeRunner

TOKENIZER = ByteTokenizer()
STOPS = frozenset({257})


def gap(prefix: str, suffix: str) -> PythonGap:
    return PythonGap(prefix, suffix, piece=TOKENIZER.piece, vocab_size=264, stop_ids=STOPS)


@pytest.mark.parametrize(
    "middle, may_end", [("x", True), ("x + (", False), ("x + (1)", True), ("'", False), ("é", True)]
)
def test_where_an_answer_may_end(middle: str, may_end: bool) -> None:
    mask = gap("def f(x):\n    return ", "\n")(list(middle.encode()))
    assert (mask is None) == may_end
    assert mask is None or (not mask[257] and mask.sum() == 263)


def test_half_a_character_is_no_end() -> None:
    assert gap("x = '", "'\n")(list("é".encode()[:1])) is not None


def test_random_logits_end_only_in_python() -> None:
    """A model that would stop at every step, were it let."""

    def logits(history: list[int]) -> object:
        import numpy as np

        row = np.random.default_rng(len(history)).standard_normal(264).astype(np.float32)
        row[257] = 50.0
        row[ord(")")] = 40.0  # what it says when it may not stop
        return row

    engine = Engine(FakeRunner(vocab_size=264, logits=logits), stop_ids=STOPS)  # type: ignore[arg-type]
    constraint = gap("print((((1", "\n")
    request = Request(prompt_ids=(1,), params=SamplingParams(max_tokens=20), constraint=constraint)
    (output,) = engine.generate([request])
    assert TOKENIZER.decode(list(output.ids)) == "))))" and output.finish_reason == "stop"
    assert constraint.masks == 5 and constraint.seconds > 0


def test_hostile_texts() -> None:
    assert not parses("(" * 10_000)
    assert not parses("\x00")
    assert parses("x = '\\d'")
    with pytest.raises(RequestError, match="characters"):
        gap("x" * 500_000, "")
