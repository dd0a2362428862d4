"""Token healing: continue a text that ends inside a token as if it had not been cut there.

A prompt that ends in `enu` is encoded with a token that training never saw before `merate`, so the
model answers as to a typing error (the paper's appendix D; SPM infilling of random spans falls from
60.7 to 39.6). Healing takes back the last tokens whose bytes some longer token starts with, and
constrains the answer to begin with those bytes. The model then chooses among all ways to spell
them: ` enumerate` as well as ` enu` and then something else.

A pure function of vocabulary and ids: knows no engine and draws nothing. Does not promise the
likeliest spelling: the choice is token by token. Idea: guidance (github.com/guidance-ai/guidance),
"token healing".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from codellama.model.tokenizer_base import StandIns, latin_stand_ins

__all__ = ["Healing", "Vocabulary"]

Mask = npt.NDArray[np.bool_]

MOST_TOKENS = 8  # taken back at most; whitespace aside, longer tails are no prefix of any token


class Vocabulary:
    """The bytes of every token, by their first two, to find those that begin with given bytes.

    Filing 49,152 tokens takes 7 ms, sorting them took 20.

    Args:
        piece: token id → its bytes; empty for control tokens, which healing never allows.
        size: rows of the logits that masks are for.
        known: tokens that `piece` knows, if fewer than `size`.
        stand_ins: the same bytes as texts, see Tokenizer.stand_ins; default made from `piece`.
    """

    def __init__(
        self,
        piece: Callable[[int], bytes],
        size: int,
        known: int | None = None,
        *,
        stand_ins: StandIns | None = None,
    ) -> None:
        self._piece = piece
        self._size = size
        self._known = size if known is None else min(size, known)
        self._texts, self._write = stand_ins or latin_stand_ins(piece, self._known)
        self._filed: dict[str, list[int]] = {}
        for id, text in enumerate(self._texts[: self._known]):
            start = text[:2]
            if start in self._filed:
                self._filed[start].append(id)
            elif start:
                self._filed[start] = [id]

    def extends(self, text: bytes) -> bool:
        """Whether some token begins with `text` and goes on after it."""
        return any(len(self._texts[id]) > len(text) for id in self._beginning(self._write(text)))

    def mask(self, text: bytes, *, beyond: bool = False) -> Mask:
        """Tokens [V] that begin with `text`, or with which `text` begins.

        Args:
            beyond: leave out those that are just `text`, where some go on after it.
        """
        allowed_V = np.zeros(self._size, np.bool_)
        written = self._write(text)
        allowed_V[list(self._beginning(written))] = True
        if beyond and self.extends(text):
            same = (id for id in self._beginning(written) if len(self._texts[id]) == len(written))
            allowed_V[list(same)] = False
        for start in {written[:1], written[:2]}:
            shorter = (id for id in self._filed.get(start, ()) if len(self._texts[id]) < len(text))
            allowed_V[[id for id in shorter if written.startswith(self._texts[id])]] = True
        return allowed_V

    def any_text(self) -> Mask:
        """Tokens [V] that are text: all but control tokens."""
        allowed_V = np.zeros(self._size, np.bool_)
        allowed_V[: self._known] = [bool(text) for text in self._texts[: self._known]]
        return allowed_V

    def containing(self, text: bytes) -> list[int]:
        """Tokens whose bytes contain `text`, by rising id: 1 to 2 ms."""
        written = self._write(text)
        return [id for id, each in enumerate(self._texts[: self._known]) if written in each]

    def join(self, ids: Sequence[int], enough: int | None = None) -> bytes:
        """The bytes of these tokens, or of the first ones that reach `enough` bytes."""
        text = b""
        for id in ids:
            if enough is not None and len(text) >= enough:
                break
            text += self._piece(id)
        return text

    def tail(self, ids: Sequence[int]) -> int:
        """How many of the last ids a longer token may have begun with; 0 when the text ends between
        tokens.

        The bytes of that many ids are whole characters, and no control token is among them.
        """
        most = 0
        text = b""
        for count, id in enumerate(reversed(ids[-MOST_TOKENS:]), 1):
            piece = self._piece(id) if id < self._known else b""
            text = piece + text
            if not piece:
                break
            if self.extends(text) and _is_whole(text):
                most = count
        return most

    def _beginning(self, text: str) -> Iterator[int]:
        """Tokens that begin with `text`, which is not empty."""
        if len(text) > 1:
            filed = self._filed.get(text[:2], ())
            return (id for id in filed if self._texts[id].startswith(text))
        starts = (start for start in self._filed if start.startswith(text))
        return (id for start in starts for id in self._filed[start])


class Healing:
    """A prompt healed: `ids` to submit, the bytes `removed` from its end, and the constraint that
    brings them back.

    The instance is the constraint: called with the tokens generated so far it gives the mask [V] of
    those that may follow, or None once the removed bytes are spelled. The first len(removed) bytes
    of the answer repeat the prompt.

    Args:
        heal: whether anything is taken back.
        nonempty: the answer has more than white space of its own, for callers who know that
            something is missing. Suffix first nothing tells the model where the prefix ended: where
            prefix and suffix go together as they are, it ends at once.

    >>> vocabulary = Vocabulary([b"in ", b"e", b"nu", b"enumerate"].__getitem__, size=4)
    >>> healed = Healing(vocabulary, [0, 1, 2])
    >>> healed.ids, healed.removed, healed([]).tolist()
    ([0], b'enu', [False, True, False, True])
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        ids: Sequence[int],
        *,
        heal: bool = True,
        nonempty: bool = False,
    ) -> None:
        self._vocabulary = vocabulary
        self._nonempty = nonempty
        # The engine needs a token to start from, so a prompt is never taken back whole.
        taken = vocabulary.tail(ids[1:]) if heal else 0
        self.ids = list(ids[: len(ids) - taken])
        self.removed = vocabulary.join(ids[len(ids) - taken :])

    def __call__(self, output: list[int]) -> Mask | None:
        spelled = self._vocabulary.join(output, len(self.removed))
        rest = self.removed[len(spelled) :]
        if rest:
            return self._vocabulary.mask(rest, beyond=self._nonempty)
        missing = self._nonempty and not self._has_begun(output)
        return self._vocabulary.any_text() if missing else None

    def _has_begun(self, output: list[int]) -> bool:
        """Whether something beside white space follows the removed bytes: a few tokens tell."""
        return any(
            self._vocabulary.join(output[:count])[len(self.removed) :].strip()
            for count in range(1, len(output) + 1)
        )


def _is_whole(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True
