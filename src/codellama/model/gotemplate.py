"""The part of Go's text/template that Ollama's Modelfiles use, rendered to text or token ids.

    {{ .System }} {{- trims -}} {{ if .A }} … {{ else if and .A (eq .Role "user") }} … {{ end }}
    {{ range $i, $m := .Messages }} … {{ end }} {{ with .A }} … {{ end }} {{ $x := len .A }}
    functions: and or not eq ne lt le gt ge len index slice json print

A template is a program of strangers: it sees the given data alone, loops only over lists, and its
errors are one line. As with Jinja templates, what users wrote cannot become a control token.
Source: pkg.go.dev/text/template; ollama/ollama template/template.go.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from codellama.errors import RequestError
from codellama.model.templates import encode_marked, mark
from codellama.model.tokenizer_base import Tokenizer

__all__ = ["render", "render_ids"]

LONGEST = 1 << 20
DEEPEST = 50
_ACTION = re.compile(r"\{\{(-\s)?\s*(/\*.*?\*/|(?:\"(?:\\.|[^\"\\])*\"|`[^`]*`|[^}\"`]|\}(?!\}))*?)"
                     r"\s*(\s-)?\}\}", re.DOTALL)  # fmt: skip
_TOKEN = re.compile(
    r"\s*(?:(\"(?:\\.|[^\"\\])*\"|`[^`]*`)|(-?\d+(?:\.\d+)?)|(\$\w*|[A-Za-z_]\w*)?((?:\.\w+)+|\.)|"
    r"(\$\w*)|([A-Za-z_]\w*)|(:=|[()|=,]))"
)

Node = Callable[["_Scope"], str]
Value = Callable[["_Scope"], Any]


def render(template: str, data: Mapping[str, Any]) -> str:
    """The text. Raises RequestError for a template that is wrong or uses what is not here.

    >>> render("{{ if .System }}<s>{{ .System }}</s>{{ end }}{{ .Prompt }}", {"Prompt": "hi"})
    'hi'
    """
    if len(template) > LONGEST:
        raise RequestError(f"the template has {len(template)} characters: that is none")
    nodes = _Parser(template).parse()
    text = _joined(nodes, _Scope(dict(data), {"$": dict(data)}))
    if len(text) > 4 * LONGEST:
        raise RequestError("the template wrote more than 4 million characters")
    return text


def render_ids(tokenizer: Tokenizer, template: str, data: Mapping[str, Any]) -> list[int]:
    """Token ids of the rendered text: special tokens only where the template itself has them."""
    contents: list[str] = []

    def marked(value: Any, key: str = "") -> Any:
        if isinstance(value, str) and value and key not in ("role", "Role"):
            contents.append(value)
            return mark(len(contents) - 1)
        if isinstance(value, list):
            return [marked(each) for each in value]
        if isinstance(value, dict):
            return {name: marked(each, name) for name, each in value.items()}
        return value

    text = render(template, marked(dict(data)))
    ids = encode_marked(tokenizer, text, contents)
    bos = tokenizer.bos_id
    if tokenizer.add_bos and bos is not None and ids[:1] != [bos]:
        return [bos, *ids]
    return ids


class _Scope:
    """The dot and the variables, at a place in the template."""

    def __init__(self, dot: Any, names: dict[str, Any]) -> None:
        self.dot = dot
        self.names = names

    def inner(self, dot: Any, **names: Any) -> _Scope:
        return _Scope(dot, {**self.names, **names})


class _Parser:
    def __init__(self, template: str) -> None:
        self._parts = list(self._split(template))
        self._place = 0
        self._depth = 0

    def parse(self) -> list[Node]:
        nodes, end = self._block()
        if end is not None:
            raise _wrong(f"unexpected {{{{ {end} }}}}")
        return nodes

    @staticmethod
    def _split(template: str) -> Iterator[tuple[bool, str]]:
        """(is an action, text); trim markers are applied."""
        place, trims = 0, False
        for match in _ACTION.finditer(template):
            text = template[place : match.start()]
            text = text.lstrip() if trims else text
            yield False, text.rstrip() if match[1] else text
            yield True, match[2].strip()
            place, trims = match.end(), bool(match[3])
        rest = template[place:]
        yield False, rest.lstrip() if trims else rest

    def _block(self) -> tuple[list[Node], str | None]:
        """Nodes up to an `end` or `else …` of this block, which is returned."""
        self._depth += 1
        if self._depth > DEEPEST:
            raise _wrong("blocks are nested too deeply")
        nodes: list[Node] = []
        while self._place < len(self._parts):
            is_action, text = self._parts[self._place]
            self._place += 1
            word = text.split(maxsplit=1)[0] if is_action and text else ""
            if not is_action:
                if text:
                    nodes.append(lambda scope, text=text: text)  # type: ignore[misc]
            elif word in ("end", "else"):
                self._depth -= 1
                return nodes, text
            elif word in ("if", "with", "range"):
                nodes.append(self._branch(word, text[len(word) :]))
            elif word in ("break", "continue", "define", "template", "block"):
                raise _wrong(f"{{{{ {word} }}}} is not supported")
            elif text and not text.startswith("/*"):
                nodes.append(_action(text))
        self._depth -= 1
        return nodes, None

    def _branch(self, word: str, head: str) -> Node:
        nodes, end = self._block()
        other: list[Node] = []
        if end is None:
            raise _wrong(f"{{{{ {word} }}}} is never ended")
        if end != "end":
            rest = end.removeprefix("else").strip()
            if rest:
                kind = rest.split(maxsplit=1)[0]
                if kind not in ("if", "with"):
                    raise _wrong(f"{{{{ {end} }}}} is not supported")
                other = [self._branch(kind, rest[len(kind) :])]
            else:
                other, end = self._block()
                if end != "end":
                    raise _wrong(f"{{{{ {word} }}}} is never ended")
        return _range(head, nodes, other) if word == "range" else _if(word, head, nodes, other)


def _joined(nodes: list[Node], scope: _Scope) -> str:
    return "".join(node(scope) for node in nodes)


def _if(word: str, head: str, nodes: list[Node], other: list[Node]) -> Node:
    names, expression = _assigned(head)

    def node(scope: _Scope) -> str:
        value = expression(scope)
        inside = scope.inner(value if word == "with" else scope.dot, **dict.fromkeys(names, value))
        return _joined(nodes, inside) if _true(value) else _joined(other, scope)

    return node


def _range(head: str, nodes: list[Node], other: list[Node]) -> Node:
    names, expression = _assigned(head)

    def node(scope: _Scope) -> str:
        values = expression(scope)
        if not isinstance(values, list | dict | None):
            raise _wrong("range needs a list")
        pairs = list(values.items() if isinstance(values, dict) else enumerate(values or []))
        out = []
        for key, value in pairs:
            bound = dict(zip(names, (key, value) if len(names) == 2 else (value,), strict=False))
            out.append(_joined(nodes, scope.inner(value, **bound)))
        return "".join(out) if pairs else _joined(other, scope)

    return node


def _assigned(text: str) -> tuple[list[str], Callable[[_Scope], Any]]:
    """`$i, $m := expression` → the names and the expression."""
    match = re.match(r"\s*(\$\w+)(?:\s*,\s*(\$\w+))?\s*:?=(?!=)", text)
    if match is None:
        return [], _expression(text)
    return [name for name in match.groups() if name], _expression(text[match.end() :])


def _action(text: str) -> Node:
    names, expression = _assigned(text)

    def node(scope: _Scope) -> str:
        value = expression(scope)
        if names:
            scope.names[names[0]] = value
            return ""
        return _shown(value)

    return node


def _expression(text: str) -> Value:
    tokens = _tokens(text)
    value, rest = _pipeline(tokens)
    if rest:
        raise _wrong(f"unexpected {rest[0][1]!r} in {text.strip()[:60]!r}")
    return value


def _tokens(text: str) -> list[tuple[str, str]]:
    tokens, place = [], 0
    text = text.strip()
    while place < len(text):
        match = _TOKEN.match(text, place)
        if match is None or match.end() == place:
            raise _wrong(f"cannot read {text[place : place + 30]!r}")
        string, number, owner, path, variable, word, sign = match.groups()
        if string is not None:
            tokens.append(("string", string))
        elif number is not None:
            tokens.append(("number", number))
        elif path is not None:
            tokens.append(("path", (owner or "") + path))
        else:
            tokens.append(("sign", sign) if sign else ("word", variable or word))
        place = match.end()
    return tokens


def _pipeline(tokens: list[tuple[str, str]]) -> tuple[Value, list[tuple[str, str]]]:
    value, tokens = _command(tokens, [])
    while tokens and tokens[0] == ("sign", "|"):
        value, tokens = _command(tokens[1:], [value])
    return value, tokens


def _command(
    tokens: list[tuple[str, str]], last: list[Any]
) -> tuple[Callable[[_Scope], Any], list[tuple[str, str]]]:
    operands: list[Any] = []
    function: str | None = None
    while tokens and tokens[0] not in (("sign", ")"), ("sign", "|")):
        kind, text = tokens[0]
        if kind == "word" and not text.startswith("$") and text not in ("true", "false", "nil"):
            if operands or function:
                raise _wrong(f"unexpected {text!r}")
            if text not in _FUNCTIONS:
                raise _wrong(f"function {text!r} is not supported")
            function, tokens = text, tokens[1:]
        else:
            operand, tokens = _operand(tokens)
            operands.append(operand)
    operands += last
    if function is None:
        if len(operands) != 1:
            raise _wrong("an expression needs one value, or a function")
        return operands[0], tokens
    return _call(function, operands), tokens


def _call(name: str, operands: list[Any]) -> Callable[[_Scope], Any]:
    def call(scope: _Scope) -> Any:
        try:
            return _FUNCTIONS[name](*(operand(scope) for operand in operands))
        except (TypeError, LookupError, ValueError) as error:
            raise _wrong(f"{name}: {error}") from None

    return call


def _operand(tokens: list[tuple[str, str]]) -> tuple[Any, list[tuple[str, str]]]:
    kind, text = tokens[0]
    if (kind, text) == ("sign", "("):
        value, rest = _pipeline(tokens[1:])
        if not rest or rest[0] != ("sign", ")"):
            raise _wrong("a parenthesis is never closed")
        return value, rest[1:]
    if kind == "string":
        try:
            string = text[1:-1] if text.startswith("`") else json.loads(text, strict=False)
        except ValueError:
            raise _wrong(f"{text[:40]} is no text") from None
        return (lambda scope: string), tokens[1:]
    if kind == "number":
        number = float(text) if "." in text else int(text)
        return (lambda scope: number), tokens[1:]
    if kind == "path":
        return _path(text), tokens[1:]
    if kind == "word" and text.startswith("$"):
        return _path(text), tokens[1:]
    if kind == "word":
        constant = {"true": True, "false": False, "nil": None}[text]
        return (lambda scope: constant), tokens[1:]
    raise _wrong(f"unexpected {text!r}")


def _path(text: str) -> Callable[[_Scope], Any]:
    first, *fields = text.split(".")

    def value(scope: _Scope) -> Any:
        if first and first not in scope.names:
            raise _wrong(f"variable {first} is not defined")
        found = scope.names[first] if first else scope.dot
        for field in fields:
            if field:
                found = _field(found, field)
        return found

    return value


def _field(value: Any, name: str) -> Any:
    """Go's fields begin with a capital; JSON's names do not."""
    if not isinstance(value, dict):
        return None
    if name in value:
        return value[name]
    return value.get(name[:1].lower() + name[1:])


def _true(value: Any) -> bool:
    return bool(value)


def _shown(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return (
        value
        if isinstance(value, str)
        else _json(value)
        if isinstance(value, list | dict)
        else str(value)
    )


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "and": lambda *values: next((v for v in values if not _true(v)), values[-1]),
    "or": lambda *values: next((v for v in values if _true(v)), values[-1]),
    "not": lambda value: not _true(value),
    "eq": lambda first, *rest: any(first == other for other in rest),
    "ne": lambda a, b: a != b,
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
    "len": lambda value: 0 if value is None else len(value),
    "index": lambda value, *keys: value[keys[0]] if keys else value,
    "slice": lambda value, start=0, end=None: value[start:end],
    "json": _json,
    "print": lambda *values: "".join(_shown(v) for v in values),
}  # fmt: skip


def _wrong(text: str) -> RequestError:
    return RequestError(f"the template cannot be used: {text}")
