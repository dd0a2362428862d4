"""Prompts as the models were trained on them, as token ids.

    completion   [BOS] text
    infilling    PSM  [BOS, PRE] prefix [SUF] suffix [MID]
                 SPM  [BOS, PRE, SUF] suffix [MID] prefix        (paper §2.3, "SPM variant 2")
    chat         Llama 2 and Code Llama Instruct: [INST] … [/INST]; 70B: Source: … <step>; others:
    the file's template

User text is encoded without special tokens; the ids of tags come from here alone. A tag that is
ordinary text in its format ([INST]) is refused in a message. Sources:
meta-llama/codellama@e81b597 generation.py; llama.cpp for the order of StarCoder-like
vocabularies.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Literal

from codellama.errors import InfillingUnsupportedError, RequestError
from codellama.model.templates import render_template
from codellama.model.tokenizer_base import Tokenizer

__all__ = [
    "chat",
    "completion",
    "infilling",
    "parse_textual_infilling",
    "parse_textual_suffix_first",
]

Message = Mapping[str, str]

B_INST, E_INST = "[INST]", "[/INST]"
B_SYS, E_SYS = "<<SYS>>\n", "\n<</SYS>>\n\n"
_FORBIDDEN = ("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>", "<step>")
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content']"
    " + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_SUFFIX_FIRST = re.compile(r"<PRE> <SUF>(?P<suffix>.*?) <MID> (?P<prefix>.*)\Z", re.DOTALL)
_TEXTUAL = re.compile(r"<PRE> (?P<prefix>.*?) <SUF>(?P<suffix>.*) <MID>\Z", re.DOTALL)


def completion(tokenizer: Tokenizer, text: str) -> list[int]:
    """Ids of a text to be continued; BOS in front where the model was trained so."""
    return tokenizer.encode(text, bos=tokenizer.add_bos)


def infilling(
    tokenizer: Tokenizer, prefix: str, suffix: str, order: Literal["psm", "spm"] = "psm"
) -> list[int]:
    """Ids after which the model writes the middle and ends it with EOT.

    The prefix keeps SentencePiece's implicit leading space, the suffix has none. Raises
    InfillingUnsupportedError for vocabularies without sentinels.
    """
    ids = tokenizer.infill
    if ids is None:
        raise InfillingUnsupportedError(
            "this model cannot infill: its vocabulary has no infilling tokens "
            "(Code Llama 7B, 13B and 70B, base and Instruct, have them)"
        )
    bos = [tokenizer.bos_id] if tokenizer.add_bos and tokenizer.bos_id is not None else []
    before, after = tokenizer.encode(prefix), tokenizer.encode_infilling(suffix)
    if order == "psm":
        return [*bos, ids.pre, *before, ids.suf, *after, ids.mid]
    return [*bos, ids.pre, ids.suf, *after, ids.mid, *before]


def parse_textual_suffix_first(prompt: str) -> tuple[str, str] | None:
    """(prefix, suffix) of the other order, `<PRE> <SUF>{suffix} <MID> {prefix}`; None for other
    text.

    >>> parse_textual_suffix_first("<PRE> <SUF>return y <MID> def f(x):")
    ('def f(x):', 'return y')
    """
    match = _SUFFIX_FIRST.match(prompt.removeprefix(" "))
    return None if match is None else (match["prefix"], match["suffix"])


def parse_textual_infilling(prompt: str) -> tuple[str, str] | None:
    """(prefix, suffix) of `<PRE> {prefix} <SUF>{suffix} <MID>`, as clients write it in a raw
    prompt; None for other text.

    >>> parse_textual_infilling("<PRE> def f(x): <SUF>return y <MID>")
    ('def f(x):', 'return y')
    """
    match = _TEXTUAL.match(prompt.removeprefix(" "))
    return None if match is None else (match["prefix"], match["suffix"])


def chat(
    tokenizer: Tokenizer, messages: Sequence[Message], template: str | None = None
) -> list[int]:
    """Ids of a conversation up to where the assistant answers.

    The 70B format where the vocabulary has <step>; the file's template; Llama 2's format for
    SentencePiece vocabularies without one. Raises RequestError for roles out of order, forbidden
    tags, or when no format is known.
    """
    if not messages:
        raise RequestError("a chat needs at least one message")
    for message in messages:
        parts = (
            [message.get(key) for key in ("role", "content")]
            if isinstance(message, Mapping)
            else []
        )
        if not parts or not all(isinstance(part, str) for part in parts):
            raise RequestError("every message needs a role and a content, both text")
    if tokenizer.token_id("<step>") is not None:
        return _source_destination(tokenizer, messages)
    if tokenizer.kind == "llama" and (template is None or B_INST in template):
        return _inst(tokenizer, messages)
    if template is None and tokenizer.token_id("<|im_start|>") is not None:
        template = CHATML
    if template is None:
        raise RequestError("this model has no chat template: use completion instead")
    return render_template(tokenizer, template, messages)


def _inst(tokenizer: Tokenizer, messages: Sequence[Message]) -> list[int]:
    """[INST] turns; a system message goes into the first user turn (ref. chat_completion)."""
    turns = [dict(m) for m in messages]
    for turn in turns:
        tag = next((t for t in _FORBIDDEN if t in turn["content"]), None)
        if tag is not None:
            raise RequestError(f"the tag {tag} is part of the format: it may not be in a message")
    if turns[0]["role"] == "system":
        if len(turns) == 1:
            raise RequestError("a system message alone asks nothing: add a user message")
        turns[1]["content"] = B_SYS + turns[0]["content"] + E_SYS + turns[1]["content"]
        turns = turns[1:]
    roles = [turn["role"] for turn in turns]
    if roles != [("user", "assistant")[i % 2] for i in range(len(roles))] or len(roles) % 2 == 0:
        raise RequestError(
            "roles must be an optional system, then user and assistant in turn, the last one user"
        )
    bos = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    eos = [] if tokenizer.eos_id is None else [tokenizer.eos_id]
    ids: list[int] = []
    for user, answer in zip(turns[::2], turns[1::2], strict=False):
        text = f"{B_INST} {user['content'].strip()} {E_INST} {answer['content'].strip()} "
        ids += [*bos, *tokenizer.encode(text), *eos]
    last = f"{B_INST} {turns[-1]['content'].strip()} {E_INST}"
    return [*ids, *bos, *tokenizer.encode(last)]


def _source_destination(tokenizer: Tokenizer, messages: Sequence[Message]) -> list[int]:
    """The 70B-Instruct format (ref. dialog_prompt_tokens); each segment is encoded alone."""
    step = tokenizer.token_id("<step>")
    assert step is not None
    turns = list(messages)
    if turns[0]["role"] != "system":
        turns.insert(0, {"role": "system", "content": ""})
    ids = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    for turn in turns:
        if turn["role"] not in ("system", "user", "assistant"):
            raise RequestError(f"role {turn['role']!r}: it must be system, user or assistant")
        header = f" Source: {turn['role']}"
        if turn["role"] == "assistant":
            header += "\nDestination: user"
        ids += tokenizer.encode(header)
        if turn["content"].strip():
            ids += tokenizer.encode("\n\n " + turn["content"].strip())
        ids.append(step)
    ids += tokenizer.encode(" Source: assistant\nDestination: user")
    return ids + tokenizer.encode("\n\n ")
