"""`dry_*` through every dialect, over a model that goes in circles."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from fakes import circling
from serve.inprocess import drive

CIRCLE = circling(264, "ab:", 263)
GREEDY = {"temperature": 0, "max_tokens": 12}
DOORS = {
    "/completion": {"prompt": "b:", "n_predict": 12, "temperature": 0},
    "/infill": {"input_prefix": "b:", "input_suffix": "c", "n_predict": 12, "temperature": 0},
    "/v1/completions": {"prompt": "b:", **GREEDY},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "b:"}], **GREEDY},
    "/api/generate": {"model": "fake", "prompt": "b:", "stream": False, "raw": True},
}


def asked(path: str, dry: dict[str, Any]) -> dict[str, Any]:
    if path != "/api/generate":
        return DOORS[path] | dry
    return DOORS[path] | {"options": {"temperature": 0, "num_predict": 12, **dry}}


def text_of(reply: dict[str, Any]) -> str:
    if "choices" not in reply:
        return str(reply.get("content", reply.get("response")))
    choice = reply["choices"][0]
    return str(choice["message"]["content"] if "message" in choice else choice["text"])


@pytest.mark.parametrize("path", DOORS)
def test_an_answer_that_goes_in_circles_ends(path: str) -> None:
    """llama.cpp's breakers have the colon: by default nothing here is a repeat."""
    on = {"dry_multiplier": 2.0}

    async def work(http: httpx.AsyncClient) -> None:
        for dry, goes_on in (({}, True), (on, True), (on | {"dry_sequence_breakers": []}, False)):
            reply = await http.post(path, json=asked(path, dry))
            assert reply.status_code == 200, reply.text
            assert (text_of(reply.json()) == "ab:" * 4) is goes_on

    drive(work, logits=CIRCLE)


@pytest.mark.parametrize("path", DOORS)
def test_values_out_of_range_are_refused(path: str) -> None:
    async def work(http: httpx.AsyncClient) -> None:
        for dry in ({"dry_multiplier": -1}, {"dry_multiplier": 1, "dry_sequence_breakers": [""]}):
            reply = await http.post(path, json=asked(path, dry))
            assert reply.status_code == 400 and "dry_" in reply.text

    drive(work, logits=CIRCLE)


def test_the_settings_say_it() -> None:
    async def work(http: httpx.AsyncClient) -> None:
        reply = await http.post("/completion", json=asked("/completion", {"dry_multiplier": 0.5}))
        settings = reply.json()["generation_settings"]
        assert settings["dry_multiplier"] == 0.5 and settings["dry_penalty_last_n"] == -1
        assert settings["dry_sequence_breakers"] == ["\n", ":", '"', "*"]

    drive(work, logits=CIRCLE)
