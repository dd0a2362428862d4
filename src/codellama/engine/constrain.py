"""Answers that must have a form: JSON schema, regular expression, grammar (Lark or GBNF) → masks.

The parsers are llguidance's; here is what the engine needs around them: a Constraint is a pure
function of the tokens generated so far, asked in any order (pre-emption, forks, drafts), while a
matcher is a state machine. So a grammar keeps a few matchers, takes the one that shares most with
what it is asked about, rolls it back and feeds it the rest.

Knows tokens as bytes; no text, no cache. Stop tokens are allowed exactly where the form is
complete. Does not promise that an answer ends: max_tokens may cut it.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from codellama.errors import RequestError

__all__ = ["Grammar", "Grammars"]

Mask = npt.NDArray[np.bool_]

LONGEST = 1 << 18  # characters of a schema or grammar
MATCHERS = 16  # kept per request: one per sample of a usual n
WIDEST_DRAFT = 64


class Grammars:
    """Forms over one vocabulary.

    Args:
        piece: token id → its bytes; empty for control tokens. known: how many tokens it knows.
        vocab_size: rows of the logits; larger than `known` where embeddings are padded.
        stop_ids: tokens that end an answer.
        encode: bytes → ids, for the text that a form forces.
    """

    def __init__(
        self,
        piece: Callable[[int], bytes],
        known: int,
        *,
        vocab_size: int,
        stop_ids: frozenset[int],
        encode: Callable[[bytes], list[int]],
    ) -> None:
        if not stop_ids:
            raise RequestError("this model has no end-of-text token: answers cannot be constrained")
        self._piece = piece
        self._known = known
        self._vocab_size = vocab_size
        self._stop_ids = stop_ids
        self._encode = encode
        self._lock = threading.Lock()
        self._tokenizer: Any = None

    def json(self) -> Grammar:
        """Any JSON object."""
        return self.json_schema({"type": "object"})

    def json_schema(self, schema: dict[str, Any] | bool | str) -> Grammar:
        from llguidance import LLMatcher

        text = schema if isinstance(schema, str) else _dumped(schema)
        _bounded(text, "schema")
        try:
            # Models write JSON with and without spaces; the schema does not mind either.
            return self._grammar(LLMatcher.grammar_from_json_schema(text), "schema")
        except ValueError as error:
            raise RequestError(f"the JSON schema is not one: {_line(error)}") from None

    def regex(self, pattern: str) -> Grammar:
        """The whole answer matches; syntax of Rust's regex crate, no look-around."""
        from llguidance import LLMatcher

        _bounded(pattern, "regex")
        return self._grammar(LLMatcher.grammar_from_regex(pattern), "regex")

    def grammar(self, text: str) -> Grammar:
        """llama.cpp's GBNF (`root ::= …`) or Lark (`start: …`)."""
        from llguidance import LLMatcher
        from llguidance.gbnf_to_lark import any_to_lark

        _bounded(text, "grammar")
        try:
            lark = any_to_lark(text) if "::=" in text else text
        except (ValueError, IndexError, KeyError, RecursionError, AssertionError) as error:
            raise RequestError(f"the grammar is not GBNF: {_line(error)}") from None
        except Exception as error:  # the converter raises bare Exceptions, too
            raise RequestError(f"the grammar is not GBNF: {_line(error)}") from None
        return self._grammar(LLMatcher.grammar_from_lark(lark), "grammar")

    def _grammar(self, compiled: str, kind: str) -> Grammar:
        from llguidance import LLMatcher

        with self._lock:
            if self._tokenizer is None:
                self._tokenizer = self._build()
        matcher = LLMatcher(self._tokenizer, compiled, log_level=0)
        if matcher.is_error():
            raise RequestError(f"the {kind} cannot be used: {_line(matcher.get_error())}")
        return Grammar(matcher, self._vocab_size, self._stop_ids)

    def _build(self) -> Any:
        from llguidance import LLTokenizer
        from llguidance._tokenizer import TokenizerWrapper

        known = range(min(self._known, self._vocab_size))
        padded = [self._piece(id) for id in known] + [b""] * (self._vocab_size - len(known))
        # Control tokens have no bytes: llguidance wants a name for each, and never allows them.
        names = [text or f"<|control {id}|>".encode() for id, text in enumerate(padded)]
        controls = [id for id, text in enumerate(padded) if not text]

        class Vocabulary:
            eos_token_id = min(self._stop_ids)
            bos_token_id = None
            tokens = names
            special_token_ids = controls

            def __call__(self, text: bytes | str, /) -> list[int]:
                return encode(text if isinstance(text, bytes) else text.encode())

        encode = self._encode
        return LLTokenizer(
            TokenizerWrapper(Vocabulary()),
            n_vocab=self._vocab_size,
            eos_token=sorted(self._stop_ids),
        )


class Grammar:
    """engine.request.Constraint over matchers.

    Attributes:
        seconds, masks: time spent and masks made, for metrics.
    """

    def __init__(self, matcher: Any, vocab_size: int, stop_ids: frozenset[int]) -> None:
        self._fresh = matcher
        self._vocab_size = vocab_size
        self._stops = sorted(stop_ids)
        self._used: list[tuple[list[int], Any]] = []
        self.seconds = 0.0
        self.masks = 0

    def __call__(self, output: list[int]) -> Mask:
        begin = time.perf_counter()
        matcher = self._at(output)
        allowed_V = self._mask(matcher)
        self.seconds += time.perf_counter() - begin
        self.masks += 1
        return allowed_V

    def _mask(self, matcher: Any) -> Mask:
        if matcher.is_error():
            raise RequestError(f"the constraint failed: {_line(matcher.get_error())}")
        if matcher.is_stopped():
            only_stops_V = np.zeros(self._vocab_size, np.bool_)
            only_stops_V[self._stops] = True
            return only_stops_V
        bias = np.frombuffer(matcher.compute_logit_bias(), np.uint8)[: self._vocab_size]
        allowed_V: Mask = bias != 0
        if matcher.is_error():
            raise RequestError(f"the constraint failed: {_line(matcher.get_error())}")
        return allowed_V

    def _at(self, output: list[int]) -> Any:
        """A matcher that has seen exactly `output`."""
        best, shared = -1, 0
        for place, (seen, _matcher) in enumerate(self._used):
            common = _common(seen, output)
            if common >= shared and len(seen) - common <= WIDEST_DRAFT:
                best, shared = place, common
                if common == len(seen) and len(seen) in (len(output) - 1, len(output)):
                    break
        forks = best >= 0 and shared < len(self._used[best][0]) and len(self._used) < MATCHERS
        if best < 0 or forks:
            seen, matcher = [], self._fresh.deep_copy()
        else:
            seen, matcher = self._used.pop(best)
            if len(seen) > shared:
                matcher.rollback(len(seen) - shared)
                seen = seen[:shared]
        if output[len(seen) :]:
            matcher.consume_tokens(output[len(seen) :])
        self._used.append((list(output), matcher))
        del self._used[:-MATCHERS]
        return matcher


def _common(a: list[int], b: list[int]) -> int:
    if a == b[: len(a)]:
        return len(a)
    return next(
        (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b))
    )


def _dumped(schema: Any) -> str:
    try:
        return json.dumps(schema)
    except (TypeError, ValueError, RecursionError) as error:
        raise RequestError(f"the JSON schema is not one: {_line(error)}") from None


def _bounded(text: str, kind: str) -> None:
    if len(text) > LONGEST:
        raise RequestError(f"the {kind} has {len(text)} characters: at most {LONGEST} are taken")


def _line(error: object) -> str:
    return " ".join(str(error).split())[:300]
