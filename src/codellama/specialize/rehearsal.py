"""What a model itself writes, to be trained on beside new data: it keeps what it could do.

    texts          an opening of OPENINGS, and how the model goes on
    conversations  a question that it asks itself where its chat format has the user's turn begin
                   (Magpie, arXiv 2406.08464), and its answer
    functions      a function of a corpus, asked for by header and docstring, and its answer

After self-synthesized rehearsal (arXiv 2403.01244). Nothing here is better than the model, and
answers are not looked at. `Writer` is passed in: no engine is known here. Every row is on the disk
before the next is asked for; a run that is killed goes on where it stopped.
"""

from __future__ import annotations

import ast
import random
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from codellama.specialize.jsonl import append_row, read_rows

__all__ = ["OPENINGS", "Writer", "request_for", "write_rehearsal"]

OPENINGS = (
    *("What", "Who", "Why", "When", "Where", "How", "Is", "Are", "Can", "Does", "Did", "If"),
    *("Which", "In which", "What happens if", "Is it true that", "Do", "Should", "How many"),
    *("How long", "What is the", "Who was", "Why do", "What are", "Were", "Was", "Could", "Has"),
    *("The", "He", "She", "In", "A", "It", "They", "His", "Her", "This", "There", "After"),
    *("During", "As", "One", "Many", "People", "At", "By", "On", "Most", "We", "You", "Since"),
)
_REQUESTS = (
    "Complete this Python function:\n\n```python\n{header}```",
    "Write the body of this function.\n\n```python\n{header}```",
    "Write a Python function `{call}`. {summary}",
    "Implement `{name}` in Python. {summary}\n\nReturn only the code.",
    "{summary} Write it as a Python function named {name}.",
    "Finish the function below and answer with a code block.\n\n{header}",
)
_LONGEST_DOCSTRING = 500  # characters


class Writer(Protocol):
    """A model. Calls come from several threads; the same seed gives the same text."""

    def text(self, opening: str, seed: int) -> str:
        """How it goes on after an opening, which is not repeated."""
        ...

    def question(self, seed: int) -> str | None:
        """What it expects a user to ask; None where it came to no end."""
        ...

    def answer(self, question: str, seed: int) -> str | None:
        """Its answer; None where it came to no end."""
        ...


def write_rehearsal(
    writer: Writer,
    path: Path,
    *,
    texts: int,
    conversations: int,
    functions: Sequence[str] = (),
    license: str = "unknown",
    seed: int = 0,
    workers: int = 1,
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[str, int]:
    """Rows for `codellama corpus build`: texts of the set nl, conversations of the set instruct.

    Args:
        functions: Python sources of a function each; those without a docstring are left out.
        license: of what the model writes, noted in every row.
        on_progress: called with (rows asked for, all).

    Returns: rows of each kind.
    """
    known = {str(row.get("path")) for row in read_rows(path)}
    asked = [request_for(text, random.Random(seed + i)) for i, text in enumerate(functions)]
    todo: list[tuple[str, Callable[[], dict[str, Any] | None]]] = [
        *((f"texts/{i}", partial(_text, writer, seed + i)) for i in range(texts)),
        *((f"conversations/{i}", partial(_talk, writer, seed + i)) for i in range(conversations)),
        *(
            (f"functions/{i}", partial(_answered, writer, request, seed + i))
            for i, request in enumerate(asked)
            if request is not None
        ),
    ]
    left = [each for each in todo if each[0] not in known]
    before = len(todo) - len(left)
    with ThreadPoolExecutor(max(1, workers)) as pool:
        made = pool.map(lambda each: (each[0], each[1]()), left)
        for done, (where, row) in enumerate(made, before + 1):
            append_row(path, {"path": where, "license": license, **(row or {})})
            if on_progress is not None:
                on_progress(done, len(todo))
    return _counts(read_rows(path))


def request_for(function: str, numbers: random.Random) -> str | None:
    """A request for a function by its header and docstring, in one of several forms; None for what
    is no single function with a docstring.

    >>> request_for('def half(x):\\n    "Half of it."\\n    return x / 2\\n', random.Random(9))
    'Write a Python function `half(x)`. Half of it.'
    """
    try:
        found = [n for n in ast.parse(function).body if isinstance(n, ast.FunctionDef)]
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    doc = ast.get_docstring(found[0]) if len(found) == 1 else None
    if not doc or len(doc) > _LONGEST_DOCSTRING or len(found[0].body) < 2:
        return None
    lines = function.split("\n")[: found[0].body[0].end_lineno]
    return _REQUESTS[int(numbers.random() * len(_REQUESTS))].format(
        header="\n".join(lines) + "\n",
        call=f"{found[0].name}({', '.join(each.arg for each in found[0].args.args)})",
        name=found[0].name,
        summary=" ".join(doc.partition("\n\n")[0].split()),
    )


def _text(writer: Writer, seed: int) -> dict[str, Any] | None:
    opening = OPENINGS[int(random.Random(seed).random() * len(OPENINGS))]
    text = writer.text(opening, seed)
    return {"text": opening + text, "set": "nl", "language": "text"} if text.strip() else None


def _talk(writer: Writer, seed: int) -> dict[str, Any] | None:
    question = writer.question(seed)
    return _answered(writer, question, seed) if question and question.strip() else None


def _answered(writer: Writer, question: str, seed: int) -> dict[str, Any] | None:
    answer = writer.answer(question, seed)
    if not answer or not answer.strip():
        return None
    turns = (("user", question), ("assistant", answer))
    messages = [{"role": role, "content": content} for role, content in turns]
    return {"messages": messages, "set": "instruct"}


def _counts(rows: Sequence[dict[str, Any]]) -> dict[str, int]:
    counts = {"texts": 0, "conversations": 0, "functions": 0, "without an end": 0}
    for row in rows:
        kind = str(row.get("path", "")).partition("/")[0]
        counts[kind if "set" in row else "without an end"] += 1
    return counts
