"""The command line: one verb, one function. `main` is the entry point and turns errors into one
line and a status.

Exit status: 0 done, 1 an error of the user's or of the system (one line on stderr), 2 a command
that cannot be parsed, 130 Ctrl-C. A reader that goes away (`codellama run … | head -1`) ends it
with 1 and without a word. CODELLAMA_DEBUG=1 shows tracebacks. Verbs import what they need when
they run, so that none pays for another; `run`, `complete` and `serve` do without Typer (quick.py).
"""

from __future__ import annotations

import os
import sys
from typing import NoReturn

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> None:
    """Run one command; exits the process."""
    from codellama.errors import CodeLlamaError

    if os.environ.get("CODELLAMA_DEBUG"):
        _dispatch(arguments)
        return
    try:
        _dispatch(arguments)
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
        if isinstance(error, BrokenPipeError):
            sys.exit(1)
        where = f"{error.filename}: " if error.filename else ""
        print(f"codellama: {where}{error.strerror or error}", file=sys.stderr)
        sys.exit(1)


def _dispatch(arguments: list[str] | None) -> NoReturn:
    from codellama.cli import quick

    if quick.run(sys.argv[1:] if arguments is None else arguments):
        sys.exit(0)
    from codellama.cli.app import app

    app(arguments)
    raise AssertionError("Typer exits the process")
