"""`logit_bias` through every door that has it, over a model that likes a, then b, then c."""

from __future__ import annotations

import json
from typing import Any

import httpx
import numpy as np
import pytest

from codellama.engine.runner import Logits
from serve.inprocess import drive


def abc(history: list[int]) -> Logits:
    row = np.zeros(264, np.float32)
    row[[97, 98, 99]] = 9.0, 8.0, 7.0
    return row


USER = [{"role": "user", "content": "x"}]
OPENAI = {
    "bbb": ({"98": 1.5}, {"97": -100, "99": 0}, {"97": -1.5}),
    "ccc": ({"99": 2.5}, {"97": -100, "98": -100}),
    "zzz": ({"122": 100},),
}
CASES = [(text, bias) for text, biases in OPENAI.items() for bias in biases]


@pytest.mark.parametrize(("text", "bias"), CASES)
def test_openai(text: str, bias: dict[str, float]) -> None:
    async def work(http: httpx.AsyncClient) -> None:
        body = {"max_tokens": 3, "temperature": 0, "logit_bias": bias}
        whole = (await http.post("/v1/completions", json=body | {"prompt": "x"})).json()
        assert whole["choices"][0]["text"] == text
        chat = (await http.post("/v1/chat/completions", json=body | {"messages": USER})).json()
        assert chat["choices"][0]["message"]["content"] == text
        infill = body | {"prompt": "x", "suffix": "y"}
        assert (await http.post("/v1/completions", json=infill)).json()["choices"][0][
            "text"
        ] == text

    drive(work, logits=abc)


LLAMACPP: list[tuple[str, Any]] = [
    ("bbb", [[98, 1.5]]),
    ("bbb", [["b", 1.5]]),
    ("bbb", [[97, False]]),
    ("bbb", {"98": 1.5}),
    ("bbb", {"a": False}),
    ("ccc", [["ab", -9]]),
    ("ccc", [[97, False], ["b", False]]),
    ("aaa", []),
    ("aaa", None),
]


@pytest.mark.parametrize(("text", "bias"), LLAMACPP, ids=str)
def test_llamacpp(text: str, bias: Any) -> None:
    async def work(http: httpx.AsyncClient) -> None:
        body = {"n_predict": 3, "temperature": 0, "logit_bias": bias}
        reply = await http.post("/completion", json=body | {"prompt": "x"})
        assert reply.json()["content"] == text
        infill = body | {"input_prefix": "x", "input_suffix": "y", "stream": True}
        lines = (await http.post("/infill", json=infill)).text.splitlines()
        parts = [json.loads(line[6:])["content"] for line in lines if line]
        assert "".join(parts) == text

    drive(work, logits=abc)


def test_draws_follow_the_biased_distribution() -> None:
    async def work(http: httpx.AsyncClient) -> None:
        body = {"n_predict": 40, "temperature": 1, "top_p": 1, "min_p": 0, "top_k": 0}
        body |= {"seed": 3, "logit_bias": [[97, 50], [98, 50], [99, False]], "prompt": "x"}
        text = (await http.post("/completion", json=body)).json()["content"]
        assert set(text) == {"a", "b"}

    drive(work, logits=abc)


BAD: list[tuple[str, Any]] = [
    ("/v1/completions", {"97": -101}),
    ("/v1/completions", {"97": 100.5}),
    ("/v1/completions", {"a": 1}),
    ("/v1/completions", {"264": 1}),
    ("/v1/completions", {"-1": 1}),
    ("/v1/completions", [[97, 1]]),
    ("/completion", [[97]]),
    ("/completion", [[97, True]]),
    ("/completion", [[97, "much"]]),
    ("/completion", [[264, 1]]),
    ("/completion", [[-1, 1]]),
    ("/completion", [[97, 1e9]]),
    ("/completion", "97"),
    ("/completion", [[n, 1] for n in range(5000)]),
]


@pytest.mark.parametrize(("path", "bias"), BAD, ids=lambda value: str(value)[:30])
def test_what_is_no_bias_is_refused(path: str, bias: Any) -> None:
    async def work(http: httpx.AsyncClient) -> None:
        body = {"prompt": "x", "max_tokens": 1, "logit_bias": bias}
        reply = await http.post(path, json=body)
        assert reply.status_code == 400, reply.text
        assert "logit_bias" in reply.json()["error"]["message"]

    drive(work, logits=abc)


def test_a_bias_that_leaves_nothing_is_an_error() -> None:
    async def work(http: httpx.AsyncClient) -> None:
        bias = {str(id): -100 for id in range(264)}
        body = {"prompt": "x", "max_tokens": 1, "temperature": 0, "logit_bias": bias}
        reply = await http.post("/v1/completions", json=body)
        assert reply.status_code == 400 and "allows no token" in reply.text

    drive(work, logits=abc)
