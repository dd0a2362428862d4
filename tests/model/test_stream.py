"""TextStream: whole characters, and never a part of a stop text, however the text is cut."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from codellama.model.stream import TextStream, arrival


class Cut:
    """A tokenizer whose tokens are the given pieces of a text's bytes."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self.pieces = pieces

    def piece(self, token: int) -> bytes:
        return self.pieces[token]


def shown(
    pieces: Sequence[bytes], stop: Sequence[str] = (), max_lines: int | None = None, skip: int = 0
) -> tuple[list[str], TextStream]:
    stream = TextStream(Cut(pieces), stop, max_lines, skip=bytes(skip))
    texts = [stream.push(token) for token in range(len(pieces))]
    return [*texts, stream.finish()], stream


def cut(text: bytes, places: Sequence[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(text) + 1) for place in places), len(text)]
    return [text[a:b] for a, b in pairwise(edges)]


def expected(text: str, stop: Sequence[str], max_lines: int | None) -> str:
    """The obvious version: letter by letter, until what is there ends in a stop text."""
    for end in range(1, len(text) + 1):
        seen = text[:end]
        begins = [end - len(s) for s in stop if seen.endswith(s)]
        if max_lines is not None and seen.count("\n") == max_lines:
            begins.append(end - 1)
        if begins:
            return text[: min(begins)]
    return text


TEXTS = st.text(alphabet="ab\n</s>é😀", max_size=40)
STOPS = st.lists(st.text(alphabet="ab\n</s>é", min_size=1, max_size=5), max_size=3)
PLACES = st.lists(st.integers(0, 200), max_size=20)


@settings(max_examples=500, deadline=None)
@given(text=TEXTS, places=PLACES, stop=STOPS, max_lines=st.none() | st.integers(1, 4))
@example(text="aab", places=[1, 2], stop=["ab"], max_lines=None)
@example(text="a</s", places=[1, 2, 3], stop=["</s>"], max_lines=None)
def test_the_text_up_to_the_first_stop(
    text: str, places: list[int], stop: list[str], max_lines: int | None
) -> None:
    pieces = cut(text.encode(), places)
    texts, stream = shown(pieces, stop, max_lines)
    want = expected(text, stop, max_lines)
    assert "".join(texts) == want
    assert stream.stopped == (want != text)


@settings(max_examples=500, deadline=None)
@given(text=TEXTS, places=PLACES, stop=STOPS)
def test_what_was_shown_is_never_taken_back(text: str, places: list[int], stop: list[str]) -> None:
    """After every token, what stands on the screen is a beginning of every answer still possible:
    the text seen so far up to a stop, whatever comes next.
    """
    pieces = cut(text.encode(), places)
    stream = TextStream(Cut(pieces), stop)
    screen, seen = "", b""
    for token, piece in enumerate(pieces):
        screen, seen = screen + stream.push(token), seen + piece
        whole = seen.decode("utf-8", "ignore")
        for more in ("", *stop, *(s[1:] for s in stop)):
            assert expected(whole + more, stop, None).startswith(screen)


@settings(max_examples=300, deadline=None)
@given(raw=st.binary(max_size=40), places=PLACES)
def test_bytes_that_are_no_text(raw: bytes, places: list[int]) -> None:
    texts, _ = shown(cut(raw, places))
    assert "".join(texts) == raw.decode("utf-8", "replace")


def test_a_character_of_several_tokens_comes_whole() -> None:
    texts, _ = shown([b"a\xf0", b"\x9f", b"\x98", b"\x80b"])
    assert texts == ["a", "", "", "😀b", ""]


def test_what_the_prompt_repeats_is_left_out() -> None:
    texts, _ = shown([b"enu", b"merate"], skip=3)
    assert texts == ["", "merate", ""]
    texts, stream = shown([b"ab", b"c"], stop=["abc"], skip=1)
    assert texts == ["b", "c", ""]
    assert not stream.stopped


@pytest.mark.parametrize(
    "stop, max_lines, reason", [(["b"], None, "stop_string"), ([], 1, "max_lines")]
)
def test_it_says_why_it_stopped(stop: list[str], max_lines: int | None, reason: str) -> None:
    texts, stream = shown([b"a", b"\n", b"b", b"c"], stop, max_lines)
    assert stream.stop_reason == reason
    assert "c" not in "".join(texts)


@settings(max_examples=500, deadline=None)
@given(text=TEXTS, places=PLACES, until=st.text(alphabet="ab\n", min_size=1, max_size=4))
def test_it_ends_where_it_arrives(text: str, places: list[int], until: str) -> None:
    for kept in (0, 1):
        stream = TextStream(Cut(pieces := cut(text.encode(), places)), until=(until, kept))
        got = "".join(stream.push(token) for token in range(len(pieces))) + stream.finish()
        at = f"{text}\n".find(until)
        assert got == (
            text if at < 0 else f"{text}\n"[: at + kept] if at + kept <= len(text) else text
        )


@pytest.mark.parametrize(
    ("middle", "suffix", "left"),
    [
        ("a = 1\n    return total\n    x", "    return total\n", "a = 1\n"),
        ("a = 1\n    return total", "    return total", "a = 1\n"),  # the end of a line is the end
        ("a = 1\n        return total\n", "    return total\n", None),  # another margin
        ("a = 1\n    return totals\n", "    return total\n", None),
        (
            "a = 1\n    return total\n",
            "\n    return total\n",
            "a = 1",
        ),  # the suffix has the newline
        ("1\n\ndef other():\n    pass", "\n\ndef other():\n", "1"),
        ("1\n}\n", "}\n", None),  # tells nothing
        ("1\n}\nreturn a\n", "}\nreturn a\n", "1\n"),  # with the next line it does
        ("1\n}\nreturn b\n", "}\nreturn a\n", None),
        ("1\n}\n\nreturn a\n", "}\n\nreturn a\nx", "1\n"),
        ("1\n}\n}\n}\nreturn a\n", "}\n}\n}\nreturn a\n", None),  # three lines do not
        ("1\n\nreturn total\n", " \nreturn total\n", None),
        ("1\n==========\n", "==========\n", None),
        ("1\n", "", None),
        ("1\n", " )\n\n", None),  # the suffix goes on in the line of the cursor
    ],
)
def test_a_middle_has_arrived_at_its_suffix(middle: str, suffix: str, left: str | None) -> None:
    for places in ([], range(len(middle))):
        stream = TextStream(
            Cut(pieces := cut(middle.encode(), list(places))), until=arrival(suffix)
        )
        got = "".join(stream.push(token) for token in range(len(pieces))) + stream.finish()
        assert got == (middle if left is None else left)
        assert stream.stop_reason == (None if left is None else "suffix")
