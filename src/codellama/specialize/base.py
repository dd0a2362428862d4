"""The model that a stage starts from: dequantized weights, and a vocabulary that can infill.

Three ways to the four sentinels, tried in this order: the vocabulary has them (Code Llama); it has
at least four control tokens that were never trained, whose embeddings are one and the same vector
(SmolLM2: ids 5 and 7 to 16), which are renamed and keep the file's shape; rows are added (Llama 2
→ 32,016 pieces, as the paper did). New rows start apart from each other, because equal ones would
get equal gradients for long; EOT starts near what ends a sequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from codellama.model.config import ModelConfig
from codellama.model.llama import Llama
from codellama.model.tokenizer_base import SENTINELS, InfillIds, Tokenizer
from codellama.model.tokenizer_bpe import ByteLevelTokenizer
from codellama.model.tokenizer_spm import SentencePieceTokenizer
from codellama.weights.load import ModelFile, open_model
from codellama.weights.torch_model import load_llama

__all__ = ["NAMES", "Base", "dead_slots", "end_of_document", "load_base", "with_sentinels"]

NAMES = ("<PRE>", "<SUF>", "<MID>", "<EOT>")
"""The sentinels' pieces in byte-level vocabularies."""

_CODE_LLAMA_PIECES = (
    "▁<SU", "▁<SUF", "▁<PRE", "▁<M", "▁<MID", "▁<E", "▁<EOT", "▁<PRE>", "▁<SUF>", "▁<MID>",
    *("▁" + "<EOT>" * n for n in range(1, 7)),
)  # fmt: skip
_LAST_SCORE = -31_740.0  # of Llama 2's last piece; Code Llama's 16 go on from there
_NORMAL, _CONTROL = 1, 3
_SAME = 0.999


@dataclass(slots=True)
class Base:
    """A model ready to be trained.

    Attributes:
        model: float32 on the CPU.
        tokenizer: with sentinels if they were asked for.
        source: the file it came from.
        new_ids: rows that were initialized here.
        end: id that ends documents.
    """

    model: Llama
    tokenizer: Tokenizer
    source: ModelFile
    new_ids: tuple[int, ...]
    end: int | None


def load_base(path: Path, *, infill: bool, seed: int = 0) -> Base:
    """Open, dequantize, and give the vocabulary its sentinels if `infill`.

    Raises as `open_model` and `load_llama` do.
    """
    source = open_model(path)
    model, tokenizer = load_llama(source), source.tokenizer()
    new_ids: tuple[int, ...] = ()
    if infill and tokenizer.infill is None:
        tokenizer, new_ids, model = with_sentinels(model, tokenizer, seed)
    return Base(model, tokenizer, source, new_ids, end_of_document(tokenizer))


def end_of_document(tokenizer: Tokenizer) -> int | None:
    """What separates documents: <|endoftext|> where there is one, else the end of sequence."""
    end = tokenizer.token_id("<|endoftext|>")
    return tokenizer.eos_id if end is None else end


def dead_slots(tokenizer: Tokenizer, embeddings_VD: Tensor) -> list[int]:
    """Control tokens that were never trained: the largest group whose embeddings are one vector,
    up to the rounding of a quantized file (cosine above 0.999; SmolLM2's trained ones reach 0.98).
    """
    control = [
        id for id, type in enumerate(tokenizer.types)
        if type == _CONTROL and id not in (tokenizer.bos_id, tokenizer.eos_id)
    ]  # fmt: skip
    if not control:
        return []
    rows = torch.nn.functional.normalize(embeddings_VD[control].float(), dim=1)
    near = rows @ rows.T > _SAME
    largest = int(near.sum(1).argmax())
    return [id for id, same in zip(control, near[largest].tolist(), strict=True) if same]


