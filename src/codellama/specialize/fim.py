"""The infilling transform of the paper (§2.3): a document becomes prefix, middle and suffix, and
token ids in prefix-first (PSM) or suffix-first (SPM) order.

    PSM   <PRE> enc(prefix) <SUF> enc°(suffix) <MID> enc°(middle) <EOT>
    SPM   <PRE> <SUF> enc°(suffix) <MID> enc(prefix + middle) <EOT>        ("SPM variant 2")

enc° encodes without SentencePiece's implicit leading space. In SPM prefix and middle are tokenized
jointly, so no token is split between them. Every draw is a pure function of (recipe, document,
epoch). Where middles lie is spans.py's matter; which documents may be rearranged is pack.py's.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from codellama.model.tokenizer_base import Tokenizer
from codellama.specialize.recipe import Infilling, SpanKind
from codellama.specialize.spans import draw_span

__all__ = ["Encoded", "Split", "draws", "encode_plain", "encode_split", "reassemble", "split"]


Order = Literal["psm", "spm"]


@dataclass(frozen=True, slots=True)
class Split:
    """A document in three parts; prefix + middle + suffix is the document."""

    prefix: str
    middle: str
    suffix: str
    order: Order

    @property
    def text(self) -> str:
        return self.prefix + self.middle + self.suffix


@dataclass(frozen=True, slots=True)
class Encoded:
    """Token ids of one training document, and the weight of each as a target of the loss."""

    ids: list[int]
    weights: list[float]


def draws(key: str, document: str, epoch: int) -> random.Random:
    """The random numbers of one document in one epoch. Only `.random()` is promised to stay the
    same between versions of Python, and only it is used.
    """
    seed = hashlib.blake2b(f"{key}\0{document}\0{epoch}".encode(), digest_size=16).digest()
    return random.Random(int.from_bytes(seed, "little"))


def split(text: str, infilling: Infilling, numbers: random.Random, language: str) -> Split | None:
    """The document rearranged, or None for the share that stays left to right.

    Args:
        text: a whole document.
        numbers: from `draws`; how many are taken depends on the document only.
        language: for spans along the syntax tree.
    """
    chosen, order, kind = numbers.random(), numbers.random(), numbers.random()
    if chosen >= infilling.rate or not text:
        return None
    begin, end = draw_span(_kind(infilling, kind), text, numbers, language)
    return Split(
        text[:begin], text[begin:end], text[end:], "spm" if order < infilling.spm else "psm"
    )


def _kind(infilling: Infilling, drawn: float) -> SpanKind:
    """The kind of span that a number in [0, 1) stands for."""
    mark = drawn * sum(weight for _, weight in infilling.spans)
    for name, weight in infilling.spans:
        mark -= weight
        if mark < 0:
            return name
    return infilling.spans[-1][0]


def encode_plain(tokenizer: Tokenizer, text: str, end: int | None) -> Encoded:
    """A document left to right: BOS where the model has it, text, the end of documents."""
    ids = [*_bos(tokenizer), *tokenizer.encode(text), *([] if end is None else [end])]
    return Encoded(ids, [1.0] * len(ids))


def encode_split(
    tokenizer: Tokenizer, parts: Split, infilling: Infilling, end: int | None
) -> Encoded:
    """A rearranged document. The tokenizer must have the sentinels (`tokenizer.infill`)."""
    sentinels = tokenizer.infill
    assert sentinels is not None
    suffix = tokenizer.encode_infilling(parts.suffix)
    if parts.order == "psm":
        middle = tokenizer.encode_infilling(parts.middle)
        prompt = [sentinels.pre, *tokenizer.encode(parts.prefix), sentinels.suf, *suffix]
        ids, learned = [*prompt, sentinels.mid, *middle, sentinels.eot], len(middle) + 1
    else:
        joint = tokenizer.encode(parts.prefix + parts.middle)
        ids = [sentinels.pre, sentinels.suf, *suffix, sentinels.mid, *joint, sentinels.eot]
        learned = _tokens_at_end(tokenizer, joint, parts.middle) + 1
    marks = (sentinels.pre, sentinels.suf, sentinels.mid)
    weights = [infilling.sentinel_weight if id in marks else 1.0 for id in ids]
    weights[len(ids) - learned :] = [infilling.middle_weight] * learned
    bos, tail = _bos(tokenizer), [] if end is None else [end]
    return Encoded([*bos, *ids, *tail], [1.0] * len(bos) + weights + [1.0] * len(tail))


def reassemble(tokenizer: Tokenizer, ids: Sequence[int], order: Order | None = None) -> str:
    """The document that was rearranged into `ids`, the inverse of the transform.

    Args:
        order: None takes ids without a prefix for suffix-first. With an empty prefix both orders
            have the same sentinels, and SentencePiece's implicit space, which only the joint text
            of suffix-first has, looks like one of the middle's own.

    Raises ValueError when the sentinels are not where the transform puts them.
    """
    sentinels = tokenizer.infill
    assert sentinels is not None
    body = list(ids)
    body = body[body.index(sentinels.pre) + 1 : body.index(sentinels.eot)]
    suf, mid = body.index(sentinels.suf), body.index(sentinels.mid)
    before, suffix, after = body[:suf], body[suf + 1 : mid], body[mid + 1 :]
    joint = not before if order is None else order == "spm"
    first, last = tokenizer.decode(after if joint else before), tokenizer.decode(suffix)
    if tokenizer.kind == "llama" and getattr(tokenizer, "dummy_prefix", True):
        first = first.removeprefix(" ")
    return first + ("" if joint else tokenizer.decode(after)) + last


def _bos(tokenizer: Tokenizer) -> list[int]:
    return [tokenizer.bos_id] if tokenizer.add_bos and tokenizer.bos_id is not None else []


def _tokens_at_end(tokenizer: Tokenizer, ids: Sequence[int], text: str) -> int:
    """How many of the last ids hold any byte of the text's last part `text`."""
    missing, count = len(text.encode()), 0
    while missing > 0 and count < len(ids):
        count += 1
        missing -= len(tokenizer.piece(ids[-count]))
    return count
