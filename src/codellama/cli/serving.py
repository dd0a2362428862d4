"""What `codellama serve` does with its options, and what people shall paste into which editor.

Knows no Typer, so that a server starts without it (quick.py). The server itself is codellama.serve.
"""

from __future__ import annotations

import contextlib
import gc
from pathlib import Path
from typing import Any

from codellama.errors import CodeLlamaError, RequestError

__all__ = ["serve"]


def serve(
    *,
    device: str,
    kv_type: str | None,
    keep_alive: str | None,
    new_key: str | None,
    allow_public: bool,
    cache: bool,
    slot_save_path: Path | None,
    json_logs: bool,
    **given: Any,
) -> None:
    """Serve until Ctrl-C, or add an API key; the options are those of cli/serve.py.

    Args:
        given: options with the names of Settings' fields; None leaves them to the environment.

    Raises:
        RequestError: values that make no sense, a port in use, a public address without a key.
    """
    from codellama.model.config import kv_type_of
    from codellama.serve.keys import KeyFile
    from codellama.serve.server import serve as run
    from codellama.serve.settings import Settings, duration

    if new_key is not None:
        if given["api_keys"] is None:
            raise RequestError("--new-key needs --api-keys FILE to add it to")
        print(KeyFile(given["api_keys"]).add(new_key))
        return
    _install(given["model"])
    given["slot_folder"] = slot_save_path
    given["kv_type"] = None if kv_type is None else kv_type_of(kv_type, "--kv-type")
    given["keep_alive"] = None if keep_alive is None else duration(keep_alive, "--keep-alive")
    settings = Settings.from_environment().replaced(
        device=device,
        preload=given["model"] is not None,
        allow_public=allow_public,
        cache_folder=_cache_folder() if cache else None,
        **{name: value for name, value in given.items() if value is not None},
    )
    run(settings, ready=_ready, json_logs=json_logs)


def _ready(url: str) -> None:
    gc.enable()  # quick.py does without for the start
    print(_hints(url), flush=True)


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
