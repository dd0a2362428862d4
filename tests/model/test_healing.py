"""Token healing: what is taken back is spelled again, exactly, by whichever tokens the model
prefers.
"""

from __future__ import annotations

import doctest

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codellama.model import healing
from codellama.model.healing import Healing, Vocabulary

WORDS = [b" en", b" enumerate", b"enu", b"umerate", b"\n    ", b"    ", "é".encode(), "éa".encode()]
PIECES = [bytes([i]) for i in range(256)] + WORDS + [b""]
CONTROL = len(PIECES) - 1


def vocabulary(size: int = len(PIECES) + 3) -> Vocabulary:
    return Vocabulary(PIECES.__getitem__, size, known=len(PIECES))


def ids(*pieces: bytes) -> list[int]:
    return [PIECES.index(piece) for piece in pieces]


pieces = st.lists(st.sampled_from(range(len(PIECES))), min_size=1, max_size=12)
texts = st.text(alphabet="enumrat é\n ", min_size=1, max_size=8).map(str.encode)


def test_the_doctest() -> None:
    assert doctest.testmod(healing).failed == 0


@given(texts)
@settings(deadline=None)
def test_masks_agree_with_the_obvious_version(text: bytes) -> None:
    mask_V = vocabulary().mask(text)
    assert len(mask_V) == len(PIECES) + 3
    for id, piece in enumerate(PIECES):
        assert mask_V[id] == (bool(piece) and (piece.startswith(text) or text.startswith(piece)))
    assert not mask_V[len(PIECES) :].any()


@given(texts)
@settings(deadline=None)
def test_extends_agrees_with_the_obvious_version(text: bytes) -> None:
    want = any(piece.startswith(text) and piece != text for piece in PIECES)
    assert vocabulary().extends(text) == want


@given(texts)
def test_containing_agrees_with_the_obvious_version(text: bytes) -> None:
    assert vocabulary().containing(text) == [i for i, each in enumerate(PIECES) if text in each]


def test_a_word_cut_short_is_taken_back_whole() -> None:
    healed = Healing(vocabulary(), ids(b"i", b" en", b"u"))
    assert (healed.ids, healed.removed) == (ids(b"i"), b" enu")
    allowed = set(np.flatnonzero(healed([])).tolist())
    assert allowed == set(ids(b" ", b" en", b" enumerate"))
    assert set(np.flatnonzero(healed(ids(b" en"))).tolist()) == set(ids(b"u", b"umerate"))
    assert healed(ids(b" en", b"umerate")) is None
    assert healed(ids(b" enumerate")) is None


def test_whitespace_at_the_end_may_be_part_of_more() -> None:
    healed = Healing(vocabulary(), ids(b":", b"\n"))
    assert healed.removed == b"\n"
    assert healed([])[ids(b"\n    ")[0]]


@pytest.mark.parametrize("end", [[b"x"], [b"umerate"], [b" enumerate"]])
def test_a_text_that_ends_between_tokens_is_left_alone(end: list[bytes]) -> None:
    healed = Healing(vocabulary(), ids(b"a", *end))
    assert (healed.ids, healed.removed, healed([])) == (ids(b"a", *end), b"", None)


def test_control_tokens_and_the_first_token_are_never_taken_back() -> None:
    assert Healing(vocabulary(), [CONTROL, *ids(b" en", b"u")]).ids == [CONTROL]
    assert Healing(vocabulary(), [*ids(b" en"), CONTROL, *ids(b"u")]).removed == b"u"
    assert Healing(vocabulary(), ids(b" en")).removed == b""
    assert Healing(vocabulary(), [*ids(b"a"), CONTROL]).removed == b""


def test_characters_are_not_torn() -> None:
    """é is two bytes; its second one alone begins no text."""
    healed = Healing(vocabulary(), ids(b"a", b"\xc3", b"\xa9"))
    assert healed.removed == "é".encode()


@given(pieces, st.randoms(use_true_random=False))
@settings(deadline=None)
def test_any_walk_along_the_masks_spells_what_was_removed(
    prompt: list[int], random: object
) -> None:
    healed = Healing(vocabulary(), prompt)
    before = b"".join(PIECES[id] for id in prompt)
    assert b"".join(PIECES[id] for id in healed.ids) + healed.removed == before
    healed.removed.decode()
    output: list[int] = []
    while (mask_V := healed(output)) is not None and len(output) < 30:
        allowed = np.flatnonzero(mask_V).tolist()
        output.append(random.choice(allowed))  # type: ignore[attr-defined]
    assert b"".join(PIECES[id] for id in output).startswith(healed.removed)
    assert len(output) <= len(healed.removed)


@given(pieces, st.booleans(), st.data())
@settings(deadline=None, max_examples=200)
def test_an_answer_that_may_not_be_empty_has_a_byte_of_its_own(
    prompt: list[int], heal: bool, data: st.DataObject
) -> None:
    """Whatever tokens are drawn within the mask, the removed bytes are spelled and more than white
    space follows.
    """
    prompt = [CONTROL, *(id for id in prompt if id != CONTROL)]
    healed = Healing(vocabulary(), prompt, heal=heal, nonempty=True)
    output: list[int] = []
    while (mask_V := healed(output)) is not None:
        allowed = np.flatnonzero(mask_V).tolist()
        assert allowed and CONTROL not in allowed
        output.append(data.draw(st.sampled_from(allowed)))
    text = b"".join(PIECES[id] for id in output)
    assert text.startswith(healed.removed)
    assert text[len(healed.removed) :].strip() or len(output) == 30


def test_it_goes_beyond_what_was_removed_within_one_token_where_one_does() -> None:
    healed = Healing(vocabulary(), ids(b":", b"\n"), nonempty=True)
    allowed = set(np.flatnonzero(healed([])).tolist())
    assert allowed == set(ids(b"\n    "))
