"""The command line without Typer: it understands what Typer does, or leaves it alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import typer
from hypothesis import example, given, settings
from hypothesis import strategies as st

from codellama.cli import generate, quick, serving
from codellama.cli.app import app

COMMAND: Any = typer.main.get_command(app)
TOKENS = [
    "run", "complete", "m.gguf", "two words", "", "-", "--", "-h", "--help", "--raw", "--json",
    "--verbose", "--temperature", "--temperature=0.5", "--top-p", "0.9", "1e-3", "--top-k", "40",
    "-5", "--seed", "--seed=7", "--seed=", "7_0", " 7", "--max-tokens", "-n", "-n5", "-n=5", "5",
    "--context", "--threads=2", "--stop", "--stop=a=b", "--suffix-file", "x.py", "--system", "é",
    "--top_p", "--raw=1", "--no-raw", "--unknown", "--tem", "nan", "99999999999999999999", "--host",
    "--port", "--port=0", "--model", "--device", "cpu", "--kv-type", "--keep-alive", "10m",
    "--api-keys", "--allow-public-without-key", "--allow-public", "--cache", "--no-cache",
    "--json-logs",
]  # fmt: skip


@pytest.mark.parametrize("verb", quick.VERBS)
def test_the_table_is_the_one_that_typer_has(verb: str) -> None:
    """Every parameter, with the same spelling, default and kind."""
    ours = quick.parse([verb])
    typers = {p.name: p for p in COMMAND.commands[verb].params if p.name != "help"}
    assert ours is not None
    assert set(ours) == set(typers)
    table = quick.VERBS[verb]
    for name, parameter in typers.items():
        if name == table.words:
            assert parameter.param_type_name == "argument"
            assert (parameter.nargs == -1) == (table.most is None)
            continue
        extra = ["-n"] if name == "max_tokens" else []
        flags = [option for option, (sets, _) in table.flags.items() if sets == name]
        spelled = sorted("--" + each.replace("_", "-") for each in flags or [name])
        assert sorted([*parameter.opts, *parameter.secondary_opts]) == sorted([*spelled, *extra])
        assert parameter.is_flag == bool(flags)
        assert parameter.multiple == (name in table.repeated)


def replaced(monkeypatch: pytest.MonkeyPatch, asked: list[Any]) -> None:
    """What the verbs do is noted instead, as (verb, arguments)."""
    for module, name in ((generate, "run"), (generate, "complete"), (serving, "serve")):
        monkeypatch.setattr(
            module, name, lambda *a, _name=name, **k: asked.append((_name, a, sorted(k.items())))
        )


def by_typer(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """What generate.py is asked for, or None where Typer refuses, or asks for nothing."""
    asked: list[Any] = []
    replaced(monkeypatch, asked)
    try:
        COMMAND(arguments, standalone_mode=False)
    except Exception:
        return None
    return asked[0] if asked else None


def by_quick(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    asked: list[Any] = []
    replaced(monkeypatch, asked)
    done = quick.run(arguments)
    assert done == bool(asked)
    return asked[0] if asked else None


@settings(max_examples=400, deadline=None)
@given(
    verb=st.sampled_from(["run", "complete", "serve"]),
    rest=st.lists(st.sampled_from(TOKENS) | st.text(max_size=3), max_size=6),
)
@example(verb="run", rest=["m.gguf", "a question", "--raw", "-n", "5", "--seed=3"])
@example(verb="complete", rest=["m", "--stop", "a", "--stop=b", "--json", "--suffix-file", "x.py"])
def test_what_is_understood_is_what_typer_understands(verb: str, rest: list[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        quickly = by_quick([verb, *rest], patch)
    if quickly is not None:
        with pytest.MonkeyPatch.context() as patch:
            assert by_typer([verb, *rest], patch) == quickly


@pytest.mark.parametrize(
    "arguments",
    [
        ["run"],
        ["run", "m.gguf", "What is a list?", "--system", "Be short.", "--temperature", "0.5"],
        ["run", "--raw", "--verbose", "--top-p=0.9", "--top-k", "40", "--context", "512", "x"],
        ["complete"],
        ["complete", "m.gguf", "-n", "1", "--threads", "2", "--stop", "\ndef", "--json"],
        ["serve"],
        ["serve", "--model", "m.gguf", "--port=0", "--no-cache", "--kv-type", "q8_0"],
        ["serve", "--host", "0.0.0.0", "--allow-public-without-key", "--max-seconds", "2.5"],
    ],
)
def test_ordinary_commands_need_no_typer(arguments: list[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        quickly = by_quick(arguments, patch)
    assert quickly is not None
    with pytest.MonkeyPatch.context() as patch:
        assert by_typer(arguments, patch) == quickly


@pytest.mark.parametrize(
    "arguments",
    [
        [], ["pull"], ["serve", "x"], ["run", "--help"], ["run", "-n5"], ["run", "--", "x"],
        ["run", "--seed"], ["run", "--temperature", "warm"], ["complete", "a", "b"],
        ["run", "--suffix-file", "x"], ["serve", "--port", "http"],
    ],
)  # fmt: skip
def test_the_rest_is_left_to_typer(arguments: list[str]) -> None:
    assert quick.parse(arguments) is None


def test_a_path_stays_a_path() -> None:
    found = quick.parse(["complete", "--suffix-file", "a/b.py"])
    assert found is not None and found["suffix_file"] == Path("a/b.py")
