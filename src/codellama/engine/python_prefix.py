"""Whether a text can be the beginning of a Python file, by Python's own parser.

A text is parsed as it is, and where that fails because something is unfinished (a bracket, a
string, a word, a statement), with its end finished in the ways that Python knows. So `x = fo` and
`for i in` can go on, `x = = 1` and `print())` cannot. Errs on the side of "can": of a text that
cannot be saved, it may say so some tokens late. The syntax is that of the Python that runs this.
"""

from __future__ import annotations

import ast
import keyword
import re
import warnings
from collections.abc import Iterator

__all__ = ["can_go_on"]

# What codeop uses: unfinished input has an error of its own, and the end of a text no dedents.
_FLAGS = ast.PyCF_ONLY_AST | 0x4000 | 0x200
_UNFINISHED = "incomplete input"

_LEXEME = re.compile(
    r"""
    (?P<comment>\#[^\n]*)
  | (?P<string>[A-Za-z]{0,2}(?:
        \"\"\"(?:\\.|[^\\])*?(?:\"\"\"|\\?\Z) | '''(?:\\.|[^\\])*?(?:'''|\\?\Z)
      | \"(?:\\.|[^\"\\\n])*(?:\"|\\?\Z|(?=\n)) | '(?:\\.|[^'\\\n])*(?:'|\\?\Z|(?=\n))))
  | (?P<number>\.?\d(?:[eE][+-]|[\w.])*)
  | (?P<name>\w+)
  | (?P<space>[ \t\n\f]+)
  | (?P<operator>[^\w\s])
    """,
    re.VERBOSE | re.DOTALL,
)
_QUOTES = re.compile(r"([A-Za-z]{0,2})(\"\"\"|'''|\"|')")
_STRING_PREFIXES = frozenset(["r", "b", "f", "u", "br", "rb", "fr", "rf"])
_WORDS = (*keyword.kwlist, *keyword.softkwlist)
_LONGER = {"!": ("!=",), ":": (":=",), "=": ("==",), "-": ("->",), ".": ("...",), "*": ("**",)}
# What may stand next where the end of a line does not: an operand, a name, the rest of a statement.
_NEXT = (
    "(", " a", " a(", ":", " a:", "()", "=a", " else a", " in a:", " for a in a", " as a:",
    " import a", " a import a",
)  # fmt: skip


def can_go_on(text: str) -> bool:
    """Whether some Python file begins with `text`.

    >>> can_go_on("def f(x):\\n    ret"), can_go_on("x = = 1"), can_go_on("a)")
    (True, False, False)
    """
    last = None
    for last in _LEXEME.finditer(text):
        if last["string"] and _is_broken(last["string"], text, last.end()):
            return False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return any(_parses_so_far(each) for each in _finished(text, last))


def _is_broken(string: str, text: str, end: int) -> bool:
    """Whether a string of one line ends in front of a line end."""
    return not _is_closed(string) and end < len(text)


def _is_closed(string: str) -> bool:
    quotes = _QUOTES.match(string)
    assert quotes is not None
    inside = string[quotes.end() :]
    return inside.endswith(quotes[2]) and not _is_escaped(inside[: -len(quotes[2])])


def _is_escaped(text: str) -> bool:
    return (len(text) - len(text.rstrip("\\"))) % 2 == 1


def _finished(text: str, last: re.Match[str] | None) -> Iterator[str]:
    """The text with its last lexeme as it is, and as it may become."""
    if last is None:
        yield text
        return
    before, piece = text[: last.start()], last[0]
    match last.lastgroup:
        case "comment":
            yield before
        case "space":
            yield before + piece.rstrip(" \t")
        case "number":
            yield before + "0"
            yield text
        case "string" if not _is_closed(piece):
            quotes = _QUOTES.match(piece)
            assert quotes is not None
            yield before + quotes[1] + '""'
        case "name":
            yield text
            yield text + "a"  # a longer name, where this one is a keyword
            yield from (before + word for word in _WORDS if word.startswith(piece))
            if piece.lower() in _STRING_PREFIXES:
                yield text + '""'
        case "operator":
            yield text[:-1] if piece == "\\" else text
            yield from (before + longer for longer in _LONGER.get(piece, ()))
        case _:
            yield text


def _parses_so_far(text: str) -> bool:
    """Whether the parser gets to the end of the text, in one of the ways to go on."""
    return any(_reaches_the_end(text + more) for more in ("", *_NEXT))


def _reaches_the_end(text: str) -> bool:
    try:
        compile(text, "<answer>", "exec", _FLAGS, dont_inherit=True)
    except SyntaxError as error:
        return _UNFINISHED in str(error.msg)
    except (ValueError, RecursionError, MemoryError):
        return False
    return True
