"""The command line: one verb, one function. `main` is the entry point and turns errors into one
line and a status.

Exit status: 0 done, 1 an error of the user's or of the system (one line on stderr), 2 a command
that cannot be parsed, 130 Ctrl-C. A reader that goes away (`codellama run … | head -1`) ends it
with 1 and without a word. CODELLAMA_DEBUG=1 shows tracebacks. Verbs import what they need when
they run, so that none pays for another.
"""

from __future__ import annotations

import os
import sys

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> None:
    """Run one command; exits the process."""
    from codellama.cli.app import app
    from codellama.errors import CodeLlamaError

    if os.environ.get("CODELLAMA_DEBUG"):
        app(arguments)
        return
    try:
        app(arguments, standalone_mode=True)
    except CodeLlamaError as error:
        print(f"codellama: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print(file=sys.stderr)
        sys.exit(130)
    except OSError as error:
        # A full disk behind standard output, most of all: what is left in its buffer must not be
        # flushed there again while Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        where = f"{error.filename}: " if error.filename else ""
        print(f"codellama: {where}{error.strerror or error}", file=sys.stderr)
        sys.exit(1)
