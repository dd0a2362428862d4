"""Secrets and addresses out of texts, before anything is trained on them.

Keys of the forms that providers publish, private keys, passwords in URLs, assignments of long
random strings to names like `api_key`, e-mail addresses and public IPv4 addresses become a
placeholder of their kind. Examples that documentation uses (example.com, localhost) stay.
"""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from collections.abc import Callable

__all__ = ["redact"]

_FORMS = (
    (
        "KEY",
        ("PRIVATE KEY-----",),
        r"-----BEGIN [A-Z ]{0,20}PRIVATE KEY-----(?s:.){1,10000}?"
        r"-----END [A-Z ]{0,20}PRIVATE KEY-----",
    ),
    ("KEY", ("AKIA", "ASIA"), r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"),  # Amazon
    ("KEY", tuple(f"gh{c}_" for c in "pousr"), r"\bgh[pousr]_[A-Za-z0-9]{36}\b"),  # GitHub
    ("KEY", ("sk-",), r"\bsk-[A-Za-z0-9_-]{20,200}\b"),  # OpenAI and others
    ("KEY", tuple(f"xox{c}-" for c in "abprs"), r"\bxox[abprs]-[A-Za-z0-9-]{10,200}\b"),  # Slack
    ("KEY", ("AIza",), r"\bAIza[0-9A-Za-z_-]{35}\b"),  # Google
    ("KEY", ("eyJ",), r"\beyJ[\w-]{10,1000}\.[\w-]{10,2000}\.[\w-]{10,1000}\b"),  # web tokens
)
"""Kind, texts of which every match has one, form. A form is tried at every word, so those texts are
looked for first: 153 million characters of packages took 15 s instead of 60.
"""
_PATTERNS = tuple((kind, signs, re.compile(form)) for kind, signs, form in _FORMS)
_EMAIL = re.compile(r"\b[A-Za-z0-9._%+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.){1,5}[A-Za-z]{2,24}\b")
_OWNERS, _THINGS = ("api", "secret", "access", "auth", "private"), ("key", "token", "secret")
_NAMES = (
    *("password", "passwd"),
    *(a + between + b for a in _OWNERS for between in ("", "_", "-") for b in _THINGS),
)
_ASSIGNED = re.compile(
    rf"(?i)\b((?:{'|'.join(_OWNERS)})[_-]?(?:{'|'.join(_THINGS)})|password|passwd)"
    r"(\s{0,3}[:=]\s{0,3}[\"'])([A-Za-z0-9+/=_\-.]{16,200})([\"'])"
)
_URL_PASSWORD = re.compile(
    r"\b([a-z][a-z0-9+.-]{1,20}://[^/\s:@\"']{1,100}:)([^/\s:@\"'<]{3,100})(@)"
)
_IP = re.compile(r"(?<![\d.])(?:\d{1,3}\.){3}\d{1,3}(?![\d.])")
_KEPT_DOMAINS = ("example.com", "example.org", "example.net", "localhost", "python.org")


def redact(text: str) -> tuple[str, Counter[str]]:
    """(text without secrets, how many of each kind).

    >>> redact("mail bob@corp.io from 10.0.0.1")[0]
    'mail <EMAIL> from 10.0.0.1'
    """
    found: Counter[str] = Counter()

    def mark(kind: str) -> str:
        found[kind] += 1
        return f"<{kind}>"

    for kind, signs, pattern in _PATTERNS:
        if any(sign in text for sign in signs):
            text = pattern.sub(lambda _, kind=kind: mark(kind), text)  # type: ignore[misc]
    if "@" in text:
        text = _by_line(text, "@", 1, lambda line: _EMAIL.sub(_kept_or(mark), line))
    folded = text.casefold()
    if any(name in folded for name in _NAMES):
        text = _ASSIGNED.sub(
            lambda m: m[1] + m[2] + (mark("KEY") if _is_random(m[3]) else m[3]) + m[4], text
        )
    if "://" in text:
        text = _URL_PASSWORD.sub(lambda m: m[1] + mark("PASSWORD") + m[3], text)
    text = _by_line(
        text, ".", 3, lambda line: _IP.sub(lambda m: mark("IP") if _is_public(m[0]) else m[0], line)
    )
    return text, found


def _by_line(text: str, sign: str, least: int, change: Callable[[str], str]) -> str:
    """`change` to every line with at least so many signs."""
    return "\n".join(
        change(line) if line.count(sign) >= least else line for line in text.split("\n")
    )


def _kept_or(mark: Callable[[str], str]) -> Callable[[re.Match[str]], str]:
    return lambda m: m[0] if m[0].lower().endswith(_KEPT_DOMAINS) else mark("EMAIL")


def _is_random(value: str) -> bool:
    """Letters and digits mixed and many different characters: not a word, not a placeholder."""
    mixed = any(c.isdigit() for c in value) and any(c.isalpha() for c in value)
    return mixed and len(set(value)) >= 10


def _is_public(address: str) -> bool:
    """A routable address; versions like 1.2.3.4 are spared where all parts are below 20."""
    try:
        ip = ipaddress.IPv4Address(address)
    except ValueError:
        return False
    return ip.is_global and any(part >= 20 for part in ip.packed)
