"""Instruction examples as token ids: a conversation in the model's own chat format, with loss on
the assistant's words and the end of its turn alone.

The prompt of every turn is exactly what model/prompts.py makes of it at inference, so what is
trained is what is asked for later.
"""

from __future__ import annotations

from collections.abc import Sequence

from codellama.errors import RequestError
from codellama.model import prompts
from codellama.model.tokenizer_base import Tokenizer
from codellama.specialize.fim import Encoded

__all__ = ["encode_chat"]


def encode_chat(
    tokenizer: Tokenizer,
    messages: Sequence[tuple[str, str]],
    limit: int,
    template: str | None = None,
) -> Encoded:
    """Ids and weights of (role, content) messages that end with an assistant's.

    Whole exchanges at the end are left out where `limit` tokens do not hold them; one answer that
    is too long alone is cut. Raises RequestError when there is no answer to learn.
    """
    ids: list[int] = []
    weights: list[float] = []
    end = _end_of_turn(tokenizer)
    for turn, (role, content) in enumerate(messages):
        if role != "assistant":
            continue
        before = [{"role": r, "content": c} for r, c in messages[:turn]]
        prompt = prompts.chat(tokenizer, before, template)
        answer = [*tokenizer.encode_infilling(content), *([] if end is None else [end])]
        if ids and len(prompt) + len(answer) > limit:
            break
        # The conversation so far is written anew as the template has it; its answers keep weight.
        kept = [*weights, *[0.0] * (len(prompt) - len(weights))][: len(prompt)]
        if prompt[: len(ids)] != ids:
            kept = [0.0] * len(prompt)
        ids, weights = [*prompt, *answer], [*kept, *[1.0] * len(answer)]
    if not any(weights):
        raise RequestError("an instruction example needs an assistant's message")
    return Encoded(ids[:limit], weights[:limit])


def _end_of_turn(tokenizer: Tokenizer) -> int | None:
    for piece in ("<|im_end|>", "<step>", "<|eot_id|>"):
        found = tokenizer.token_id(piece)
        if found is not None:
            return found
    return tokenizer.eos_id
