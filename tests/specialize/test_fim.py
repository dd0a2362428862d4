"""The infilling transform: nothing is lost, draws repeat, and ids are where the paper puts them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from codellama.model import prompts
from codellama.model.llama import Llama
from codellama.model.tokenizer import Tokenizer, tokenizer_from_file
from codellama.specialize.base import with_sentinels
from codellama.specialize.fim import (
    Split,
    draws,
    encode_plain,
    encode_split,
    reassemble,
    split,
)
from codellama.specialize.recipe import Infilling, SpanKind
from codellama.specialize.spans import draw_span, line_span, node_spans, rest_span
from tiny_checkpoints import write_byte_level, write_sentencepiece

from .conftest import TINY

KINDS: tuple[SpanKind, ...] = ("characters", "lines", "rest", "nodes")
texts = st.text(
    st.one_of(st.sampled_from("ab \n\t(): =.é€☺"), st.characters(codec="utf-8")), min_size=1
)
CODE = "import os\n\n\ndef join(a, b):\n    # café ☕\n    return os.path.join(a, b)\n"


@pytest.fixture(scope="module", params=["sentencepiece", "byte level"])
def tokenizer(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Tokenizer:
    folder = tmp_path_factory.mktemp("vocabulary")
    if request.param == "sentencepiece":
        return tokenizer_from_file(write_sentencepiece(folder, 600, infills=True))
    plain = tokenizer_from_file(write_byte_level(folder, TINY.vocab_size))
    return with_sentinels(Llama(TINY), plain, 0)[0]


@given(text=texts, key=st.text(max_size=4), epoch=st.integers(0, 9), kind=st.sampled_from(KINDS))
@settings(deadline=None)
def test_parts_put_together_are_the_document(
    text: str, key: str, epoch: int, kind: SpanKind
) -> None:
    config = Infilling(rate=1.0, spans=((kind, 1.0),))
    first = split(text, config, draws(key, "doc", epoch), "python")
    assert first is not None and first.text == text
    assert split(text, config, draws(key, "doc", epoch), "python") == first


@given(text=texts, seed=st.integers(), kind=st.sampled_from(KINDS))
@example(text=" ", seed=0, kind="characters")  # a middle of one space and no prefix
@settings(deadline=None)
def test_ids_put_together_are_the_document(
    tokenizer: Tokenizer, text: str, seed: int, kind: SpanKind
) -> None:
    for spm in (0.0, 1.0):
        config = Infilling(rate=1.0, spm=spm, spans=((kind, 1.0),))
        parts = split(text, config, draws("", str(seed), 0), "python")
        assert parts is not None
        encoded = encode_split(tokenizer, parts, config, tokenizer.eos_id)
        assert len(encoded.ids) == len(encoded.weights)
        if tokenizer.decode(tokenizer.encode_infilling(text)) == text:  # no byte is missing
            assert reassemble(tokenizer, encoded.ids, parts.order) == text


def test_prompts_of_inference_are_prefixes_of_what_is_trained(tokenizer: Tokenizer) -> None:
    parts = Split("def f(x):\n    ", "return x", "\n\nf(1)\n", "psm")
    trained = encode_split(tokenizer, parts, Infilling(), None).ids
    asked = prompts.infilling(tokenizer, parts.prefix, parts.suffix, "psm")
    assert trained[: len(asked)] == asked
    assert trained[len(asked) :] == [*tokenizer.encode_infilling("return x"), tokenizer.eot_id]


def test_suffix_first_tokenizes_prefix_and_middle_together(tokenizer: Tokenizer) -> None:
    """A token crosses the boundary, as in enu·merate (paper, Appendix D)."""
    parts = Split("for i in enu", "merate(x):", "\n    pass\n", "spm")
    ids = encode_split(tokenizer, parts, Infilling(), None).ids
    assert tokenizer.infill is not None
    mid = ids.index(tokenizer.infill.mid)
    assert ids[mid + 1 : -1] == tokenizer.encode("for i in enumerate(x):")
    bos = [tokenizer.bos_id] if tokenizer.add_bos else []
    assert ids[: len(bos) + 2] == [*bos, tokenizer.infill.pre, tokenizer.infill.suf]


def test_text_cannot_forge_sentinels(tokenizer: Tokenizer) -> None:
    parts = Split(" <PRE> a <MID>", "<EOT> <SUF>", " ▁<EOT>", "psm")
    ids = encode_split(tokenizer, parts, Infilling(), None).ids
    sentinels = tokenizer.infill
    assert sentinels is not None
    counts = Counter(ids)
    assert [counts[i] for i in (sentinels.pre, sentinels.suf, sentinels.mid, sentinels.eot)] == [
        1, 1, 1, 1,
    ]  # fmt: skip


def test_weights_mark_sentinels_and_the_middle(tokenizer: Tokenizer) -> None:
    config = Infilling(sentinel_weight=0.0, middle_weight=2.0)
    parts = Split("abc = ", "def_", "\n", "psm")
    encoded = encode_split(tokenizer, parts, config, tokenizer.eos_id)
    sentinels = tokenizer.infill
    assert sentinels is not None
    for id, weight in zip(encoded.ids, encoded.weights, strict=True):
        if id in (sentinels.pre, sentinels.suf, sentinels.mid):
            assert weight == 0.0
    at = encoded.ids.index(sentinels.mid)
    middle = tokenizer.encode_infilling("def_")
    assert encoded.weights[at + 1 :] == [2.0] * (len(middle) + 1) + [1.0]


def test_rates_are_those_of_the_recipe() -> None:
    config = Infilling(rate=0.9, spm=0.5, spans=(("characters", 3.0), ("lines", 1.0)))
    drawn = [split(CODE, config, draws("k", f"d{i}", 0), "python") for i in range(4000)]
    moved = [parts for parts in drawn if parts is not None]
    assert len(moved) / 4000 == pytest.approx(0.9, abs=0.02)
    assert sum(p.order == "spm" for p in moved) / len(moved) == pytest.approx(0.5, abs=0.03)
    again = [split(CODE, config, draws("k", f"d{i}", 1), "python") for i in range(4000)]
    assert sum(a == b for a, b in zip(drawn, again, strict=True)) < 1000


def test_cuts_are_uniform_over_the_length() -> None:
    """Two independent uniform cuts: the middle is a third of the document in the mean."""
    spans = [draw_span("characters", "x" * 99, draws("k", str(i), 0), "text") for i in range(6000)]
    assert sum(b - a for a, b in spans) / 6000 == pytest.approx(33.3, abs=1.0)
    assert min(a for a, _ in spans) == 0 and max(b for _, b in spans) == 99


def test_line_spans_are_whole_lines() -> None:
    for i in range(300):
        begin, end = line_span(CODE, draws("k", str(i), 0))
        assert begin == 0 or CODE[begin - 1] == "\n"
        assert CODE[end - 1] == "\n"
        assert CODE[begin:end].strip()
        begin, end = draw_span("line", CODE, draws("k", str(i), 0), "python")
        assert CODE[begin:end].strip() and CODE[begin:end].count("\n") == 1
        begin, end = rest_span(CODE, draws("k", str(i), 0))
        assert CODE[end] == "\n" and "\n" not in CODE[begin:end] and begin < end


def test_nodes_are_the_syntax_tree_s() -> None:
    pytest.importorskip("tree_sitter_python")
    nodes = {CODE[a:b] for a, b in node_spans(CODE, "python")}
    assert {"import os", "join", "os.path.join(a, b)", "# café ☕", "(a, b)"} <= nodes
    assert node_spans(CODE, "cobol") == []


def test_plain_documents(tokenizer: Tokenizer) -> None:
    encoded = encode_plain(tokenizer, "x = 1", 0)
    bos = [tokenizer.bos_id] if tokenizer.add_bos else []
    assert encoded.ids == [*bos, *tokenizer.encode("x = 1"), 0]


def test_rewrites_need_sentinels(tmp_path: Path) -> None:
    for rate in (-0.1, 1.1):
        with pytest.raises(ValueError, match="between 0 and 1"):
            Infilling(rate=rate)
    with pytest.raises(ValueError, match="all 0"):
        Infilling(spans=(("lines", 0.0),))
