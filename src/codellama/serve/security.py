"""Who may ask, and how much: Host check, CORS, API keys, rate limits, in front of every route.

A server on loopback is reachable by every page a browser shows: so the Host must be this machine's
(against DNS rebinding), and a page's Origin must be allowed, for simple requests too. Ollama's
defaults for both. Knows no dialect but for the shape of a refusal.
"""

from __future__ import annotations

import ipaddress
import re
import socket
import time
from collections import OrderedDict

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from codellama.serve.keys import KeyFile
from codellama.serve.replies import json_reply
from codellama.serve.settings import Settings

__all__ = ["guarded"]

_HOSTS = ("localhost", "127.0.0.1", "0.0.0.0", r"\[::1\]")
_SCHEMES = ("app", "file", "tauri", "vscode-webview", "vscode-file")
_ALLOWED_HEADERS = (
    "Authorization, Content-Type, User-Agent, Accept, X-Requested-With, X-Editor-Session, "
    "x-stainless-lang, x-stainless-package-version, x-stainless-os, x-stainless-arch, "
    "x-stainless-retry-count, x-stainless-runtime, x-stainless-runtime-version, "
    "x-stainless-async, x-stainless-helper-method, x-stainless-poll-helper, "
    "x-stainless-custom-poll-interval, x-stainless-timeout, OpenAI-Beta"
)
OPEN_PATHS = frozenset({"/", "/health", "/v1/health"})
MOST_CLIENTS = 4096


def guarded(app: ASGIApp, settings: Settings) -> ASGIApp:
    """The app behind its guards."""
    return _Guard(app, settings)


class _Guard:
    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self.state_parts = getattr(getattr(app, "state", None), "parts", None)
        self._settings = settings
        self._origin = _origin_pattern(settings.origins)
        self._keys = KeyFile(settings.api_keys) if settings.api_keys is not None else None
        self._rates = _Rates(settings.requests_per_minute)
        self._own_names = {socket.gethostname().lower(), *settings.extra_hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"]
        if len(path) > 1 and path.endswith("/"):  # LangChain of 2023 posts to /api/generate/
            scope = {**scope, "path": path.rstrip("/") or "/"}
        headers = Headers(scope=scope)
        origin = headers.get("origin")
        refusal = self._refusal(scope, headers, origin)
        if refusal is None and _is_preflight(scope, headers):
            refusal = Response(status_code=204)
        allowed = origin if origin and self._allows(origin, headers) else None
        if refusal is not None:
            _allow(refusal, allowed, preflight=scope["method"] == "OPTIONS")
            await refusal(scope, receive, send)
            return

        async def with_cors(message: Message) -> None:
            if message["type"] == "http.response.start" and allowed:
                out = MutableHeaders(scope=message)
                out["access-control-allow-origin"] = allowed
                out.add_vary_header("Origin")
            await send(message)

        await self._app(scope, receive, with_cors)

    def _refusal(self, scope: Scope, headers: Headers, origin: str | None) -> Response | None:
        if self._settings.loopback and not self._is_ours(headers.get("host", "")):
            return _refuse(scope, 403, "this host name is not this server's")
        if origin and not self._allows(origin, headers):
            return _refuse(scope, 403, "this origin is not allowed: see OLLAMA_ORIGINS")
        if _is_preflight(scope, headers):
            return None
        if self._keys is not None and scope["path"] not in OPEN_PATHS:
            kind, _, key = headers.get("authorization", "").partition(" ")
            if kind.lower() != "bearer" or not self._keys.knows(key.strip()):
                reply = _refuse(scope, 401, "an API key is needed: Authorization: Bearer KEY")
                reply.headers["www-authenticate"] = "Bearer"
                return reply
        client = scope.get("client") or ("?",)
        wait = self._rates.wait(client[0])
        if wait > 0:
            reply = _refuse(scope, 429, "too many requests from this address")
            reply.headers["retry-after"] = str(max(1, round(wait)))
            return reply
        return None

    def _is_ours(self, host: str) -> bool:
        """Ollama's rule for a server on loopback."""
        name = re.sub(r":\d+\Z", "", host.strip()).strip("[]").lower().rstrip(".")
        if not name or name == "localhost" or name in self._own_names:
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return name.endswith((".localhost", ".local", ".internal"))
        return address.is_loopback or address.is_private or address.is_unspecified

    def _allows(self, origin: str, headers: Headers) -> bool:
        if self._origin.fullmatch(origin):
            return True
        own = headers.get("host", "")
        return bool(own) and origin in (f"http://{own}", f"https://{own}")


class _Rates:
    """A token bucket per client address."""

    def __init__(self, per_minute: int | None) -> None:
        self._per_minute = per_minute
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait(self, client: str) -> float:
        """0 when the request may pass, else seconds until the next one may."""
        if self._per_minute is None:
            return 0.0
        now = time.monotonic()
        tokens, at = self._buckets.pop(client, (float(self._per_minute), now))
        tokens = min(self._per_minute, tokens + (now - at) * self._per_minute / 60)
        passes = tokens >= 1.0
        self._buckets[client] = tokens - passes, now
        if len(self._buckets) > MOST_CLIENTS:
            self._buckets.popitem(last=False)
        return 0.0 if passes else (1.0 - tokens) * 60 / self._per_minute


def _origin_pattern(extra: tuple[str, ...]) -> re.Pattern[str]:
    hosts = "|".join(_HOSTS)
    parts = [rf"https?://(?:{hosts})(?::\d+)?", *(rf"{s}://.*" for s in _SCHEMES)]
    parts += [".*".join(map(re.escape, pattern.split("*"))) for pattern in extra]
    return re.compile("|".join(f"(?:{part})" for part in parts))


def _is_preflight(scope: Scope, headers: Headers) -> bool:
    return scope["method"] == "OPTIONS" and "access-control-request-method" in headers


def _allow(reply: Response, origin: str | None, *, preflight: bool) -> None:
    if origin is None:
        return
    reply.headers["access-control-allow-origin"] = origin
    reply.headers["vary"] = "Origin"
    if preflight:
        reply.headers["access-control-allow-methods"] = "GET, POST, PUT, PATCH, DELETE, HEAD"
        reply.headers["access-control-allow-headers"] = _ALLOWED_HEADERS
        reply.headers["access-control-max-age"] = "43200"


def _refuse(scope: Scope, status: int, text: str) -> Response:
    """A refusal in the form of the dialect that the path belongs to."""
    path: str = scope["path"]
    kinds = {401: "authentication_error", 429: "rate_limit_error"}
    kind = kinds.get(status, "invalid_request_error")
    if path.startswith("/v1"):
        error = {"message": text, "type": kind, "param": None, "code": None}
        return json_reply({"error": error}, status)
    if path == "/" or path.startswith("/api"):
        return json_reply({"error": text}, status)
    return json_reply({"error": {"code": status, "message": text, "type": kind}}, status)
