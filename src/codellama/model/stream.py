"""Token ids → text as it may be shown: whole characters, and never a part of a stop string.

Knows a tokenizer's bytes and the stop strings of one answer; knows no engine. Whoever drives it
stops generating when `stopped` becomes true. Token ids that end an answer (EOS, EOT) are the
caller's.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import Literal, Protocol

__all__ = ["TextStream", "arrival"]

StopReason = Literal["stop_string", "max_lines", "suffix"]

_TELLING = 8  # characters beside white space: `}`, `else:` and `pass` stand anywhere
_MOST_LINES = 3


class Pieces(Protocol):
    def piece(self, token: int) -> bytes: ...


def arrival(suffix: str) -> tuple[str, int] | None:
    """What says that a middle has arrived at its suffix, as TextStream takes it: the suffix's first
    line, whole, at the same margin, with the next ones where it is too short to tell. None where
    three do not tell enough.

    >>> arrival("    return total\\n")
    ('\\n    return total\\n', 1)
    >>> arrival("    else:\\n        left -= 1\\n")
    ('\\n    else:\\n        left -= 1\\n', 1)
    """
    lines = suffix.split("\n")
    first = next((i for i, line in enumerate(lines) if line.strip()), len(lines))
    lead = "\n" * first
    if not suffix.startswith(lead):
        return None  # white space: the suffix goes on in the line of the cursor
    for count in range(1, _MOST_LINES + 1):
        text = "\n".join(lines[first : first + count])
        if len("".join(text.split())) >= _TELLING and any(map(str.isalpha, text)):
            return f"{lead or chr(10)}{text}\n", 0 if lead else 1
    return None


class TextStream:
    """Text of one answer.

    Args:
        until: (text, n): an answer that has arrived at this text, a newline at the very end being
            understood, ends after its first n characters. Infilling's: see `arrival`.

    What is pushed and then finished, joined, is the decoded text up to the first stop string or
    up to `max_lines` lines, whichever comes first, however the text was cut into tokens. Bytes
    that are no UTF-8 become U+FFFD once it is certain that no later byte mends them. The first
    bytes, as many as `skip` has, are left out: a healed prompt makes the answer repeat them.

    >>> stream = TextStream(tokenizer, stop=["\\ndef"])        # doctest: +SKIP
    >>> print(stream.push(id), end="")                         # doctest: +SKIP
    """

    def __init__(
        self,
        tokenizer: Pieces,
        stop: Sequence[str] = (),
        max_lines: int | None = None,
        *,
        skip: bytes = b"",
        until: tuple[str, int] | None = None,
    ) -> None:
        self._tokenizer = tokenizer
        self._stop = tuple(s for s in stop if s)
        self._until = until
        self._max_lines = max_lines
        self._watches = bool(self._stop) or until is not None or max_lines is not None
        self._lines = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        self._skip = len(skip)
        self.stopped = False
        self.stop_reason: StopReason | None = None
        self.stop_text = ""

    def push(self, token: int) -> str:
        """Text that the token makes safe to show."""
        if self.stopped:
            return ""
        text = self._tokenizer.piece(token)
        skipped = min(self._skip, len(text))
        self._skip -= skipped
        return self._release(self._decoder.decode(text[skipped:]), final=False)

    def finish(self) -> str:
        """The text still held back, when no more tokens come."""
        if self.stopped:
            return ""
        return self._release(self._decoder.decode(b"", final=True), final=True)

    def _release(self, new: str, *, final: bool) -> str:
        if not self._watches:
            return new
        text = self._held + new
        end, reason = self._first_stop(text, final=final)
        if end is not None:
            self.stopped, self.stop_reason, self._held = True, reason, ""
            if reason == "stop_string":
                self.stop_text = next(s for s in self._stop if text.startswith(s, end))
            return text[:end]
        keep = 0 if final else self._possible_stop(text)
        shown = text[: len(text) - keep]
        self._held = text[len(text) - keep :]
        self._lines += shown.count("\n")
        return shown

    def _first_stop(self, text: str, *, final: bool) -> tuple[int | None, StopReason | None]:
        """Where the stop begins that is complete first, of several at once the longest: what a
        stream sees does not depend on how many characters come at a time.
        """
        found: list[tuple[int, int, StopReason]] = [
            (at + len(s), at, "stop_string") for s in self._stop if (at := text.find(s)) >= 0
        ]
        if self._until is not None:
            wanted, kept = self._until
            at = (f"{text}\n" if final else text).find(wanted)
            if at >= 0:
                found.append((at + len(wanted), at + kept, "suffix"))
        line = self._last_line(text)
        if line is not None:
            found.append((line + 1, line, "max_lines"))
        if not found:
            return None, None
        _end, begin, reason = min(found, key=lambda stop: stop[:2])
        return begin, reason

    def _last_line(self, text: str) -> int | None:
        """The line end in `text` that is one too many."""
        if self._max_lines is None:
            return None
        at = -1
        for _ in range(self._max_lines - self._lines):
            at = text.find("\n", at + 1)
            if at < 0:
                return None
        return at

    def _possible_stop(self, text: str) -> int:
        """Length of the longest ending of `text` with which some stop string begins."""
        longest = 0
        for stop in self._stop if self._until is None else (*self._stop, self._until[0]):
            for n in range(min(len(stop) - 1, len(text)), longest, -1):
                if text.endswith(stop[:n]):
                    longest = n
                    break
        return longest
