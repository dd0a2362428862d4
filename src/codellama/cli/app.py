"""The verbs and their options, as Typer parses them. What they do is in generate.py and
models.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from codellama.cli import corpus, evaluation, generate, models, specialize
from codellama.cli import serve as serving
from codellama.cli.bench import bench
from codellama.cli.options import Json, KvTypeName
from codellama.cli.self_instruct import self_instruct

__all__ = ["app"]

app = typer.Typer(
    name="codellama",
    help="Code Llama as one tool: talk to it, complete and infill code, convert models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Words = Annotated[
    list[str] | None, typer.Argument(metavar="[MODEL] [PROMPT]", help="A model, a prompt, or both.")
]
Temperature = Annotated[float | None, typer.Option(help="0 is greedy.", show_default="0.2")]
TopP = Annotated[float | None, typer.Option("--top-p", help="Nucleus.", show_default="0.95")]
TopK = Annotated[int | None, typer.Option("--top-k", help="Keep the k likeliest tokens.")]
Seed = Annotated[int | None, typer.Option(help="Makes the answer repeatable.")]
MaxTokens = Annotated[int | None, typer.Option("--max-tokens", "-n", help="Longest answer.")]
Context = Annotated[int | None, typer.Option(help="Prompt and answer together, in tokens.")]
Threads = Annotated[int | None, typer.Option(help="CPU threads.", show_default="one per core")]
Model = Annotated[str, typer.Argument(help="A name, a file or a folder.")]


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"codellama {version('codellama')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def run(
    words: Words = None,
    system: Annotated[str | None, typer.Option(help="System message of the chat.")] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Continue the prompt as text; no chat.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Print timings afterwards.")] = False,
    temperature: Temperature = None,
    top_p: TopP = None,
    top_k: TopK = None,
    seed: Seed = None,
    max_tokens: MaxTokens = None,
    context: Context = None,
    threads: Threads = None,
    kv_type: KvTypeName = "f16",
) -> None:
    """Talk to a model: an answer to PROMPT, or a conversation without one. Piped input joins the
    prompt.

    Example: codellama run smollm2:135m "What does map() do in Python?"
    """
    params = generate.parameters(temperature, top_p, top_k, seed, max_tokens)
    generate.run(
        words or [],
        params,
        system=system,
        raw=raw,
        verbose=verbose,
        context=context,
        threads=threads,
        kv_type=kv_type,
    )


@app.command()
def complete(
    model: Annotated[str | None, typer.Argument(help="A name, a file or a folder.")] = None,
    suffix_file: Annotated[
        Path | None, typer.Option("--suffix-file", help="Infill: what comes after the gap.")
    ] = None,
    stop: Annotated[
        list[str] | None, typer.Option(help="End before this text; repeatable.")
    ] = None,
    nonempty: Annotated[
        bool, typer.Option("--nonempty", help="Something is missing: more than white space.")
    ] = False,
    json: Json = False,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.0,
    top_p: TopP = None,
    top_k: TopK = None,
    seed: Seed = None,
    max_tokens: Annotated[int, typer.Option("--max-tokens", "-n", help="Longest answer.")] = 128,
    context: Context = None,
    threads: Threads = None,
    kv_type: KvTypeName = "f16",
) -> None:
    """Continue the code on standard input, or fill the gap between it and a suffix.

    Example: echo "def fib(n):" | codellama complete --max-tokens 64
    """
    params = generate.parameters(temperature, top_p, top_k, seed, max_tokens)
    if stop:
        params["stop"] = stop
    generate.complete(
        model,
        suffix_file,
        params,
        nonempty=nonempty,
        as_json=json,
        context=context,
        threads=threads,
        kv_type=kv_type,
    )


@app.command()
def pull(
    name: Annotated[str, typer.Argument(help="A model's name; see `codellama show`.")],
) -> None:
    """Download a model: resumed where it broke off, verified, in place only when whole.

    Names: smollm2:135m, codellama:7b-instruct-q4_K_M, hf.co/ORG/REPO:QUANT, or any Ollama name.

    Example: codellama pull smollm2:135m
    """
    models.pull(name)


@app.command("list")
def list_models(json: Json = False) -> None:
    """Models on this machine: pulled ones, Ollama's, and the Hugging Face cache's.

    Example: codellama list
    """
    models.list_models(as_json=json)


app.command("ls", hidden=True)(list_models)


@app.command()
def show(
    model: Model,
    context: Annotated[
        list[int] | None, typer.Option(help="Context lengths to size the cache for; repeatable.")
    ] = None,
    json: Json = False,
) -> None:
    """What a model is: architecture, quantization, context, license, and the memory it needs.

    Example: codellama show smollm2:135m --context 2048 --context 8192
    """
    models.show(model, context or [], as_json=json)


@app.command()
def rm(names: Annotated[list[str], typer.Argument(help="Models to remove.")]) -> None:
    """Remove models from the local store. Files of Ollama and Hugging Face are not touched.

    Example: codellama rm codellama:7b
    """
    models.remove(names)


@app.command()
def cp(source: Model, target: Annotated[str, typer.Argument(help="The new name.")]) -> None:
    """Give a model another name; no bytes are copied.

    Example: codellama cp smollm2:135m helper
    """
    models.copy(source, target)


@app.command()
def quantize(
    source: Model,
    target: Annotated[Path, typer.Argument(help="The GGUF file to write.")],
    type: Annotated[str, typer.Option("--type", "-t", help="Q4_K_M, Q8_0, F16, …")],
) -> None:
    """Write a model as GGUF in another storage type, from GGUF, safetensors or Meta's checkpoints.

    Example: codellama quantize smollm2:135m small.gguf --type Q8_0
    """
    models.quantize(source, target, type)


@app.command()
def export(
    form: Annotated[str, typer.Argument(metavar="{hf,gguf}", help="What to write.")],
    source: Model,
    target: Annotated[Path, typer.Argument(help="A folder (hf) or a file (gguf).")],
) -> None:
    """Convert a model: to a Hugging Face folder (transformers, vLLM) or to GGUF (llama.cpp,
    Ollama).

    Example: codellama export hf smollm2:135m ./smollm2-hf
    """
    models.export(form, source, target)


app.command()(serving.serve)
app.command()(serving.ps)
app.command()(evaluation.evaluate)
app.command()(evaluation.report)
app.command()(evaluation.contamination)
app.command()(bench)
app.command()(specialize.specialize)
app.command()(specialize.plan)
app.command("self-instruct")(self_instruct)
app.add_typer(corpus.app, name="corpus")


@app.command()
def version() -> None:
    """Print the version."""
    _version(True)
