"""`codellama serve` and `codellama ps`: the options of the one (what they do is serving.py's), and
who is loaded.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from codellama.cli.options import Json
from codellama.errors import CodeLlamaError

__all__ = ["ps", "serve"]

Host = Annotated[
    str | None, typer.Option(help="Address to listen on.", show_default="127.0.0.1, or OLLAMA_HOST")
]
Port = Annotated[int | None, typer.Option(help="Port; 0 takes a free one.", show_default="11434")]


def serve(
    host: Host = None,
    port: Port = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="What requests without a model, and `codellama`, mean: a name or path. It is "
            "loaded at once."
        ),
    ] = None,
    context: Annotated[
        int | None,
        typer.Option(help="Prompt and answer together, in tokens.", show_default="the model's own"),
    ] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, mps.")] = "auto",
    kv_type: Annotated[
        str | None,
        typer.Option(
            "--kv-type",
            metavar="f16|q8_0",
            help="How caches keep keys and values: 16 or 8 bits.",
            show_default="f16, or OLLAMA_KV_CACHE_TYPE",
        ),
    ] = None,
    keep_alive: Annotated[
        str | None, typer.Option(help="How long models stay loaded: 10m, -1.", show_default="5m")
    ] = None,
    api_keys: Annotated[
        Path | None, typer.Option("--api-keys", help="File of hashed API keys to ask for.")
    ] = None,
    new_key: Annotated[
        str | None, typer.Option("--new-key", help="Add a key of this name to --api-keys and exit.")
    ] = None,
    certificate: Annotated[Path | None, typer.Option(help="TLS certificate (PEM).")] = None,
    private_key: Annotated[
        Path | None, typer.Option("--private-key", help="The certificate's key (PEM).")
    ] = None,
    allow_public: Annotated[
        bool,
        typer.Option("--allow-public-without-key", help="Serve a public address to everyone."),
    ] = False,
    requests_per_minute: Annotated[
        int | None, typer.Option("--requests-per-minute", help="Limit per client address.")
    ] = None,
    max_seconds: Annotated[
        float | None, typer.Option("--max-seconds", help="Longest a request may take.")
    ] = None,
    cache: Annotated[
        bool, typer.Option("--cache/--no-cache", help="Keep prefix caches between runs.")
    ] = True,
    slot_save_path: Annotated[
        Path | None,
        typer.Option(
            "--slot-save-path", help="Folder in which clients may keep prefix caches (/slots)."
        ),
    ] = None,
    json_logs: Annotated[bool, typer.Option("--json-logs", help="Log one JSON object a line.")] = (
        False
    ),
) -> None:
    """Serve Ollama's, OpenAI's and llama.cpp's APIs on one port, for editors and programs.

    Example: codellama serve --model smollm2:135m
    """
    from codellama.cli import serving

    serving.serve(
        host=host, port=port, model=model, context=context, threads=threads, device=device,
        kv_type=kv_type, keep_alive=keep_alive, api_keys=api_keys, new_key=new_key,
        certificate=certificate, private_key=private_key, allow_public=allow_public,
        requests_per_minute=requests_per_minute, max_seconds=max_seconds, cache=cache,
        slot_save_path=slot_save_path, json_logs=json_logs,
    )  # fmt: skip


def ps(
    as_json: Json = False,
) -> None:
    """Models that a running server has loaded.

    Example: codellama ps
    """
    import httpx

    from codellama.cli.output import human_bytes, table
    from codellama.serve.settings import Settings

    settings = Settings.from_environment()
    host = "127.0.0.1" if settings.host in ("0.0.0.0", "::") else settings.host
    url = f"http://{f'[{host}]' if ':' in host else host}:{settings.port}"
    key = os.environ.get("OLLAMA_API_KEY")
    headers = {"authorization": f"Bearer {key}"} if key else {}
    try:
        reply = httpx.get(f"{url}/api/ps", headers=headers, timeout=10, trust_env=False)
        reply.raise_for_status()
        models = reply.json()["models"]
    except httpx.HTTPStatusError as error:
        raise CodeLlamaError(f"{url} answers {error.response.status_code}") from None
    except (httpx.HTTPError, ValueError, KeyError):
        raise CodeLlamaError(f"no server answers at {url}: start one with `codellama serve`") from (
            None
        )
    if as_json:
        print(json.dumps(models))
        return
    rows = [
        (m["name"], human_bytes(m["size"]), str(m["context_length"]), m["expires_at"][:19] + "Z")
        for m in models
    ]
    print(table(rows, ("NAME", "MEMORY", "CONTEXT", "UNTIL")) if rows else "no models are loaded")
