"""Grammars as constraints: pure functions of the tokens so far, asked in any order."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codellama.engine.constrain import Grammar, Grammars
from codellama.engine.engine import Engine
from codellama.engine.params import SamplingParams
from codellama.engine.request import Request
from codellama.errors import RequestError
from fakes import ByteTokenizer, FakeRunner

TOKENIZER = ByteTokenizer(words=["true", "false", '{"', '":', "yes", "no"])
VOCAB = TOKENIZER.vocab_size + 3  # embeddings are padded
STOPS = frozenset({257, 263})


@pytest.fixture(scope="module")
def grammars() -> Grammars:
    return Grammars(
        TOKENIZER.piece,
        TOKENIZER.vocab_size,
        vocab_size=VOCAB,
        stop_ids=STOPS,
        encode=lambda raw: list(raw),
    )


def allowed(grammar: Grammar, text: str) -> set[str]:
    mask = grammar(TOKENIZER._encode(text))
    return {
        TOKENIZER.piece(i).decode("latin1") for i in mask.nonzero()[0] if i < 270 and i not in STOPS
    }


def test_gbnf_and_lark(grammars: Grammars) -> None:
    for text in ('root ::= "yes" | "no"', 'start: "yes" | "no"'):
        assert allowed(grammars.grammar(text), "") == {"y", "n", "yes", "no"}
    mask = grammars.grammar('root ::= "yes"')(TOKENIZER._encode("yes"))
    assert {int(i) for i in mask.nonzero()[0]} == STOPS


def test_regex(grammars: Grammars) -> None:
    grammar = grammars.regex("[ab]{2}c?")
    assert allowed(grammar, "") == {"a", "b"}
    assert allowed(grammar, "ab") == {"c"}
    assert grammar(TOKENIZER._encode("ab"))[257], "it may end here, too"


@pytest.mark.parametrize(
    "make, text",
    [
        ("grammar", "root ::= ("),
        ("grammar", "start: ("),
        ("regex", "("),
        ("regex", "a" * (1 << 19)),
        ("json_schema", '{"type": "nothing"}'),
        ("json_schema", "no json"),
    ],
)
def test_what_is_no_grammar_is_one_line(grammars: Grammars, make: str, text: str) -> None:
    with pytest.raises(RequestError) as error:
        getattr(grammars, make)(text)
    assert "\n" not in str(error.value)


def test_models_without_an_end_cannot_be_constrained() -> None:
    with pytest.raises(RequestError, match="end-of-text"):
        Grammars(TOKENIZER.piece, 256, vocab_size=256, stop_ids=frozenset(), encode=list)


SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "boolean"}, "b": {"enum": ["x", "y"]}},
    "required": ["a", "b"],
    "additionalProperties": False,
}


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(['{"a":true,"b":"x"}', '{"a": false, "b": "y"}']), st.integers(0, 18)
        ),
        min_size=1,
        max_size=12,
    )
)
def test_any_order_of_questions_gives_the_same_masks(
    grammars: Grammars, questions: list[tuple[str, int]]
) -> None:
    """As pre-emption, forks and drafts ask."""
    shared = grammars.json_schema(SCHEMA)
    for text, length in questions:
        tokens = TOKENIZER._encode(text)[:length]
        alone = grammars.json_schema(SCHEMA)
        assert (shared(tokens) == alone(tokens)).all()


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 3))
def test_constrained_answers_of_random_logits_fit_the_schema(
    grammars: Grammars, seed: int, n: int
) -> None:
    runner = FakeRunner(vocab_size=VOCAB, n_blocks=64)
    engine = Engine(runner, stop_ids=STOPS)
    request = Request(
        prompt_ids=(1, 2),
        params=SamplingParams(max_tokens=200, temperature=1.0, seed=seed, speculate=True),
        n=n,
        constraint=grammars.json_schema(SCHEMA),
    )
    for output in engine.generate([request]):
        text = TOKENIZER.decode(list(output.ids))
        if output.finish_reason == "stop":
            value = json.loads(text)
            assert isinstance(value["a"], bool) and value["b"] in ("x", "y")
