"""Chat templates (jinja2) from model files, rendered in a sandbox to token ids.

A template is a program of strangers: it runs in jinja2's immutable sandbox, sees only the
messages, and its errors are one line. What users wrote cannot become a control token: the
template is rendered with markers in the place of contents, so that tags of the template and text
of the messages are told apart.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

from codellama.errors import RequestError
from codellama.model.tokenizer_base import Tokenizer

__all__ = ["encode_marked", "mark", "render_template"]

_MARK = "\ue0f0{}\ue0f1"
_MARKED = re.compile("\ue0f0(\\d+)\ue0f1")
_LARGEST = 4_000_000  # characters a rendering may have


def render_template(
    tokenizer: Tokenizer, template: str, messages: Sequence[Mapping[str, str]]
) -> list[int]:
    """Ids of the rendered conversation with the prompt for the assistant's turn.

    Raises RequestError when the template fails, or changes contents in a way that hides where
    they are while they contain the text of a special token.
    """
    render = _compile(tokenizer, template)
    contents = [m["content"] for m in messages]
    marked = render([{**m, "content": mark(i)} for i, m in enumerate(messages)])
    plain = render([dict(m) for m in messages])
    for variant in (contents, [c.strip() for c in contents]):
        if _filled(marked, variant) == plain:
            return encode_marked(tokenizer, marked, variant)
    special = tokenizer.special_pattern()
    if any(special.search(c) for c in contents):
        raise RequestError(
            "a message contains the text of a special token, which this template cannot keep apart"
        )
    return encode_marked(tokenizer, plain, [])


def mark(index: int) -> str:
    """What stands for the content of this index in a rendering."""
    return _MARK.format(index)


def _filled(marked: str, contents: Sequence[str]) -> str:
    return _MARKED.sub(lambda match: contents[int(match[1])], marked)


def encode_marked(tokenizer: Tokenizer, marked: str, contents: Sequence[str]) -> list[int]:
    """Ids of a rendering in which `mark(i)` stands for contents[i]: special tokens only where the
    template wrote them; the text between two is one piece.
    """
    ids: list[int] = []
    text = ""
    special = tokenizer.special_pattern()
    for index, part in enumerate(_MARKED.split(marked)):
        if index % 2:
            text += contents[int(part)]
            continue
        for place, literal in enumerate(special.split(part)):
            if place % 2 == 0:
                text += literal
                continue
            token = tokenizer.token_id(literal)
            assert token is not None
            ids += [*tokenizer.encode(text), token]
            text = ""
    return ids + tokenizer.encode(text)


def _compile(tokenizer: Tokenizer, template: str) -> Any:
    from jinja2 import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    failures = (
        TemplateError, ArithmeticError, AttributeError, LookupError, MemoryError, RecursionError,
        TypeError, ValueError,
    )  # fmt: skip
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = lambda value, **_: json.dumps(value, ensure_ascii=False)
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)

    def render(messages: list[dict[str, str]]) -> str:
        try:
            text = environment.from_string(template).render(
                messages=messages,
                add_generation_prompt=True,
                bos_token=tokenizer.text_of(tokenizer.bos_id),
                eos_token=tokenizer.text_of(tokenizer.eos_id),
            )
        except RequestError:
            raise
        except failures as error:
            reason = str(error) or type(error).__name__
            raise RequestError(f"the model's chat template failed: {reason}") from None
        if len(text) > _LARGEST:
            raise RequestError("the model's chat template wrote more than 4 million characters")
        return text

    return render


def _refuse(message: str) -> NoReturn:
    raise RequestError(f"the model's chat template refuses: {message}")
