"""`self-instruct`: instruction examples whose solutions pass their tests (paper §2.5). Wires
specialize/self_instruct.py to a model or server, and to the sandbox.
"""

from __future__ import annotations

import json as json_module
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from zlib import crc32

import typer

from codellama.cli.options import (
    ContextLength,
    EngineThreads,
    Json,
    ModelName,
    ServerUrl,
    Unconfined,
)
from codellama.cli.output import count_bar, table
from codellama.errors import RequestError

if TYPE_CHECKING:
    from codellama.evaluate.asks import Model
    from codellama.evaluate.executor import SandboxExecutor
    from codellama.specialize.self_instruct import Execute, Funnel, Generate

__all__ = ["self_instruct"]

OUTPUT = "instructions.jsonl"
PAPER = {"questions": 62_000, "unique": 52_000, "solved": 14_000}
WHAT = {
    "questions": "questions asked for and written",
    "unique": "different ones",
    "with_tests": "with tests that are Python",
    "solutions": "solutions run",
    "solved": "questions with a solution that passes",
}


def self_instruct(
    folder: Annotated[Path, typer.Argument(help=f"Where it works; {OUTPUT} is the result.")],
    model: ModelName = None,
    url: ServerUrl = None,
    ask_model: Annotated[
        str | None,
        typer.Option("--ask-model", help="Writes the questions.", show_default="the same"),
    ] = None,
    ask_url: Annotated[
        str | None, typer.Option("--ask-url", help="Its server.", show_default="the same")
    ] = None,
    questions: Annotated[int, typer.Option(min=1, help="Questions to ask for.")] = 100,
    solutions: Annotated[int, typer.Option(min=1, max=100, help="Tried per question.")] = 10,
    per_prompt: Annotated[
        int, typer.Option("--per-prompt", min=1, help="Questions asked for at once.")
    ] = 50,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.8,
    top_p: Annotated[float, typer.Option("--top-p", help="Nucleus.")] = 0.95,
    seed: Annotated[int, typer.Option(help="Of all answers.")] = 0,
    max_tokens: Annotated[
        int, typer.Option("--max-tokens", min=16, help="Longest answer; three times for questions.")
    ] = 512,
    context: ContextLength = None,
    threads: EngineThreads = None,
    license: Annotated[
        str, typer.Option(help="Noted in every row: what the generator's terms say.")
    ] = "unknown",
    unconfined: Unconfined = False,
    json: Json = False,
) -> None:
    """Make instruction examples: questions, tests, and solutions that pass them in the sandbox.

    A run that was cut off goes on where it stopped.

    Example: codellama self-instruct ./instruct --model smollm2:135m --questions 200
    """
    from codellama.evaluate.executor import SandboxExecutor
    from codellama.evaluate.sandbox import Sandbox
    from codellama.specialize.self_instruct import make_instructions, write_conversations

    executor = SandboxExecutor(Sandbox(confined=not unconfined))
    writer = _model(model, url, context, threads)
    asker = _model(ask_model, ask_url, context, threads) if ask_model or ask_url else writer
    settings = {
        "model": writer.identity(), "ask": asker.identity(), "temperature": temperature,
        "top_p": top_p, "seed": seed, "max_tokens": max_tokens, "solutions": solutions,
        "per_prompt": per_prompt,
    }  # fmt: skip
    _check_settings(folder, settings)
    decoding = (temperature, top_p, seed)
    with count_bar() as bar:
        funnel = make_instructions(
            _generate(writer, max_tokens, *decoding),
            _execute(executor),
            folder,
            questions=questions,
            solutions=solutions,
            per_prompt=per_prompt,
            seed=seed,
            workers=writer.parallel,
            ask=_generate(asker, 3 * max_tokens, *decoding),
            on_progress=lambda done, total: bar(done, total, "questions"),
        )
    write_conversations(funnel.triples, folder / OUTPUT, license)
    _print(funnel, folder / OUTPUT, as_json=json)


def _model(model: str | None, url: str | None, context: int | None, threads: int | None) -> Model:
    from codellama.cli.evaluation_models import LazyModel, UrlModel
    from codellama.hub.catalogue import DEFAULT_MODEL

    if url is None:
        return LazyModel(model or DEFAULT_MODEL, context, threads)
    if model is None:
        raise RequestError("a URL needs the model's name on that server: --model or --ask-model")
    return UrlModel(url, model)


def _generate(
    model: Model, max_tokens: int, temperature: float, top_p: float, seed: int
) -> Generate:
    from codellama.evaluate.asks import Decoding, Talk

    def generate(prompt: str, count: int, first: int) -> list[str]:
        # A seed of its own for each prompt and number: the order of asking changes nothing.
        own = (seed + crc32(f"{first}\0{prompt}".encode())) % 2**31
        decoding = Decoding(temperature=temperature, top_p=top_p, seed=own)
        ask = Talk((("user", prompt),), (), max_tokens)
        return [str(answer) for answer in model.answers(ask, count, decoding)]

    return generate


def _execute(executor: SandboxExecutor) -> Execute:
    """Solution and tests in a box each: a solution that exits early or that equals everything
    gains nothing.
    """
    from codellama.evaluate.programs import defined_names
    from codellama.evaluate.python_judge import PythonProgram

    def execute(solution: str, tests: Sequence[str]) -> bool:
        try:
            names = defined_names(solution)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return False
        return executor.python(PythonProgram(solution, "\n".join(tests), names)).passed

    return execute


def _check_settings(folder: Path, settings: dict[str, Any]) -> None:
    """A folder holds one run's answers: the number of questions may grow, nothing else changes."""
    from codellama.evaluate.records import write_json
    from codellama.evaluate.run import read_json

    path = folder / "config.json"
    if not path.exists():
        write_json(path, settings)
        return
    before = read_json(path)
    changed = [key for key in settings if before.get(key) != settings[key]]
    if changed:
        raise RequestError(
            f"{folder} holds a run with other settings ({', '.join(changed)}): take another folder"
        )


def _print(funnel: Funnel, output: Path, *, as_json: bool) -> None:
    counts = funnel.counts()
    if as_json:
        print(json_module.dumps({**counts, "output": str(output)}))
        return
    rows = []
    for key, count in counts.items():
        share = f"{count / funnel.unique:.1%}" if key == "solved" and funnel.unique else ""
        paper = f"{PAPER[key]:,}" if key in PAPER else ""
        rows.append((WHAT[key], f"{count:,}", share, paper))
    print(table(rows, ("STEP", "COUNT", "OF THE DIFFERENT", "PAPER")))
    print(f"\n{output}")
