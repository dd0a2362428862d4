"""`python -m codellama.hub pull NAME…`: for the Makefile, before the command line is installed.
Prints plain lines.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from codellama.errors import CodeLlamaError
from codellama.hub import pull
from codellama.hub.files import human

_LINE_S = 2.0


def main(arguments: Sequence[str]) -> int:
    """Pull each name; 0 when all are here, 1 with one line on standard error otherwise."""
    if len(arguments) < 2 or arguments[0] != "pull":
        print("usage: python -m codellama.hub pull NAME…", file=sys.stderr)
        return 2
    for name in arguments[1:]:
        try:
            print(f"{name}: {pull(name, _Lines())}")
        except CodeLlamaError as error:
            print(f"{name}: {error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print(f"{name}: stopped; the next pull goes on from here", file=sys.stderr)
            return 130
    return 0


class _Lines:
    """Progress as a line every two seconds."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def __call__(self, done: int, total: int, label: str) -> None:
        now = time.monotonic()
        if not total:
            print(label, flush=True)
        elif now - self._last >= _LINE_S:
            self._last = now
            print(f"{label}: {human(done)} of {human(total)}", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
