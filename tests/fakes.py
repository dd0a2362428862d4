"""Stand-ins at the seams: a runner that remembers, a byte tokenizer. The suite runs on them without
weights.

FakeRunner keeps, per slot of its paged cache, what a real one would: something that depends on the
token and on all before it. It checks every batch for what a real one would get wrong in silence
(stale or foreign slots, two sequences writing one block), and its logits are a function of the
history that it *reads back from the cache*, so a scheduling mistake changes the text. `alone` is
that function of the true history: the oracle.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

import numpy as np

from codellama.engine.runner import BLOCK_SIZE, Batch, Logits
from codellama.model.tokenizer_base import InfillIds, Tokenizer

EMPTY = -1
LogitsOf = Callable[[list[int]], Logits]


def random_logits(vocab_size: int, memory: int | None = None) -> LogitsOf:
    """Logits that depend on the last `memory` tokens (None: all); a short one makes loops."""

    def logits(history: list[int]) -> Logits:
        seen = history if memory is None else history[-memory:]
        generator = np.random.default_rng([len(seen), *seen])
        return generator.standard_normal(vocab_size).astype(np.float32) * 3

    return logits


def scripted(vocab_size: int, script: Sequence[int], start: int) -> LogitsOf:
    """Logits whose largest is script[i] after start + i tokens, then the last one's for ever."""

    def logits(history: list[int]) -> Logits:
        row_V = np.zeros(vocab_size, np.float32)
        row_V[script[min(max(len(history) - start, 0), len(script) - 1)]] = 10.0
        return row_V

    return logits


def circling(vocab_size: int, text: str, end: int) -> LogitsOf:
    """Logits whose largest spell `text`, of different letters, over and over; `end` is second."""
    after = dict(zip(text.encode(), text[1:].encode(), strict=False))

    def logits(history: list[int]) -> Logits:
        row_V = np.zeros(vocab_size, np.float32)
        row_V[[end, after.get(history[-1], ord(text[0]))]] = 8.0, 9.0
        return row_V

    return logits


