"""`nonempty` through every door that fills gaps, over a model that would end at once."""

from __future__ import annotations

from typing import Any

import httpx
import numpy as np
import pytest

from codellama.engine.runner import Logits
from serve.inprocess import drive

EOT = 263


def says_nothing(history: list[int]) -> Logits:
    """The end is likeliest, then a space, and after one `x`."""
    row = np.zeros(264, np.float32)
    row[[EOT, ord("x" if history[-1] == ord(" ") else " ")]] = 9.0, 8.0
    return row


GREEDY = {"temperature": 0, "max_tokens": 4}
DOORS = {
    "/infill": {"input_prefix": "a:", "input_suffix": "b", "n_predict": 4, "temperature": 0},
    "/v1/completions": {"prompt": "a:", "suffix": "b", **GREEDY},
    "/api/generate": {"model": "fake", "prompt": "a:", "suffix": "b", "stream": False},
}


def asked(path: str, nonempty: bool | None) -> dict[str, Any]:
    if path != "/api/generate":
        return DOORS[path] | {"nonempty": nonempty}
    return DOORS[path] | {"options": {"temperature": 0, "num_predict": 4, "nonempty": nonempty}}


def text_of(reply: dict[str, Any]) -> str:
    text = reply.get("content", reply.get("response"))
    return str(reply["choices"][0]["text"] if text is None else text)


@pytest.mark.parametrize("path", DOORS)
def test_an_answer_is_more_than_white_space(path: str) -> None:
    async def work(http: httpx.AsyncClient) -> None:
        for nonempty, begins in ((None, ""), (False, ""), (True, "x")):
            reply = await http.post(path, json=asked(path, nonempty))
            assert reply.status_code == 200, reply.text
            text = text_of(reply.json()).strip()
            assert bool(text) is bool(begins) and text.startswith(begins)

    drive(work, logits=says_nothing)


@pytest.mark.parametrize("path", ("/infill", "/v1/completions"))
def test_it_does_not_go_with_a_grammar(path: str) -> None:
    async def work(http: httpx.AsyncClient) -> None:
        body = asked(path, True) | {"grammar": 'root ::= "x"'}
        reply = await http.post(path, json=body)
        assert reply.status_code == 400 and "nonempty" in reply.text

    drive(work, logits=says_nothing)
