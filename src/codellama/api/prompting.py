"""Texts, gaps and conversations → Prompts, for one model: what every door (Python, terminal, HTTP)
shares, so that a request means the same tokens through each.

Joins model.prompts (which ids) with model.healing (where a text may end inside a token). Knows no
engine and no HTTP.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from operator import index
from typing import TYPE_CHECKING, Any, Literal

from codellama.api.answers import Prompt
from codellama.errors import InfillingUnsupportedError, RequestError
from codellama.model import prompts
from codellama.model.healing import Healing, Vocabulary
from codellama.model.stream import arrival

if TYPE_CHECKING:
    from codellama.engine.params import SamplingParams
    from codellama.model.tokenizer import Tokenizer

__all__ = ["Order", "Prompter", "integers"]

MOST_BREAKERS = 16  # a text takes 1 to 2 ms to find, once

Order = Literal["auto", "psm", "spm"]


class Prompter:
    """Prompts of one model.

    Args:
        name: the model's, for errors.
        vocab_size: rows of its logits.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        name: str,
        vocab_size: int,
        chat_template: str | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.chat_template = chat_template
        self._name = name
        self._vocab_size = vocab_size
        self._filed: Vocabulary | None = None
        self._containing: dict[str, frozenset[int]] = {}

    @property
    def infills(self) -> bool:
        return self.tokenizer.infill is not None

    @property
    def chats(self) -> bool:
        """Whether the model's files say how a conversation is written."""
        tagged = self.tokenizer.token_id("<step>") is not None
        return tagged or self.chat_template is not None or "instruct" in self._name.lower()

    def completion(self, prompt: str | Sequence[int], *, heal: bool = False) -> Prompt:
        """A text, or token ids, to be continued. A text in the textual infilling form
        (`<PRE> … <SUF>… <MID>`) becomes the infilling prompt it means, if the model can infill.
        """
        if not isinstance(prompt, str):
            return self.healed(integers(prompt), heal)
        if self.infills:
            parts = prompts.parse_textual_infilling(prompt)
            if parts is not None:
                return self.infilling(*parts, order="psm", heal=False, until_suffix=False)
            parts = prompts.parse_textual_suffix_first(prompt)
            if parts is not None:
                return self.infilling(*parts, order="spm", heal=False, until_suffix=False)
        return self.healed(prompts.completion(self.tokenizer, prompt), heal)

    def infilling(
        self,
        prefix: str,
        suffix: str,
        *,
        order: Order = "auto",
        heal: bool = True,
        until_suffix: bool = True,
        nonempty: bool = False,
    ) -> Prompt:
        """The gap between two texts. "auto" is suffix first (a growing prefix stays in the cache),
        unless the prefix ends inside a word and `heal` is off. With `until_suffix` an answer ends,
        too, where it begins to repeat the suffix; with `nonempty` not before it has begun.
        """
        if order not in ("auto", "psm", "spm"):
            raise RequestError(f"order is {order!r}: it must be 'auto', 'psm' or 'spm'")
        if not self.infills:
            raise InfillingUnsupportedError(
                f"{self._name} cannot infill: its vocabulary has no infilling tokens "
                "(Code Llama 7B, 13B and 70B, base and Instruct, have them)"
            )
        inside_word = prefix[-1:].isalnum() or prefix.endswith("_")
        if order == "psm" or (order == "auto" and inside_word and not heal):
            ids = prompts.infilling(self.tokenizer, prefix, suffix, order="psm")
            made = self.healed(ids, False, nonempty)
        else:
            ids = prompts.infilling(self.tokenizer, prefix, suffix, order="spm")
            made = self.healed(ids, heal, nonempty)
        return replace(made, until=arrival(suffix)) if until_suffix else made

    def chat(self, messages: Sequence[Mapping[str, Any]], template: str | None = None) -> Prompt:
        """A conversation, in the model's own format or in that of another Jinja template."""
        ids = prompts.chat(self.tokenizer, messages, template or self.chat_template)
        return Prompt(ids, trim=self.tokenizer.kind == "llama")

    def healed(self, ids: list[int], heal: bool, nonempty: bool = False) -> Prompt:
        """The ids, with their last token boundary undone where `heal` says so, and an answer
        beyond white space where `nonempty` does.
        """
        if not heal and not nonempty:
            return Prompt(ids)
        healing = Healing(self._vocabulary(), ids, heal=heal, nonempty=nonempty)
        constrains = bool(healing.removed) or nonempty
        return Prompt(healing.ids, healing.removed, healing if constrains else None)

    def resolved(self, params: SamplingParams) -> SamplingParams:
        """The params with the tokens that have one of `dry_sequence_breakers` among `dry_breakers`.
        A text that is in no one token, control tokens' included, breaks nothing.
        """
        if not params.dry_sequence_breakers or not params.avoids_repeats:
            return params
        texts = params.dry_sequence_breakers
        if len(texts) > MOST_BREAKERS:
            raise RequestError(
                f"dry_sequence_breakers has {len(texts)} texts: at most {MOST_BREAKERS} are taken"
            )
        found = params.dry_breakers.union(*(self._tokens_with(text) for text in texts))
        return replace(params, dry_breakers=found)

    def _tokens_with(self, text: str) -> frozenset[int]:
        if text not in self._containing:
            if len(self._containing) >= 16 * MOST_BREAKERS:
                self._containing.clear()
            found = self._vocabulary().containing(text.encode("utf-8", "replace"))
            whole = self.tokenizer.token_id(text)
            if whole is not None and whole < self._vocab_size:
                found.append(whole)
            self._containing[text] = frozenset(found)
        return self._containing[text]

    def _vocabulary(self) -> Vocabulary:
        if self._filed is None:
            self._filed = Vocabulary(
                self.tokenizer.piece,
                self._vocab_size,
                self.tokenizer.vocab_size,
                stand_ins=self.tokenizer.stand_ins(),
            )
        return self._filed


def integers(ids: Sequence[int]) -> list[int]:
    """Token ids as plain integers; NumPy's are taken, too. Raises RequestError for others."""
    try:
        return [index(id) for id in ids]
    except TypeError:
        raise RequestError(f"a prompt is a text or a list of token ids, not {ids!r:.50}") from None
