"""`codellama corpus rehearse`: rows that a model writes itself. Wires specialize/rehearsal.py to
the engine.
"""

from __future__ import annotations

import random
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from codellama.cli.options import EngineThreads, ModelName
from codellama.cli.output import count_bar
from codellama.errors import RequestError

if TYPE_CHECKING:
    from codellama import CodeLlama

__all__ = ["rehearse"]

_PARALLEL = 16  # sequences at once: the engine reads the weights once for all


def rehearse(
    out: Annotated[Path, typer.Argument(help="Rows for `codellama corpus build`, .jsonl.")],
    model: ModelName = None,
    texts: Annotated[int, typer.Option(min=0, help="Texts of its own.")] = 500,
    conversations: Annotated[int, typer.Option(min=0, help="Questions of its own, answered.")] = 0,
    functions: Annotated[
        Path | None, typer.Option(help="A corpus whose functions it is asked for.")
    ] = None,
    questions: Annotated[int, typer.Option(min=0, help="How many of them.")] = 500,
    license: Annotated[
        str, typer.Option(help="Noted in every row: what the model's terms say.")
    ] = "unknown",
    seed: Annotated[int, typer.Option(help="Of all texts.")] = 0,
    threads: EngineThreads = None,
) -> None:
    """Rows that a model writes itself: trained on beside new data, they keep what it could do.

    A run that was cut off goes on where it stopped.

    Example: codellama corpus rehearse own.jsonl --model smollm2:135m --license apache-2.0
    """
    from codellama import CodeLlama
    from codellama.hub.catalogue import DEFAULT_MODEL
    from codellama.specialize.rehearsal import write_rehearsal

    if out.suffix != ".jsonl":
        raise RequestError(f"{out}: the name must end in .jsonl")
    out.parent.mkdir(parents=True, exist_ok=True)
    asked = _functions(functions, questions) if functions is not None else []
    llm = CodeLlama.load(model or DEFAULT_MODEL, threads=threads)
    if conversations and not llm.prompts.chats:
        raise RequestError("this model has no chat format: --conversations 0")
    with count_bar() as bar:
        counts = write_rehearsal(
            _Engine(llm),
            out,
            texts=texts,
            conversations=conversations,
            functions=asked,
            license=license,
            seed=seed,
            workers=_PARALLEL,
            on_progress=lambda done, total: bar(done, total, "rows"),
        )
    print(f"{out}: " + ", ".join(f"{count:,} {kind}" for kind, count in counts.items()))


def _functions(corpus: Path, most: int) -> list[str]:
    """Documented functions of a corpus of Python, spread over its sources."""
    from codellama.specialize.corpus.build import load_corpus
    from codellama.specialize.pack import shuffled
    from codellama.specialize.rehearsal import request_for

    texts = [record.text for record in load_corpus(corpus).get("python", [])]
    found: list[str] = []
    for index in shuffled(len(texts), "rehearsal"):
        if len(found) == most:
            break
        if request_for(texts[index], random.Random(0)) is not None:
            found.append(texts[index])
    return found


class _Engine:
    """specialize.rehearsal.Writer over the engine."""

    def __init__(self, llm: CodeLlama) -> None:
        self._llm = llm
        self._head = _head_of_turn(llm) if llm.prompts.chats else []

    def text(self, opening: str, seed: int) -> str:
        return self._llm.complete(
            opening, temperature=0.75, top_p=0.95, top_k=0, seed=seed, max_tokens=80
        ).text

    def question(self, seed: int) -> str | None:
        done = self._llm.complete(
            self._head, temperature=0.8, top_p=0.95, top_k=0, seed=seed, max_tokens=100
        )
        return done.text if done.finish_reason == "stop" else None

    def answer(self, question: str, seed: int) -> str | None:
        done = self._llm.chat(
            [{"role": "user", "content": question}], temperature=0.2, seed=seed, max_tokens=400
        )
        return done.text if done.finish_reason == "stop" else None


def _head_of_turn(llm: CodeLlama) -> list[int]:
    """The ids of a conversation up to where the user's words begin: what two have in common."""
    one, other = (
        llm.prompts.chat([{"role": "user", "content": content}]).ids for content in ("0", "x")
    )
    return [a for a, _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))]
