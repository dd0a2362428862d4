"""A document without its secrets, and whether it gives an evaluation away: a text as it is, a
conversation message by message, since its JSON hides what follows an escape.
"""

from __future__ import annotations

import re
from collections import Counter

from codellama.specialize.corpus.decontaminate import Decontaminator
from codellama.specialize.corpus.record import CHAT, Record, chat_text, turns_of
from codellama.specialize.corpus.secrets import redact

__all__ = ["contamination", "redacted"]

_FENCED = re.compile(r"```[^\n`]*\n(.*?)```", re.DOTALL)


def redacted(record: Record) -> tuple[Record, Counter[str]]:
    """(the record without secrets, how many of each kind)."""
    if record.language != CHAT:
        text, found = redact(record.text)
        return record.with_text(text), found
    turns, counts = [], Counter[str]()
    for role, content in turns_of(record):
        clean, found = redact(content)
        turns.append((role, clean))
        counts += found
    return record.with_text(chat_text(turns)), counts


def contamination(record: Record, guard: Decontaminator) -> str | None:
    """Why it is contaminated, None where it is not; of a conversation also the code in fences."""
    if record.language != CHAT:
        return guard.reason(record.text, record.language)
    text = "\n".join(content for _, content in turns_of(record))
    blocks = (guard.reason(block, "python") for block in _FENCED.findall(text))
    return guard.reason(text, CHAT) or next(filter(None, blocks), None)
