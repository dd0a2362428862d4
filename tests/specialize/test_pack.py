"""Rows: nothing lost, nothing cut that should be whole, one order for everyone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codellama.errors import RequestError
from codellama.specialize.base import load_base
from codellama.specialize.dataset import Document, build_dataset
from codellama.specialize.fim import reassemble
from codellama.specialize.pack import best_fit, plan_rows, shuffled
from codellama.specialize.recipe import Infilling, Optimizer, Recipe

RECIPE = Recipe(
    name="test", tokens=6000, batch_tokens=256, sequence=128, mix=(("code", 1.0),),
    optimizer=Optimizer(learning_rate=1e-3), infilling=Infilling(),
)  # fmt: skip


@given(lengths=st.lists(st.integers(1, 50), max_size=200))
def test_best_fit(lengths: list[int]) -> None:
    bins = best_fit(lengths, 50)
    assert sorted(i for bin in bins for i in bin) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in bin) <= 50 for bin in bins)
    fewest = -(-sum(lengths) // 50)
    assert len(bins) <= 11 / 9 * max(fewest, sum(2 * n > 50 for n in lengths)) * 1.2 + 1


def test_best_fit_refuses_what_cannot_fit() -> None:
    with pytest.raises(ValueError, match="51 tokens"):
        best_fit([3, 51], 50)


def test_order_depends_on_the_key_alone() -> None:
    assert shuffled(100, "a") == shuffled(100, "a") != shuffled(100, "b")
    assert shuffled(5, "pinned") == [3, 0, 1, 4, 2]
    plan = plan_rows([[0, 1], [2], [3, 4, 5]], "k")
    assert sorted(plan.pieces.tolist()) == list(range(6))
    assert sorted(len(plan.row(i)) for i in range(3)) == [1, 2, 3]


@pytest.mark.parametrize("whole", [True, False])
def test_documents_are_whole_or_left_to_right(
    tiny_base: Path, documents: list[Document], whole: bool
) -> None:
    base = load_base(tiny_base, infill=True)
    recipe = replace(RECIPE, whole=whole)
    data = build_dataset(recipe, {"code": documents}, base.tokenizer, base.end, None)
    texts = {document.id: document.text for document in documents}
    sentinels = base.tokenizer.infill
    assert sentinels is not None
    seen = set()
    for index in range(len(data.plan)):
        row = data.row(index)
        assert sum(row.lengths) == len(row.tokens_T) <= 128
        at = np.concatenate([[0], np.cumsum(row.lengths)])
        for owner, a, b in zip(row.documents, at, at[1:], strict=False):
            piece = row.tokens_T[a:b].tolist()
            if sentinels.pre in piece:
                assert piece[-1] == base.end and piece[-2] == sentinels.eot
                assert reassemble(base.tokenizer, piece) == texts[owner]
                seen.add(owner)
            else:
                assert sentinels.mid not in piece and sentinels.eot not in piece
                assert base.tokenizer.decode(piece) in texts[owner]
    assert len(seen) > 4
    assert 0.1 < data.infilled < 0.9
    assert abs(data.tokens - recipe.tokens) < 1100


def test_plain_sets_stay_left_to_right(tiny_base: Path, documents: list[Document]) -> None:
    base = load_base(tiny_base, infill=True)
    assert RECIPE.infilling is not None
    recipe = replace(
        RECIPE,
        mix=(("code", 0.5), ("nl", 0.5)),
        infilling=replace(RECIPE.infilling, rate=1.0, plain=("nl",)),
    )
    half = len(documents) // 2
    corpus = {"code": documents[:half], "nl": documents[half:]}
    data = build_dataset(recipe, corpus, base.tokenizer, base.end, None)
    plain = {document.id for document in corpus["nl"]}
    sentinels = base.tokenizer.infill
    assert sentinels is not None
    rearranged = set()
    for index in range(len(data.plan)):
        row = data.row(index)
        at = np.concatenate([[0], np.cumsum(row.lengths)])
        for owner, a, b in zip(row.documents, at, at[1:], strict=False):
            if sentinels.pre in row.tokens_T[a:b].tolist():
                rearranged.add(owner)
    assert rearranged and not rearranged & plain
    assert plain & set(data.owners)


def test_a_second_build_reads_what_the_first_wrote(
    tiny_base: Path, documents: list[Document], tmp_path: Path
) -> None:
    base = load_base(tiny_base, infill=True)
    arguments = (RECIPE, {"code": documents}, base.tokenizer, base.end)
    fresh, kept = build_dataset(*arguments, None), build_dataset(*arguments, tmp_path)
    again = build_dataset(*arguments, tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
    for data in (kept, again):
        assert len(data.plan) == len(fresh.plan)
        for i in range(len(fresh.plan)):
            assert np.array_equal(data.row(i).tokens_T, fresh.row(i).tokens_T)
            assert data.row(i).documents == fresh.row(i).documents
    assert fresh.epochs["code"] == again.epochs["code"] > 0.5


def test_shares_are_by_tokens(tiny_base: Path, documents: list[Document]) -> None:
    base = load_base(tiny_base, infill=False)
    half = len(documents) // 2
    corpus = {"code": documents[:half], "nl": [Document("n", "word " * 30)]}
    recipe = replace(RECIPE, mix=(("code", 0.75), ("nl", 0.25)), infilling=None)
    data = build_dataset(recipe, corpus, base.tokenizer, base.end, None)
    natural = sum(
        n for i in range(len(data.plan))
        for n, owner in zip(data.row(i).lengths, data.row(i).documents, strict=True) if owner == "n"
    )  # fmt: skip
    assert natural / data.tokens == pytest.approx(0.25, abs=0.03)
    assert data.epochs["nl"] > 5  # one document, again and again: reported


def test_what_is_missing_is_said(tiny_base: Path) -> None:
    base = load_base(tiny_base, infill=False)
    with pytest.raises(RequestError, match="no documents in 'code'; it has: nl"):
        build_dataset(
            replace(RECIPE, infilling=None), {"nl": [Document("a", "b")]}, base.tokenizer, 0, None
        )
    with pytest.raises(RequestError, match="no infilling tokens"):
        build_dataset(RECIPE, {"code": [Document("a", "b")]}, base.tokenizer, 0, None)


def test_documents_without_text_are_said(tiny_base: Path) -> None:
    base = load_base(tiny_base, infill=False)
    with pytest.raises(RequestError, match="hold no text"):
        build_dataset(
            replace(RECIPE, infilling=None), {"code": [Document("a", "")]}, base.tokenizer, None,
            None,
        )  # fmt: skip