class FakeRunner:
    """engine.runner.Runner over a table of tokens.

    Args:
        logits: history → row of logits; default `random_logits(vocab_size)`.

    Attributes:
        steps: batches run so far; `tokens`: tokens computed in them; `copies`: blocks copied.
    """

    def __init__(
        self,
        *,
        vocab_size: int = 64,
        context: int = 256,
        n_blocks: int = 16,
        logits: LogitsOf | None = None,
    ) -> None:
        self.vocab_size = vocab_size
        self.context = context
        self.n_blocks = n_blocks
        self.alone = logits or random_logits(vocab_size)
        self.steps = 0
        self.tokens = 0
        self.copies = 0
        self.batches: list[Batch] = []
        self._token = np.full((n_blocks, BLOCK_SIZE), EMPTY, np.int64)
        self._position = np.full((n_blocks, BLOCK_SIZE), EMPTY, np.int64)

    def run(self, batch: Batch) -> Logits:
        self._check(batch)
        self.steps += 1
        self.tokens += len(batch.tokens_T)
        self.batches.append(batch)
        written: set[tuple[int, int]] = set()
        histories: dict[int, list[int]] = {}
        for s, past in enumerate(batch.past_S.tolist()):
            table = batch.blocks_SB[s].tolist()
            start, end = batch.starts_S1[s : s + 2].tolist()
            for row in range(start, end):
                slot = self._slot(table, past + row - start)
                assert slot not in written, f"two sequences write block {slot[0]}"
                written.add(slot)
                self._token[slot] = batch.tokens_T[row]
                self._position[slot] = past + row - start
        for s, past in enumerate(batch.past_S.tolist()):
            table = batch.blocks_SB[s].tolist()
            start, end = batch.starts_S1[s : s + 2].tolist()
            history = self._read(table, past + end - start)
            assert history[past:] == batch.tokens_T[start:end].tolist(), "a written slot was lost"
            for row in range(start, end):
                histories[row] = history[: past + row - start + 1]
        rows = [self.alone(histories[row]) for row in batch.rows_R.tolist()]
        return np.array(rows, np.float32).reshape(len(rows), self.vocab_size)

    def hidden(self, batch: Batch) -> Logits:
        return self.run(batch)[:, :8]

    def copy_block(self, source: int, target: int) -> None:
        self.copies += 1
        self._token[target] = self._token[source]
        self._position[target] = self._position[source]

    def _check(self, batch: Batch) -> None:
        for name in ("tokens_T", "starts_S1", "past_S", "blocks_SB", "rows_R"):
            assert getattr(batch, name).dtype == np.int32, name
        assert batch.starts_S1[0] == 0 and batch.starts_S1[-1] == len(batch.tokens_T)
        assert (np.diff(batch.starts_S1) > 0).all(), "a sequence without tokens"
        assert (np.diff(batch.rows_R) > 0).all(), "rows are not ascending"
        assert ((batch.tokens_T >= 0) & (batch.tokens_T < self.vocab_size)).all()
        ends = batch.past_S + np.diff(batch.starts_S1)
        assert (ends <= self.context).all(), "a sequence longer than the context"
        for row_B, end in zip(batch.blocks_SB, ends, strict=True):
            used = row_B[: -(-int(end) // BLOCK_SIZE)]
            assert ((used >= 0) & (used < self.n_blocks)).all(), "a block table is too short"
            assert len(set(used.tolist())) == len(used), "a block twice in one table"

    @staticmethod
    def _slot(table: list[int], position: int) -> tuple[int, int]:
        return table[position // BLOCK_SIZE], position % BLOCK_SIZE

    def _read(self, table: list[int], length: int) -> list[int]:
        blocks = np.array(table[: -(-length // BLOCK_SIZE)])
        assert self._position[blocks].ravel()[:length].tolist() == list(range(length)), (
            "the cache holds something else at these positions"
        )
        tokens: list[int] = self._token[blocks].ravel()[:length].tolist()
        return tokens


class KeepingRunner(FakeRunner):
    """A fake whose blocks can be taken out and put back."""

    kv_type = "f16"
    block_bytes = BLOCK_SIZE * 16

    def read_block(self, block: int, out: np.ndarray) -> None:
        out[:] = np.concatenate([self._token[block], self._position[block]]).view(np.uint8)

    def write_block(self, block: int, data: np.ndarray) -> None:
        both = data.view(np.int64)
        self._token[block], self._position[block] = both[:BLOCK_SIZE], both[BLOCK_SIZE:]


class ByteTokenizer(Tokenizer):
    """Ids 0–255 are bytes, then special tokens, then `words`: tokens of several bytes.

    The longest word wins, so a text cut inside one is encoded otherwise than the whole.
    """

    kind = "gpt2"
    add_bos = True
    special: ClassVar = {"<s>": 256, "</s>": 257, "<|im_start|>": 258, "<|im_end|>": 259}
    bos_id = 256
    eos_id = 257
    FIRST_WORD = 264

    def __init__(self, words: Sequence[str] = (), *, infills: bool = True) -> None:
        self.infill = InfillIds(260, 261, 262, 263) if infills else None
        self._bytes = [bytes([i]) for i in range(256)] + [b""] * 8 + [w.encode() for w in words]
        self.pieces = [str(text) for text in self._bytes]
        self.types = [1] * 256 + [3] * 8 + [1] * len(words)
        self._words = sorted(enumerate(self._bytes[self.FIRST_WORD :]), key=lambda w: -len(w[1]))

    def _encode(self, text: str) -> list[int]:
        raw, ids = text.encode(), []
        while raw:
            word = next((i for i, word in self._words if raw.startswith(word)), None)
            ids.append(raw[0] if word is None else self.FIRST_WORD + word)
            raw = raw[len(self._bytes[ids[-1]]) :]
        return ids

    def encode_infilling(self, text: str) -> list[int]:
        return self._encode(text)

    def piece(self, token: int) -> bytes:
        return self._bytes[token]
