"""Answers that end where the file parses, and nowhere else."""

from __future__ import annotations

import pytest

from codellama.engine.engine import Engine
from codellama.engine.params import SamplingParams
from codellama.engine.python_gap import PythonGap, parses
from codellama.engine.python_prefix import can_go_on
from codellama.engine.request import Request
from codellama.engine.sampling import MOST_REJECTED, Sampler
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


def test_a_model_is_led_around_dead_ends() -> None:
    """It wants to say nonsense at every turn, and would say Python next; the same for draws."""
    wishes = ["=)", "= ", "=x", " 2", "\n", " y", "y", "\n"]
    wants = "x = y\n"

    def logits(history: list[int]) -> object:
        import numpy as np

        row, n = np.full(264, -20.0, np.float32), len(history) - 1
        for rank, letter in enumerate(wishes[n % len(wishes)] if n else ")]}"):
            row[ord(letter)] = 30.0 - rank
        row[ord(wants[min(n, len(wants) - 1)])] = 20.0
        row[257] = 10.0 if n < len(wants) else 50.0
        return row

    for temperature in (0.0, 0.5):
        engine = Engine(FakeRunner(vocab_size=264, logits=logits), stop_ids=STOPS)  # type: ignore[arg-type]
        params = SamplingParams(max_tokens=12, temperature=temperature, seed=1)
        request = Request(prompt_ids=(1,), params=params, constraint=gap("", ""))
        (output,) = engine.generate([request])
        text = TOKENIZER.decode(list(output.ids))
        assert can_go_on(text) and text[0] not in ")]}", text
        assert output.finish_reason != "stop" or parses(text)


def test_where_all_is_rejected_the_first_wish_is_taken() -> None:
    import numpy as np

    class Never:
        asked = 0

        def __call__(self, output: list[int]) -> None:
            return None

        def rejects(self, output: list[int], token: int) -> bool:
            self.asked += 1
            return True

    for size, asked in ((3, 3), (100, MOST_REJECTED)):
        never = Never()
        row = np.arange(size, dtype=np.float32)
        assert Sampler(SamplingParams(), seed=0, constraint=never).draw(row, [7], 1) == size - 1
        assert never.asked == asked
        assert (row == np.arange(size)).all(), "the runner's row is not ours to change"


def test_a_prefix_that_is_no_python_is_not_steered() -> None:
    broken = gap("x = = 1\n", "\n")
    assert not any(broken.rejects([], ord(letter)) for letter in ")x\n")
    sound = gap("import os\n\n\ndef f(x):\n    return (x", "\n")
    assert sound.rejects([], ord("]")) and not sound.rejects([], ord(")"))
    assert not sound.rejects([], 257), "stop tokens are the mask's"
    assert sound._block.startswith("def f"), "what is whole is not parsed again"


def test_hostile_texts() -> None:
    assert not parses("(" * 10_000)
    assert not parses("\x00")
    assert parses("x = '\\d'")
    with pytest.raises(RequestError, match="characters"):
        gap("x" * 500_000, "")
