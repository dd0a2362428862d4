"""The time as Ollama's API writes it."""

from __future__ import annotations

import time

__all__ = ["created_at", "rfc3339"]


def created_at() -> str:
    """Now, RFC 3339 with nanoseconds: 2026-11-25T01:02:03.000000004Z."""
    return rfc3339(time.time_ns())


def rfc3339(ns: int) -> str:
    seconds, rest = divmod(ns, 1_000_000_000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{rest:09d}Z"
