"""Behaviour that needs a scripted model: tool calls, keep_alive, num_ctx, editors, notices."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import numpy as np
import pytest

from codellama.engine.runner import Logits
from codellama.serve.settings import Settings
from serve.inprocess import drive

TOOL = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Add.",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
            "required": ["a", "b"],
        },
    },
}
CALL = '{"name": "add", "arguments": {"a": 1, "b": 2}}'
START, END = 258, 259
USER = [{"role": "user", "content": "1+2"}]


def saying(text: str) -> Any:
    """Logits of a model that answers a ChatML prompt with this text."""
    script = [*text.encode(), END]

    def logits(history: list[int]) -> Logits:
        row = np.zeros(264, np.float32)
        begin = len(history) - 1 - history[::-1].index(START) + 1 + len(b"assistant\n")
        row[script[min(len(history) - begin, len(script) - 1)]] = 20.0
        return row

    return logits


def test_tool_calls_through_ollama() -> None:
    async def work(http: httpx.AsyncClient) -> None:
        body = {
            "model": "codellama",
            "messages": USER,
            "tools": [TOOL],
            "options": {"temperature": 0},
        }
        whole = (await http.post("/api/chat", json=body | {"stream": False})).json()
        (call,) = whole["message"]["tool_calls"]
        assert call["function"] == {"index": 0, "name": "add", "arguments": {"a": 1, "b": 2}}
        assert whole["message"]["content"] == ""
        lines = [json.loads(x) for x in (await http.post("/api/chat", json=body)).text.splitlines()]
        assert [
            li["message"].get("tool_calls") for li in lines if "tool_calls" in li["message"]
        ] == [whole["message"]["tool_calls"]]
        assert all(not line["message"]["content"] for line in lines)

    drive(work, logits=saying(CALL))


def test_text_beside_tools_is_streamed() -> None:
    async def work(http: httpx.AsyncClient) -> None:
        body = {
            "model": "codellama",
            "messages": USER,
            "tools": [TOOL],
            "options": {"temperature": 0},
        }
        lines = [json.loads(x) for x in (await http.post("/api/chat", json=body)).text.splitlines()]
        assert "".join(line["message"]["content"] for line in lines) == "It is 3."
        assert len(lines) > 5

    drive(work, logits=saying("It is 3."))


def test_parallel_calls_through_openai() -> None:
    async def work(http: httpx.AsyncClient) -> None:
        body = {"messages": USER, "tools": [TOOL], "temperature": 0}
        reply = (await http.post("/v1/chat/completions", json=body)).json()
        (choice,) = reply["choices"]
        assert choice["finish_reason"] == "tool_calls"
        assert json.loads(choice["message"]["tool_calls"][0]["function"]["arguments"]) == {
            "a": 1,
            "b": 2,
        }
        none = await http.post("/v1/chat/completions", json=body | {"tool_choice": "none"})
        assert none.json()["choices"][0]["message"]["content"] == CALL
        named = {"type": "function", "function": {"name": "nobody"}}
        bad = await http.post("/v1/chat/completions", json=body | {"tool_choice": named})
        assert bad.status_code == 400

    drive(work, logits=saying(CALL))


def test_keep_alive() -> None:
    async def work(http: httpx.AsyncClient) -> None:
        models = http._transport.app.state_parts.models  # type: ignore[attr-defined]
        body = {"model": "fake", "prompt": "x", "stream": False, "options": {"num_predict": 1}}
        await http.post("/api/generate", json=body | {"keep_alive": "50ms"})
        assert len((await http.get("/api/ps")).json()["models"]) == 1
        await asyncio.sleep(0.1)
        await models.collect()
        assert (await http.get("/api/ps")).json()["models"] == []
        await http.post("/api/generate", json=body | {"keep_alive": -1})
        await models.collect()
        assert (await http.get("/api/ps")).json()["models"][0]["expires_at"] > "2100"
        bad = await http.post("/api/generate", json=body | {"keep_alive": "soon"})
        assert bad.status_code == 400 and "keep_alive" in bad.json()["error"]

    drive(work)


def test_a_context_beyond_the_model_is_cut_down_and_said() -> None:
    async def work(http: httpx.AsyncClient) -> None:
        body = {"model": "fake", "prompt": "x", "raw": True, "stream": False}
        options = {"num_predict": 1, "num_ctx": 100_000}
        reply = await http.post("/api/generate", json=body | {"options": options})
        assert reply.status_code == 200
        assert "num_ctx 100000 is more than the model's 512" in reply.headers["x-codellama-notice"]
        options = {"num_predict": 100, "num_ctx": 16, "temperature": 0}
        reply = await http.post("/api/generate", json=body | {"options": options})
        assert reply.json()["done_reason"] == "length" and reply.json()["eval_count"] == 14

    drive(work)


def test_a_newer_keystroke_of_a_slot_ends_the_older() -> None:
    async def work(http: httpx.AsyncClient) -> None:
        fields = {"input_suffix": "b" * 300, "id_slot": 0, "n_predict": 150, "ignore_eos": True}
        old = asyncio.ensure_future(http.post("/infill", json=fields | {"input_prefix": "a"}))
        while not (await http.get("/slots")).json():
            await asyncio.sleep(0.001)
        new = await http.post("/infill", json=fields | {"input_prefix": "ab", "n_predict": 2})
        assert new.json()["tokens_predicted"] == 2
        ended = (await old).json()
        assert ended["tokens_predicted"] < 150 and ended["stop_type"] == "none"

    drive(work, logits=slow)


def slow(history: list[int]) -> Logits:
    import time

    time.sleep(0.002)
    row = np.zeros(264, np.float32)
    row[97] = 5.0
    return row


@pytest.mark.parametrize("path", ["/api/generate", "/v1/completions", "/infill"])
def test_lone_surrogates_are_refused(path: str) -> None:
    async def work(http: httpx.AsyncClient) -> None:
        body = b'{"model":"fake","prompt":"\\ud800","input_prefix":"\\ud800","input_suffix":""}'
        reply = await http.post(path, content=body)
        assert reply.status_code == 400

    drive(work)


def test_a_time_limit_of_the_server() -> None:
    async def work(http: httpx.AsyncClient) -> None:
        body = {"model": "fake", "prompt": "x", "raw": True, "stream": False}
        reply = await http.post("/api/generate", json=body | {"options": {"num_predict": 400}})
        assert reply.status_code == 200 and reply.json()["eval_count"] < 400

    drive(work, Settings(max_seconds=0.1), logits=slow)
