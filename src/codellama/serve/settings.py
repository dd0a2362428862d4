"""What the environment and the command line say about serving.

The OLLAMA_* variables that users have set already are honoured, with Ollama's meanings; flags win
over CODELLAMA_* variables, those over OLLAMA_*. Values that make no sense are RequestErrors that
name the variable.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from codellama.errors import RequestError
from codellama.model.config import KvType, kv_type_of

__all__ = ["DEFAULT_PORT", "Settings", "duration", "parse_host"]

DEFAULT_PORT = 11434
FOREVER = float("inf")

_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How to serve.

    Attributes:
        host, port: where to listen; port 0 takes a free one.
        model: what requests without a model, and `codellama` where nobody has that name, get;
            None chooses the best local one.
        preload: load that model when the server starts, not when somebody first asks.
        context: default length in tokens; None is the model's own, at most 16,384.
        keep_alive: seconds a model stays loaded after its last request; inf is for ever.
        parallel: contexts that the KV cache holds, for all requests together.
        max_loaded: models loaded at the same time.
        max_queue: requests that may wait.
        origins: patterns of further allowed origins.
        api_keys: file of hashed keys; None asks for none.
        certificate, private_key: TLS.
        allow_public: serve a public address without a key.
        max_body: bytes of a request; max_blob: of an uploaded blob.
        requests_per_minute: per client address; None is no limit.
        max_seconds: longest a request may take; None is no limit.
        drain: seconds that streams may go on after a stop is asked for.
        cache_folder: where prefix caches are kept between runs; None keeps none.
        slot_folder: where clients may save and restore prefix caches; None refuses them.
        speculate: prompt lookup for requests that do not say.
        threads: CPU threads; None is one per core.
        kv_type: how caches keep keys and values.
    """

    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    model: str | None = None
    preload: bool = False
    context: int | None = None
    keep_alive: float = 300.0
    parallel: int = 4
    max_loaded: int = 3
    max_queue: int = 512
    origins: tuple[str, ...] = ()
    api_keys: Path | None = None
    certificate: Path | None = None
    private_key: Path | None = None
    allow_public: bool = False
    max_body: int = 64 << 20
    max_blob: int = 1 << 40
    requests_per_minute: int | None = None
    max_seconds: float | None = None
    drain: float = 30.0
    cache_folder: Path | None = None
    slot_folder: Path | None = None
    speculate: bool = True
    threads: int | None = None
    kv_type: KvType = "f16"
    device: str = "auto"
    extra_hosts: frozenset[str] = field(default_factory=frozenset)

    @classmethod
    def from_environment(cls, env: Mapping[str, str] | None = None) -> Settings:
        """Defaults, overridden by CODELLAMA_* and OLLAMA_* variables."""
        env = os.environ if env is None else env
        host, port = parse_host(_get(env, "HOST") or "")
        parallel, queue = _whole(env, "NUM_PARALLEL"), _whole(env, "MAX_QUEUE")
        loaded, context = _whole(env, "MAX_LOADED_MODELS"), _whole(env, "CONTEXT_LENGTH")
        keep = _get(env, "KEEP_ALIVE")
        kept = _get(env, "KV_CACHE_TYPE") or "f16"
        return cls(
            host=host,
            port=port,
            context=context or None,
            keep_alive=300.0 if keep is None else duration(keep, "KEEP_ALIVE"),
            parallel=max(4, parallel or 0),
            max_loaded=loaded or 3,
            max_queue=512 if queue is None else queue,
            origins=tuple(o.strip() for o in (_get(env, "ORIGINS") or "").split(",") if o.strip()),
            model=env.get("CODELLAMA_MODEL") or None,
            kv_type=kv_type_of(kept.strip().lower(), "OLLAMA_KV_CACHE_TYPE"),
            speculate=env.get("CODELLAMA_SPECULATE", "1") not in ("0", "false", "off"),
        )

    def replaced(self, **fields: Any) -> Settings:
        """These settings with other fields. Raises RequestError for ports that are none."""
        made = replace(self, **fields)
        if not 0 <= made.port <= 65535:
            raise RequestError(f"port is {made.port}: it must be from 0 to 65535")
        return made

    @property
    def loopback(self) -> bool:
        return is_loopback(self.host)


def is_loopback(host: str) -> bool:
    import ipaddress

    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def parse_host(text: str) -> tuple[str, int]:
    """OLLAMA_HOST: `host`, `host:port`, `:port`, `scheme://host:port`; IPv6 in brackets.

    >>> parse_host("0.0.0.0:8080"), parse_host("http://[::1]")
    (('0.0.0.0', 8080), ('::1', 80))
    """
    scheme, found, rest = text.strip().partition("://")
    default = {"http": 80, "https": 443}.get(scheme, DEFAULT_PORT) if found else DEFAULT_PORT
    rest = (rest if found else scheme).partition("/")[0]
    match = re.fullmatch(r"(\[[0-9a-fA-F:.%]*\]|[^:\[\]]*)(?::(\d{1,5}))?", rest)
    bare = re.fullmatch(r"[0-9a-fA-F:]*:[0-9a-fA-F:.]*:[0-9a-fA-F:.]*", rest)
    if bare and not match:
        return rest, default
    if match is None or int(match[2] or 0) > 65535:
        raise RequestError(f"OLLAMA_HOST is {text!r}: write host:port, such as 127.0.0.1:11434")
    return match[1].strip("[]") or "127.0.0.1", int(match[2]) if match[2] else default


def duration(value: object, name: str = "keep_alive") -> float:
    """Seconds of a number, or of Go's duration text; negative is for ever.

    >>> duration("1h30m"), duration(-1), duration("10")
    (5400.0, inf, 10.0)
    """
    if isinstance(value, int | float) and not isinstance(value, bool) and value == value:
        return FOREVER if value < 0 else float(min(value, 1e12))
    text = str(value).strip() if isinstance(value, str) else ""
    negative, text = text.startswith("-"), text.lstrip("+-")
    try:
        seconds = float(text)
    except ValueError:
        parts = _PART.findall(text)
        if not parts or "".join(a + b for a, b in parts) != text:
            raise RequestError(
                f"{name} is {value!r}: it must be seconds or a duration such as 10m"
            ) from None
        seconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
    return FOREVER if negative or seconds != seconds else min(seconds, 1e12)


def _get(env: Mapping[str, str], name: str) -> str | None:
    return env.get(f"CODELLAMA_{name}") or env.get(f"OLLAMA_{name}") or None


def _whole(env: Mapping[str, str], name: str) -> int | None:
    text = _get(env, name)
    if text is None:
        return None
    if not text.strip().isdecimal() or len(text) > 9:
        raise RequestError(f"OLLAMA_{name} is {text!r}: it must be a whole number")
    return int(text)
