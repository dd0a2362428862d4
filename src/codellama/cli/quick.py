"""`run`, `complete` and `serve` without Typer, whose import and pydantic's, which it needs to
convert values, took 110 ms of the 600 between the shell and the first token.

Understands what is beyond doubt: options by their full names, values after a space or `=`, plain
numbers. Whatever else there is (`--help`, a mistake, `-n5`, `--`) is left to Typer, which alone
writes messages. What options there are is said in app.py; a test holds the table here to it.
"""

from __future__ import annotations

import gc
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["VERBS", "Verb", "parse", "run"]


def _whole(text: str) -> int | None:
    return int(text) if re.fullmatch("[0-9]{1,18}", text) else None


def _number(text: str) -> float | None:
    return float(text) if re.fullmatch(r"[0-9]+(\.[0-9]+)?", text) else None


Convert = Callable[[str], Any]
"""The value that a text means, or None where Typer shall say."""

_SAMPLING: dict[str, Convert] = {
    "temperature": _number,
    "top_p": _number,
    "top_k": _whole,
    "seed": _whole,
    "max_tokens": _whole,
}
_ENGINE: dict[str, Convert] = {"context": _whole, "threads": _whole, "kv_type": str}
_KEPT = {"kv_type": "f16"}


class Verb(NamedTuple):
    """A verb's parameters by the names that app.py gives them, and their defaults there.

    Attributes:
        words: the positional one, "" for none; `most` words are taken, None for any number of them.
        flags: options without a value, and what they set to what.
        repeated: options that are given any number of times.
    """

    words: str
    most: int | None
    values: Mapping[str, Convert]
    flags: Mapping[str, tuple[str, bool]]
    repeated: Sequence[str]
    defaults: Mapping[str, Any]


VERBS = {
    "run": Verb(
        "words",
        None,
        {"system": str, **_SAMPLING, **_ENGINE},
        {"raw": ("raw", True), "verbose": ("verbose", True)},
        (),
        {"raw": False, "verbose": False, **_KEPT},
    ),
    "complete": Verb(
        "model",
        1,
        {"suffix_file": Path, "stop": str, **_SAMPLING, **_ENGINE},
        {"nonempty": ("nonempty", True), "json": ("json", True)},
        ("stop",),
        {"temperature": 0.0, "max_tokens": 128, "nonempty": False, "json": False, **_KEPT},
    ),
    "serve": Verb(
        "",
        0,
        {
            "host": str,
            "port": _whole,
            "model": str,
            **_ENGINE,
            "device": str,
            "keep_alive": str,
            "api_keys": Path,
            "new_key": str,
            "certificate": Path,
            "private_key": Path,
            "requests_per_minute": _whole,
            "max_seconds": _number,
            "slot_save_path": Path,
        },
        {
            "allow_public_without_key": ("allow_public", True),
            "cache": ("cache", True),
            "no_cache": ("cache", False),
            "json_logs": ("json_logs", True),
        },
        (),
        {"device": "auto", "allow_public": False, "cache": True, "json_logs": False},
    ),
}


def parse(arguments: Sequence[str]) -> dict[str, Any] | None:
    """The verb's parameters by name, every one of them; None where this is left to Typer."""
    verb = VERBS.get(arguments[0]) if arguments else None
    if verb is None:
        return None
    found: dict[str, Any] = dict.fromkeys(verb.values)
    found.update(verb.defaults)
    words: list[str] = []
    rest = iter(arguments[1:])
    for argument in rest:
        if not argument.startswith("-"):
            words.append(argument)
            continue
        option, equals, text = argument.partition("=")
        name = "max_tokens" if option == "-n" and not equals else _name(option)
        if name in verb.flags and not equals:
            parameter, setting = verb.flags[name]
            found[parameter] = setting
            continue
        convert = verb.values.get(name)
        text = text if equals else next(rest, "-")
        value = None if convert is None or text.startswith("-") else convert(text)
        if value is None:
            return None
        found[name] = [*(found[name] or ()), value] if name in verb.repeated else value
    if verb.most is not None and len(words) > verb.most:
        return None
    if verb.words:
        found[verb.words] = words if verb.most is None else (words[0] if words else None)
    return found


def _name(option: str) -> str:
    """`--max-tokens` → max_tokens; "" for what is not written so."""
    return option[2:].replace("-", "_") if re.fullmatch("--[a-z]+(-[a-z]+)*", option) else ""


def run(arguments: Sequence[str]) -> bool:
    """Do what these arguments say; False, and nothing is done, where Typer must read them."""
    found = parse(arguments)
    if found is None:
        return False
    # OpenBLAS's threads spin while NumPy is imported: 250 → 110 ms of processor time on two
    # processors that share a core. Only merging an adapter, once, multiplies in NumPy.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # Nothing that imports and loading make is garbage, and looking for some takes a tenth of a
    # start; verbs collect again when they have their model, or listen.
    gc.disable()
    try:
        _do(arguments[0], found)
    finally:
        gc.enable()
    return True


def _do(verb: str, found: dict[str, Any]) -> None:
    if verb == "serve":
        from codellama.cli import serving

        serving.serve(**found)
        return
    from codellama.cli import generate

    params = generate.parameters(*(found.pop(name) for name in _SAMPLING))
    if verb == "run":
        generate.run(found.pop("words"), params, **found)
        return
    if stop := found.pop("stop"):
        params["stop"] = stop
    as_json = found.pop("json")
    generate.complete(
        found.pop("model"), found.pop("suffix_file"), params, as_json=as_json, **found
    )
