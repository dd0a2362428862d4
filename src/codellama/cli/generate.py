"""`run` and `complete`: load a model, stream its answer to standard output.

Tokens go to stdout as they come, everything else (progress, timings) to stderr, so that output can
be piped. The path of a one-shot answer imports no terminal library.
"""

from __future__ import annotations

import gc
import json
import shlex
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codellama.cli.output import progress_bar
from codellama.errors import NotFoundError, RequestError
from codellama.hub.catalogue import DEFAULT_MODEL
from codellama.repl import Repl, timings

if TYPE_CHECKING:
    from codellama import CodeLlama
    from codellama.api import TextIterator

__all__ = ["complete", "load", "parameters", "run"]

# The reference code's examples use 0.2 and 0.95 for instructions; code wants few surprises.
TEMPERATURE, TOP_P = 0.2, 0.95


def parameters(
    temperature: float | None,
    top_p: float | None,
    top_k: int | None,
    seed: int | None,
    max_tokens: int | None,
) -> dict[str, Any]:
    """SamplingParams' fields from options; those not given get this command line's defaults."""
    params: dict[str, Any] = {
        "temperature": TEMPERATURE if temperature is None else temperature,
        "top_p": TOP_P if top_p is None else top_p,
        "max_tokens": max_tokens,
    }
    if top_k is not None:
        params["top_k"] = top_k
    if seed is not None:
        params["seed"] = seed
    return params


def load(
    model: str, *, context: int | None, threads: int | None, kv_type: str = "f16"
) -> CodeLlama:
    """A model by name, pulled when it is not here yet. Garbage is collected afterwards only."""
    gc.disable()
    try:
        from codellama import CodeLlama
        from codellama.hub import resolve

        try:
            path = resolve(model)
        except NotFoundError:
            with progress_bar() as progress:
                path = resolve(model, pull=True, progress=progress)
        return CodeLlama.load(path, context=context, threads=threads, kv_type=kv_type)
    finally:
        gc.enable()


def split_words(words: list[str]) -> tuple[str, str | None]:
    """(model, prompt): the first word is the model if it names one, otherwise all words are the
    prompt.

    A lone word that may be either is an error that says both readings: neither a misspelt model
    that another one answers nor a question that goes to a registry is what somebody meant.
    """
    from codellama.hub import resolve
    from codellama.hub.names import is_name

    if not words:
        return DEFAULT_MODEL, None
    first, rest = words[0], words[1:]
    if " " in first.strip() or "\n" in first:
        return DEFAULT_MODEL, " ".join(words)
    try:
        resolve(first)
    except NotFoundError as error:
        if not _must_be_model(first):
            if rest or not is_name(first):
                return DEFAULT_MODEL, " ".join(words)
            ask = shlex.join(("codellama", "run", DEFAULT_MODEL, first))
            raise NotFoundError(f"{error}; to ask {DEFAULT_MODEL} just that: `{ask}`") from None
    return first, " ".join(rest) if rest else None


def _must_be_model(word: str) -> bool:
    """Whether it is written as no prompt begins: a tag, a path, or a name of the catalogue."""
    from codellama.hub.catalogue import canonical
    from codellama.hub.names import is_name, looks_like_path, parse_name

    if not is_name(word):
        return looks_like_path(word)
    return ":" in word or "/" in word or canonical(parse_name(word)) is not None


def _piped() -> str:
    """All of standard input, its line ends untouched."""
    try:
        return sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError:
        raise RequestError("standard input is not UTF-8 text") from None


def _is_text(words: str) -> bool:
    """False for arguments with bytes that are no UTF-8, which Python keeps as lone surrogates."""
    return not any("\ud800" <= letter <= "\udfff" for letter in words)


def run(
    words: list[str],
    params: dict[str, Any],
    *,
    system: str | None,
    raw: bool,
    verbose: bool,
    context: int | None,
    threads: int | None,
    kv_type: str,
) -> None:
    """One answer, or a conversation when there is neither a prompt nor piped input."""
    from codellama.api.chatting import is_chat_model, without_circles

    model, prompt = split_words(words)
    if prompt is not None and not _is_text(prompt):
        raise RequestError("the prompt is not UTF-8 text")
    if not sys.stdin.isatty():
        piped = _piped().strip()
        prompt = "\n\n".join(part for part in (prompt, piped) if part) or None
        if prompt is None:
            raise RequestError("nothing to do: give a prompt, or pipe one in")
    begin = time.perf_counter()
    loading = partial(load, context=context, threads=threads, kv_type=kv_type)
    llm = loading(model)
    loaded = time.perf_counter() - begin
    if prompt is None:
        repl = Repl(
            llm,
            model,
            params,
            system=system,
            verbose=verbose,
            load=loading,
        )
        repl.loop()
        return
    if raw or not is_chat_model(llm, model):
        pieces = llm.stream(prompt, **params)
    else:
        messages = [{"role": "system", "content": system}] if system else []
        asked = [*messages, {"role": "user", "content": prompt}]
        pieces = llm.stream_chat(asked, **without_circles(llm, params))
    write(pieces, loaded if verbose else None)


def write(pieces: TextIterator, verbose_load_s: float | None = None) -> None:
    """Stream to stdout; the cursor ends on a new line. With a load time, timings follow on
    stderr.
    """
    begin, first = time.perf_counter(), None
    last = ""
    with pieces:
        for piece in pieces:
            first = first or time.perf_counter()
            sys.stdout.write(piece)
            sys.stdout.flush()
            last = piece
    if not last.endswith("\n"):
        sys.stdout.write("\n")
    sys.stdout.flush()
    if verbose_load_s is not None:
        print(timings(pieces, begin, first, verbose_load_s), file=sys.stderr)


def complete(
    model: str | None,
    suffix_file: Path | None,
    params: dict[str, Any],
    *,
    nonempty: bool,
    as_json: bool,
    context: int | None,
    threads: int | None,
    kv_type: str,
) -> None:
    """The prefix comes on stdin, whole and untouched. What is typed at may end inside a token (a
    newline and the indentation after it are one): that boundary is undone.
    """
    from codellama.api.chatting import without_circles

    suffix = None
    if nonempty and suffix_file is None:
        raise RequestError("--nonempty is about a gap: it needs --suffix-file")
    if suffix_file is not None:
        try:
            suffix = suffix_file.read_bytes().decode("utf-8")
        except OSError as error:
            raise RequestError(f"--suffix-file {suffix_file}: {error.strerror}") from None
        except UnicodeDecodeError:
            raise RequestError(f"--suffix-file {suffix_file}: not UTF-8 text") from None
    prefix = _piped()
    if not prefix and not suffix:
        raise RequestError("nothing to complete: the prefix is read from standard input")
    llm = load(model or DEFAULT_MODEL, context=context, threads=threads, kv_type=kv_type)
    if suffix is not None:
        params = without_circles(llm, params, fills=True)
    if as_json:
        done = (
            llm.complete(prefix, heal=True, **params)
            if suffix is None
            else llm.infill(prefix, suffix, nonempty=nonempty, **params)
        )
        usage = {
            "prompt_tokens": done.usage.prompt_tokens,
            "completion_tokens": done.usage.completion_tokens,
        }
        answer = {"text": done.text, "finish_reason": done.finish_reason, "usage": usage}
        print(json.dumps({**answer, "tokens": list(done.tokens)}))
        return
    write(
        llm.stream(prefix, heal=True, **params)
        if suffix is None
        else llm.stream_infill(prefix, suffix, nonempty=nonempty, **params)
    )
