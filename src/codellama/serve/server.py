"""Running the application: refusals before it listens, logs, what to paste where, a graceful stop.

Imported by the command line alone, so that the application itself stays a plain ASGI app.
"""

from __future__ import annotations

import json
import logging
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import uvicorn

from codellama.errors import RequestError
from codellama.serve.app import create_app
from codellama.serve.settings import Settings

__all__ = ["bound", "check_exposure", "serve"]


def serve(
    settings: Settings, *, ready: Callable[[str], None] | None = None, json_logs: bool = False
) -> None:
    """Serve until SIGINT or SIGTERM, then let streams end.

    Args:
        ready: called with the base URL once requests are accepted.

    Raises:
        RequestError: a public address without a key, a port in use, TLS files that are not there.
    """
    check_exposure(settings)
    listener = bound(settings)
    port = listener.getsockname()[1]
    _configure_logs(json_logs)
    scheme = "https" if settings.certificate else "http"
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    url = f"{scheme}://{host}:{port}"

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if ready is not None and not self.should_exit:
                ready(url)

    config = uvicorn.Config(
        create_app(replace(settings, port=port)),
        lifespan="on",
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=int(settings.drain),
        timeout_keep_alive=75,
        ssl_certfile=settings.certificate,
        ssl_keyfile=settings.private_key,
        h11_max_incomplete_event_size=64 << 10,
        limit_concurrency=None,
        backlog=1024,
    )
    # uvicorn raises what stopped it once more, for whoever handled it before: here nobody needs it.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    Server(config).run([listener])


def check_exposure(settings: Settings) -> None:
    """Refuse what would let strangers in, unless told to in so many words."""
    for path in (settings.certificate, settings.private_key):
        if path is not None and not path.is_file():
            raise RequestError(f"there is no file {path}: TLS needs a certificate and its key")
    if (settings.certificate is None) != (settings.private_key is None):
        raise RequestError("TLS needs both --certificate and --private-key")
    if settings.slot_folder is not None and not settings.slot_folder.is_dir():
        raise RequestError(f"there is no folder {settings.slot_folder}: --slot-save-path needs one")
    if settings.loopback or settings.api_keys is not None or settings.allow_public:
        return
    raise RequestError(
        f"{settings.host} can be reached from other machines, and there is no API key: make one "
        "(codellama serve --api-keys FILE --new-key NAME), bind 127.0.0.1, or say "
        "--allow-public-without-key"
    )


def bound(settings: Settings) -> socket.socket:
    """A listening socket; RequestError in words where that cannot be."""
    try:
        family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((settings.host, settings.port))
    except OSError as error:
        hint = ": is Ollama or another codellama running?" if error.errno == 98 else ""
        raise RequestError(
            f"cannot listen on {settings.host}:{settings.port} ({error.strerror}){hint}"
        ) from None
    return listener


class _JSONLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created)),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


def _configure_logs(json_logs: bool) -> None:
    handler = logging.StreamHandler(sys.stderr)
    plain = logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S")
    handler.setFormatter(_JSONLines() if json_logs else plain)
    for name in ("codellama.serve", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.propagate = False
        logger.setLevel(logging.INFO if name == "codellama.serve" else logging.WARNING)
