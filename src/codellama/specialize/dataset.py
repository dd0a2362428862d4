"""A corpus as training rows: draw documents by the mix, rearrange, tokenize, pack. Built once per
(recipe, corpus, tokenizer), kept as memory-mapped arrays, read by any number of ranks.

A document that fits a row is whole: it may be rearranged for infilling and is never cut. A longer
one stays left to right and is cut into rows. Where the recipe does not ask for whole documents
(`whole=False`, the paper's packing), documents follow each other and the one that crosses the end
of a row is cut and stays left to right.

Each set of the mix gives its share of the tokens, in shuffled order, again from the start when it
is used up: how often is in `Dataset.epochs`. Every epoch draws new middles.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from codellama.errors import RequestError
from codellama.model.tokenizer_base import Tokenizer
from codellama.specialize.fim import (
    Encoded,
    draws,
    encode_plain,
    encode_split,
    split,
)
from codellama.specialize.pack import Plan, best_fit, plan_rows, shuffled
from codellama.specialize.recipe import Recipe
from codellama.weights.files import atomic_folder, read_json, synced_write

__all__ = ["Dataset", "Document", "Row", "build_dataset"]

Corpus = Mapping[str, Sequence["Document"]]

_LONGEST = 4_000_000  # characters of one document; longer ones are data, not code


class Document(NamedTuple):
    """A text of the corpus. `id` is unique and stable: it enters the random draws."""

    id: str
    text: str
    language: str = "python"
    messages: tuple[tuple[str, str], ...] = ()
    """(role, content) turns of an instruction example; then `text` is empty."""


class Row(NamedTuple):
    """What is trained on at once: pieces one after another; `lengths` adds up to T."""

    tokens_T: npt.NDArray[np.int64]
    weights_T: npt.NDArray[np.float32]
    lengths: list[int]
    documents: list[str]


@dataclass(frozen=True, slots=True)
class Dataset:
    """Rows in training order.

    Attributes:
        infilled: share of documents that were rearranged (the effective rate).
        epochs: passes over each set.
        tokens: in all rows, without padding.
    """

    plan: Plan
    flat: npt.NDArray[np.uint32]
    flat_weights: npt.NDArray[np.float16]
    spans: npt.NDArray[np.int64]  # [pieces, 2]: begin and end in `flat`
    owners: list[str]
    infilled: float
    epochs: dict[str, float]

    @property
    def tokens(self) -> int:
        return int((self.spans[:, 1] - self.spans[:, 0]).sum())

    def row(self, index: int) -> Row:
        pieces = self.plan.row(index)
        ranges = [slice(*self.spans[piece]) for piece in pieces]
        return Row(
            np.concatenate([self.flat[r] for r in ranges]).astype(np.int64),
            np.concatenate([self.flat_weights[r] for r in ranges]).astype(np.float32),
            [r.stop - r.start for r in ranges],
            [self.owners[piece] for piece in pieces],
        )


class _Builder:
    """Collects encoded pieces and the rows that they form."""

    def __init__(self, recipe: Recipe, template: str | None) -> None:
        self.recipe, self.template = recipe, template
        self.ids: list[npt.NDArray[np.uint32]] = []
        self.weights: list[npt.NDArray[np.float16]] = []
        self.lengths: list[int] = []
        self.owners: list[str] = []
        self.rows: list[list[int]] = []
        self.documents = self.infilled = 0
        self._loose: list[int] = []
        self._free = 0

    def add(self, encoded: Encoded, owner: str) -> None:
        """One document; cut where it must be."""
        start, size = 0, len(encoded.ids)
        while start < size:
            room = self.recipe.sequence if self.recipe.whole else self.room
            self._piece(encoded, start, min(start + room, size), owner)
            start += room

    @property
    def room(self) -> int:
        """Tokens that the row under way still takes; a whole row where rows are packed later."""
        return self.recipe.sequence if self.recipe.whole or not self._free else self._free

    def _piece(self, encoded: Encoded, begin: int, end: int, owner: str) -> None:
        index = len(self.lengths)
        self.ids.append(np.array(encoded.ids[begin:end], np.uint32))
        self.weights.append(np.array(encoded.weights[begin:end], np.float16))
        self.lengths.append(end - begin)
        self.owners.append(owner)
        if self.recipe.whole:
            self._loose.append(index)
            return
        if not self._free:
            self.rows.append([])
            self._free = self.recipe.sequence
        self.rows[-1].append(index)
        self._free -= end - begin

    def finish(self, epochs: dict[str, float]) -> Dataset:
        rows = self.rows
        if self.recipe.whole:
            rows = best_fit(self.lengths, self.recipe.sequence)
        ends = np.cumsum(self.lengths)
        return Dataset(
            plan_rows(rows, self.recipe.key),
            np.concatenate(self.ids),
            np.concatenate(self.weights),
            np.stack([ends - self.lengths, ends], axis=1).astype(np.int64),
            self.owners,
            self.infilled / max(1, self.documents),
            epochs,
        )


def build_dataset(
    recipe: Recipe,
    corpus: Corpus,
    tokenizer: Tokenizer,
    end: int | None,
    folder: Path | None,
    *,
    template: str | None = None,
) -> Dataset:
    """All rows of a stage, from `folder` if they were built there before.

    Args:
        end: id that ends a document, None for none.
        folder: where to keep them; None keeps them in memory only.
        template: the model's chat template, for conversations.

    Raises:
        RequestError: a set of the mix is missing or empty, or the vocabulary cannot infill.
    """
    if recipe.infilling is not None and recipe.infilling.rate > 0 and tokenizer.infill is None:
        raise RequestError(f"{recipe.name} infills, but the vocabulary has no infilling tokens")
    stamp = _stamp(recipe, corpus, tokenizer)
    if folder is not None and (target := folder / stamp).is_dir():
        return _load(target)
    builder, epochs = _Builder(recipe, template), {}
    for name, share in recipe.mix:
        if not corpus.get(name):
            known = ", ".join(name for name, documents in corpus.items() if documents) or "none"
            raise RequestError(f"the corpus has no documents in {name!r}; it has: {known}")
        epochs[name] = _take(builder, name, corpus[name], share, tokenizer, end)
    dataset = builder.finish(epochs)
    if folder is not None:
        _save(dataset, folder / stamp)
        return _load(folder / stamp)
    return dataset


def _take(
    builder: _Builder,
    name: str,
    documents: Sequence[Document],
    share: float,
    tokenizer: Tokenizer,
    end: int | None,
) -> float:
    """Add one set's share of the tokens; returns the passes over it that this took."""
    recipe = builder.recipe
    missing, epoch = round(share * recipe.tokens), 0
    while True:
        left = missing
        order = shuffled(len(documents), f"{recipe.key}\0{name}\0{epoch}")
        for place, index in enumerate(order):
            before = len(builder.lengths)
            _add(builder, documents[index], name, epoch, tokenizer, end)
            missing -= sum(builder.lengths[before:])
            if missing <= 0:
                return epoch + (place + 1) / len(documents)
        epoch += 1
        if missing == left:
            raise RequestError(f"the documents in {name!r} hold no text")


