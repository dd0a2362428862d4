"""`codellama serve` and `codellama ps`: options, what to paste into which editor, who is loaded.

The server itself is codellama.serve; it is imported when the verb runs.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from codellama.cli.options import Json
from codellama.errors import CodeLlamaError, RequestError

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
        typer.Option(help="What requests without a model, and `codellama`, mean: a name or path."),
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
    from codellama.model.config import kv_type_of
    from codellama.serve.keys import KeyFile
    from codellama.serve.server import serve as run
    from codellama.serve.settings import Settings, duration

    if new_key is not None:
        if api_keys is None:
            raise RequestError("--new-key needs --api-keys FILE to add it to")
        print(KeyFile(api_keys).add(new_key))
        return
    _install(model)
    given: dict[str, Any] = {
        "host": host,
        "port": port,
        "model": model,
        "context": context,
        "threads": threads,
        "api_keys": api_keys,
        "certificate": certificate,
        "private_key": private_key,
        "slot_folder": slot_save_path,
        "requests_per_minute": requests_per_minute,
        "max_seconds": max_seconds,
        "kv_type": None if kv_type is None else kv_type_of(kv_type, "--kv-type"),
        "keep_alive": None if keep_alive is None else duration(keep_alive, "--keep-alive"),
    }
    settings = Settings.from_environment().replaced(
        device=device,
        allow_public=allow_public,
        cache_folder=_cache_folder() if cache else None,
        **{name: value for name, value in given.items() if value is not None},
    )
    run(settings, ready=lambda url: print(_hints(url), flush=True), json_logs=json_logs)


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


def _install(model: str | None) -> None:
    """Have the default model in the store where its base is: the server lists what is there."""
    from codellama.hub import resolve
    from codellama.hub.catalogue import DEFAULT_MODEL

    with contextlib.suppress(CodeLlamaError):
        resolve(model or DEFAULT_MODEL)


def _cache_folder() -> Path:
    from codellama.hub.places import cache_home

    return cache_home() / "codellama" / "prefixes"


def _hints(url: str) -> str:
    """What to paste where."""
    return f"""codellama serves at {url}  (Ctrl-C stops it)

  Continue       config.yaml:  models: [{{name: codellama, provider: ollama, model: codellama,
                               apiBase: {url}, roles: [chat, autocomplete]}}]
  llama.vscode   settings:     "llama-vscode.endpoint": "{url}"
  LangChain      ChatOllama(model="codellama", base_url="{url}")
  llm            OLLAMA_HOST={url} llm -m ollama/codellama "…"     (llm install llm-ollama)
  OpenAI         OpenAI(base_url="{url}/v1", api_key="none")
  curl           curl {url}/api/generate -d '{{"model": "codellama", "prompt": "def fib(n):"}}'
"""
