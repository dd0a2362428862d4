"""Byte-level BPE (GPT-2's scheme: SmolLM2, StarCoder, …): short texts by short_bpe.py, the others
through the `tokenizers` library, which is built when it is first needed.

Control tokens are left out of what the library may produce, so that text cannot become one.
A damaged vocabulary is refused by whoever meets the damage, at the latest when the library is
built.
Does not promise that every byte survives: a vocabulary may lack some (SmolLM2's has no piece for 21
byte values, 0xF1 among them), and those are dropped, as the model's own library drops them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache, cached_property
from typing import Any

import numpy as np

from codellama.errors import ModelFileError
from codellama.model.short_bpe import ShortTexts
from codellama.model.tokenizer_base import InfillIds, StandIns, Tokenizer

__all__ = ["ByteLevelTokenizer"]

_CONTROL = 3
# Digits one by one, then GPT-2's own splitting.
_SINGLE_DIGITS = ("smollm", "starcoder", "refact", "command-r", "codeshell")
_LLAMA3_PRE = "llama-bpe"
_PLAIN = ("gpt-2", "gpt2", "default", "")
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_SHORT = 8192
"""Characters that are encoded without the library before it is built: they take as long."""
_FIM_PIECES = (
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
    ("<PRE>", "<SUF>", "<MID>"),
)


@cache
def _byte_of() -> dict[str, int]:
    """GPT-2's stand-ins: 188 printable bytes are themselves, the rest follow from U+0100."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table = {chr(b): b for b in printable}
    rest = [b for b in range(256) if b not in printable]
    return table | {chr(256 + i): b for i, b in enumerate(rest)}


@cache
def _letters() -> str:
    """The stand-ins in the order of their bytes."""
    return "".join(sorted(_byte_of(), key=_byte_of().__getitem__))


def _infill_ids(
    pre: int | None, suf: int | None, mid: int | None, eot: int | None
) -> InfillIds | None:
    if pre is None or suf is None or mid is None or eot is None:
        return None
    return InfillIds(pre, suf, mid, eot)


class ByteLevelTokenizer(Tokenizer):
    def __init__(
        self,
        pieces: Sequence[str],
        merges: Sequence[str],
        types: Sequence[int],
        *,
        pre: str,
        bos_id: int | None,
        eos_id: int | None,
        add_bos: bool = False,
        infill: InfillIds | None = None,
    ) -> None:
        self.kind = "gpt2"
        self.pieces = list(pieces)
        self.types = list(types)
        self.bos_id, self.eos_id, self.add_bos = bos_id, eos_id, add_bos
        marked = [i for i, kind in enumerate(self.types) if kind == _CONTROL or kind == 4]
        self._controls = [i for i in marked if self.types[i] == _CONTROL]
        self.special = {self.pieces[i]: i for i in marked}
        self.infill = infill or self._find_infill()
        self.pre = pre
        self.merges = list(merges)
        _check_pre(pre)
        self._short_left = _SHORT if pre != _LLAMA3_PRE else 0

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, Any]) -> ByteLevelTokenizer:
        pieces = metadata["tokenizer.ggml.tokens"]
        pre, suf, mid = (
            metadata.get(f"tokenizer.ggml.fim_{key}_token_id") for key in ("pre", "suf", "mid")
        )
        eos = metadata.get("tokenizer.ggml.eos_token_id")
        eot = metadata.get("tokenizer.ggml.eot_token_id", eos)
        return cls(
            pieces,
            metadata.get("tokenizer.ggml.merges", []),
            metadata.get("tokenizer.ggml.token_type", [1] * len(pieces)),
            pre=str(metadata.get("tokenizer.ggml.pre", "default")),
            bos_id=metadata.get("tokenizer.ggml.bos_token_id"),
            eos_id=eos,
            add_bos=bool(metadata.get("tokenizer.ggml.add_bos_token", False)),
            infill=_infill_ids(pre, suf, mid, eot),
        )

    def _find_infill(self) -> InfillIds | None:
        for names in _FIM_PIECES:
            pre, suf, mid = (self.special.get(name) for name in names)
            found = _infill_ids(pre, suf, mid, self.special.get("<EOT>", self.eos_id))
            if found is not None:
                return found
        return None

    @cached_property
    def _short(self) -> ShortTexts:
        return ShortTexts(self.pieces, self.merges, digits=self.pre in _SINGLE_DIGITS)

    @cached_property
    def _library(self) -> Any:
        return build_library(self.pieces, self.merges, self.pre)

    def prepare(self) -> None:
        """Lists for short texts; the library waits for one that needs it."""
        _ = self._short

    def _encode(self, text: str) -> list[int]:
        self._short_left -= len(text)
        if self._short_left >= 0:
            ids = self._short.encode(text)
            if ids is not None:
                return ids
        return list(self._library.encode(text, add_special_tokens=False).ids)

    def encode_infilling(self, text: str) -> list[int]:
        return self.encode(text)

    def piece(self, token: int) -> bytes:
        if self.types[token] == _CONTROL:
            return b""
        table = _byte_of()
        return bytes(table[c] for c in self.pieces[token] if c in table)

    def stand_ins(self) -> StandIns:
        """The pieces themselves, 10 times as quick to have as their bytes."""
        texts, letters = list(self.pieces), _letters()
        for id in self._controls:
            texts[id] = ""
        known_C = np.isin(np.arange(1 << 16), [ord(letter) for letter in letters])
        used = "".join(texts).encode("utf-16-le", "surrogatepass")
        if not known_C[np.frombuffer(used, np.uint16)].all():  # characters that stand for nothing
            return super().stand_ins()
        return texts, lambda raw: raw.decode("latin-1").translate(letters)


def _check_pre(pre: str) -> None:
    """Raises ModelFileError for a pre-tokenizer that is not known."""
    if pre not in (*_PLAIN, *_SINGLE_DIGITS, _LLAMA3_PRE):
        known = ", ".join([*_PLAIN[:3], *_SINGLE_DIGITS, _LLAMA3_PRE])
        raise ModelFileError(f"pre-tokenizer {pre!r} is not supported; known: {known}")


def build_library(pieces: Sequence[str], merges: Sequence[str], pre: str) -> Any:
    """The `tokenizers.Tokenizer` of a vocabulary. Raises ModelFileError for a damaged one."""
    from tokenizers import Regex, Tokenizer
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import ByteLevel, Digits, PreTokenizer, Sequence, Split

    _check_pre(pre)
    steps: list[PreTokenizer]
    if pre in _PLAIN:
        steps = [ByteLevel(add_prefix_space=False)]
    elif pre in _SINGLE_DIGITS:
        steps = [Digits(individual_digits=True), ByteLevel(add_prefix_space=False)]
    else:
        steps = [
            Split(Regex(_LLAMA3), "isolated"),
            ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    pairs = [(left, right) for left, _, right in (m.partition(" ") for m in merges)]
    ids = {piece: id for id, piece in enumerate(pieces)}
    for missing in {left + right for left, right in pairs} - ids.keys():  # the library would panic
        raise ModelFileError(f"the vocabulary is damaged: a merge yields {missing!r:.50}")
    try:
        library = Tokenizer(BPE(ids, pairs))
    except Exception as error:  # the library raises nothing narrower
        raise ModelFileError(f"the vocabulary is damaged: {error}") from None
    library.pre_tokenizer = Sequence(steps)
    return library