def with_sentinels(
    model: Llama, tokenizer: Tokenizer, seed: int
) -> tuple[Tokenizer, tuple[int, ...], Llama]:
    """(tokenizer with sentinels, ids of its new rows, the model with those rows)."""
    renamed: Tokenizer
    dead = dead_slots(tokenizer, model.tok_embeddings.weight.detach())
    if isinstance(tokenizer, ByteLevelTokenizer) and len(dead) >= len(NAMES):
        ids = tuple(dead[: len(NAMES)])
        renamed = _renamed(tokenizer, ids)
    elif isinstance(tokenizer, SentencePieceTokenizer):
        first = tokenizer.vocab_size
        renamed = _with_code_llama_pieces(tokenizer)
        ids = tuple(range(first, renamed.vocab_size))
        model = _grown(model, len(ids))
    else:
        assert isinstance(tokenizer, ByteLevelTokenizer)
        first = tokenizer.vocab_size
        ids = tuple(range(first, first + len(NAMES)))
        renamed = _renamed(tokenizer, ids)
        model = _grown(model, len(ids))
    _initialize(model, ids, seed)
    if renamed.infill is not None and tokenizer.eos_id is not None:
        _end_as(model, renamed.infill.eot, tokenizer.eos_id)
    return renamed, ids, model


def _renamed(tokenizer: ByteLevelTokenizer, ids: Sequence[int]) -> ByteLevelTokenizer:
    """The vocabulary with the sentinels at `ids`, which may lie just beyond its end."""
    pieces, types = list(tokenizer.pieces), list(tokenizer.types)
    for id, name in zip(ids, NAMES, strict=True):
        pieces[id : id + 1], types[id : id + 1] = [name], [_CONTROL]
    return ByteLevelTokenizer(
        pieces,
        tokenizer.merges,
        types,
        pre=tokenizer.pre,
        bos_id=tokenizer.bos_id,
        eos_id=tokenizer.eos_id,
        add_bos=tokenizer.add_bos,
        infill=InfillIds(*ids),
    )


def _with_code_llama_pieces(tokenizer: SentencePieceTokenizer) -> SentencePieceTokenizer:
    assert not set(SENTINELS) & set(tokenizer.pieces)
    count = len(_CODE_LLAMA_PIECES)
    return SentencePieceTokenizer(
        [*tokenizer.pieces, *_CODE_LLAMA_PIECES],
        [*tokenizer.scores, *(_LAST_SCORE - i for i in range(count))],
        [*tokenizer.types, *[_NORMAL] * count],
        bos_id=tokenizer.bos_id,
        eos_id=tokenizer.eos_id,
        add_bos=tokenizer.add_bos,
        dummy_prefix=tokenizer.dummy_prefix,
    )


def _grown(model: Llama, rows: int) -> Llama:
    """The model with more rows in its embeddings and head; rows of padding are used up first."""
    old = model.config
    config: ModelConfig = replace(old, vocab_size=old.vocab_size + rows)
    with torch.device("meta"):
        grown = Llama(config)
    state = dict(model.state_dict())
    for name in ("tok_embeddings.weight", "output.weight"):
        if name in state:
            state[name] = torch.cat([state[name], torch.zeros(rows, old.dim)])
    grown.load_state_dict(state, assign=True)
    grown.rope_factors = model.rope_factors
    return grown


@torch.no_grad()
def _initialize(model: Llama, ids: Sequence[int], seed: int) -> None:
    """Mean of all rows plus noise of its own for every row, as long as the median row."""
    generator = np.random.default_rng(seed)
    for weight in {model.tok_embeddings.weight, *([model.output.weight] if model.output else [])}:
        known = torch.ones(len(weight), dtype=torch.bool)
        known[list(ids)] = False
        mean, length = weight[known].mean(0), weight[known].norm(dim=1).median()
        for id in ids:
            noise = torch.from_numpy(generator.standard_normal(weight.shape[1])).float()
            row = mean + noise * length / noise.norm()
            weight[id] = row * length / row.norm()


@torch.no_grad()
def _end_as(model: Llama, eot: int, eos: int) -> None:
    """EOT starts as what already ends a sequence, a tenth of its length apart from it."""
    for weight in {model.tok_embeddings.weight, *([model.output.weight] if model.output else [])}:
        apart = weight[eot] * (weight[eos].norm() / weight[eot].norm())
        weight[eot] = weight[eos] + 0.1 * apart