def _add(
    builder: _Builder,
    document: Document,
    name: str,
    epoch: int,
    tokenizer: Tokenizer,
    end: int | None,
) -> None:
    """A document of the set `name`."""
    recipe = builder.recipe
    builder.documents += 1
    if document.messages:
        from codellama.specialize.instruct import encode_chat

        chat = encode_chat(tokenizer, document.messages, recipe.sequence, builder.template)
        builder.add(chat, document.id)
        return
    text = document.text[:_LONGEST]
    if recipe.infilling is not None and name not in recipe.infilling.plain:
        numbers = draws(recipe.key, document.id, epoch)
        parts = split(text, recipe.infilling, numbers, document.language)
        # Code has 3 to 4 characters a token: what has more than 12 of them for each place in a row
        # does not fit one, and need not be encoded to know it.
        if parts is not None and len(text) <= 12 * recipe.sequence:
            rearranged = encode_split(tokenizer, parts, recipe.infilling, end)
            if len(rearranged.ids) <= builder.room:
                builder.add(rearranged, document.id)
                builder.infilled += 1
                return
    builder.add(encode_plain(tokenizer, text, end), document.id)


def _stamp(recipe: Recipe, corpus: Corpus, tokenizer: Tokenizer) -> str:
    """Changes with the recipe, any document, and the vocabulary."""
    digest = hashlib.sha256(recipe.key.encode())
    for name in sorted(corpus):
        for document in corpus[name]:
            digest.update(f"{name}\0{document.id}\0{len(document.text)}\0".encode())
    digest.update("\0".join(tokenizer.pieces).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:16]


def _save(dataset: Dataset, target: Path) -> None:
    with atomic_folder(target) as draft:
        arrays: dict[str, npt.NDArray[Any]] = {
            "flat": dataset.flat, "weights": dataset.flat_weights, "spans": dataset.spans,
            "pieces": dataset.plan.pieces, "starts": dataset.plan.starts,
        }  # fmt: skip
        for name, array in arrays.items():
            np.save(draft / f"{name}.npy", array)
        about = {
            "owners": dataset.owners, "infilled": dataset.infilled, "epochs": dataset.epochs,
        }  # fmt: skip
        synced_write(draft / "about.json", json.dumps(about).encode())


def _load(folder: Path) -> Dataset:
    arrays = {
        name: np.load(folder / f"{name}.npy", mmap_mode="r")
        for name in ("flat", "weights", "spans", "pieces", "starts")
    }
    about = read_json(folder / "about.json", 1 << 32)
    return Dataset(
        Plan(arrays["pieces"], arrays["starts"]),
        arrays["flat"],
        arrays["weights"],
        arrays["spans"],
        about["owners"],
        about["infilled"],
        about["epochs"],
    )
