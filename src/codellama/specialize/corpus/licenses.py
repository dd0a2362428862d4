"""Which license a text is under, as an SPDX identifier, and whether it is permissive.

Read, in this order: an SPDX line in the file itself; a wheel's License-Expression, License and
classifiers; the words of a license file. Detection is by telling phrases, not by a lawyer: what is
not recognized is "unknown" and is left out unless asked for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["PERMISSIVE", "from_metadata", "from_text", "is_permissive", "spdx_line"]

PERMISSIVE = (
    "0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC0-1.0", "ISC", "MIT",
    "MIT-0", "MIT-CMU", "HPND", "PSF-2.0", "Python-2.0", "Unlicense", "Zlib", "public-domain",
    "NCSA", "WTFPL", "X11", "BSD",
)  # fmt: skip
"""The most permissive first where it matters (see dedup.py): order within is by name."""

_SPDX = re.compile(r"SPDX-License-Identifier:\s*([^\n*#]{1,100})")
_WORD = re.compile(r"[A-Za-z0-9.+-]+")
_PHRASES: tuple[tuple[str, str], ...] = (
    ("gnu affero general public license", "AGPL-3.0"),
    ("gnu lesser general public license", "LGPL-3.0"),
    ("gnu library general public license", "LGPL-2.0"),
    ("gnu general public license", "GPL-3.0"),
    ("mozilla public license", "MPL-2.0"),
    ("eclipse public license", "EPL-2.0"),
    ("python software foundation license", "PSF-2.0"),
    ("psf license agreement", "PSF-2.0"),
    ("apache license, version 2", "Apache-2.0"),
    ("apache license version 2", "Apache-2.0"),
    ("boost software license", "BSL-1.0"),
    ("permission to use, copy, modify, and/or distribute this software", "ISC"),
    ("permission to use, copy, modify, and distribute this software", "ISC"),
    ("permission is hereby granted, free of charge", "MIT"),
    ("neither the name", "BSD-3-Clause"),
    ("redistributions of source code must retain", "BSD-2-Clause"),
    ("this is free and unencumbered software", "Unlicense"),
    ("cc0 1.0 universal", "CC0-1.0"),
    ("altered source versions must be plainly marked", "Zlib"),
)
_NAMES = {
    "mit": "MIT", "mit license": "MIT", "the mit license": "MIT", "expat": "MIT",
    "apache": "Apache-2.0", "apache 2.0": "Apache-2.0", "apache-2": "Apache-2.0",
    "apache license 2.0": "Apache-2.0", "apache software license": "Apache-2.0",
    "apache license, version 2.0": "Apache-2.0", "apache 2": "Apache-2.0",
    "bsd": "BSD", "bsd license": "BSD", "new bsd": "BSD-3-Clause", "bsd 3-clause": "BSD-3-Clause",
    "3-clause bsd": "BSD-3-Clause", "bsd-3": "BSD-3-Clause", "modified bsd": "BSD-3-Clause",
    "bsd 2-clause": "BSD-2-Clause", "simplified bsd": "BSD-2-Clause",
    "psf": "PSF-2.0", "python software foundation license": "PSF-2.0", "isc": "ISC",
    "isc license (iscl)": "ISC", "isc license": "ISC", "public domain": "public-domain",
    "the unlicense (unlicense)": "Unlicense", "boost software license 1.0 (bsl-1.0)": "BSL-1.0",
    "historical permission notice and disclaimer (hpnd)": "HPND", "zlib/libpng license": "Zlib",
    "mit no attribution license (mit-0)": "MIT-0", "cmu license (mit-cmu)": "MIT-CMU",
}  # fmt: skip
_KNOWN = {name.lower(): name for name in PERMISSIVE}


def is_permissive(license: str) -> bool:
    """Whether every part of an SPDX expression that must hold is permissive; "A OR B" needs one.

    >>> is_permissive("Apache-2.0 OR GPL-2.0"), is_permissive("MIT AND GPL-3.0"), is_permissive("")
    (True, False, False)
    """
    choices = re.split(r"\bOR\b", license.replace("(", " ").replace(")", " "), flags=re.IGNORECASE)
    for choice in choices:
        parts = [p for p in re.split(r"\bAND\b", choice, flags=re.IGNORECASE) if p.strip()]
        names = [re.split(r"\bWITH\b", p, flags=re.IGNORECASE)[0].strip().lower() for p in parts]
        if names and all(name in _KNOWN for name in names):
            return True
    return False


def spdx_line(text: str) -> str | None:
    """The expression of an SPDX-License-Identifier line near the top of a file."""
    found = _SPDX.search(text[:4000])
    return found[1].strip() if found else None


def from_text(text: str) -> str:
    """The identifier of a license file's text, "unknown" where no telling phrase is in it. The
    first phrase decides: Python's license speaks of the GPL, too, further down.
    """
    words = " ".join(text[:100_000].lower().split())
    found = [(words.find(phrase), rank) for rank, (phrase, _) in enumerate(_PHRASES)]
    first = min((at, rank) for at, rank in [*found, (len(words) + 1, -1)] if at >= 0)
    return "unknown" if first[1] < 0 else _PHRASES[first[1]][1]


def from_metadata(headers: Iterable[tuple[str, str]]) -> str:
    """Of a wheel's METADATA headers (name, value)."""
    pairs = [(name.lower(), value.strip()) for name, value in headers]
    for name, value in pairs:
        if name == "license-expression" and value:
            return value
    for name, value in pairs:
        if name == "license" and 0 < len(value) <= 100:
            known = _KNOWN.get(value.lower()) or _NAMES.get(value.lower())
            if known or is_permissive(value):
                return known or value
    classified = {
        _NAMES.get(value.rpartition("::")[2].strip().lower(), "unknown")
        for name, value in pairs
        if name == "classifier" and value.startswith("License ::")
        and not value.endswith("OSI Approved")
    }  # fmt: skip
    if classified and "unknown" not in classified:
        return " AND ".join(sorted(classified))
    whole = next((value for name, value in pairs if name == "license" and len(value) > 100), "")
    return from_text(whole) if whole else "unknown"
