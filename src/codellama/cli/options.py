"""Options that several verbs have, as Typer parses them: one name, one help text."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = [
    "ContextLength",
    "EngineThreads",
    "Json",
    "KvTypeName",
    "ModelName",
    "ServerUrl",
    "Unconfined",
]

ModelName = Annotated[str | None, typer.Option("--model", "-m", help="A name, a file or a folder.")]
ServerUrl = Annotated[str | None, typer.Option(help="A server: OpenAI's …/v1 or Ollama's …/api.")]
ContextLength = Annotated[int | None, typer.Option(help="Serve this context, in tokens.")]
EngineThreads = Annotated[int | None, typer.Option(help="CPU threads of the engine.")]
KvTypeName = Annotated[
    str,
    typer.Option(
        "--kv-type", metavar="f16|q8_0", help="How the cache keeps keys and values: 16 or 8 bits."
    ),
]
Unconfined = Annotated[
    bool,
    typer.Option(
        "--unsafe-run-without-isolation",
        help="Run what models wrote without a sandbox. Only on a disposable machine.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
