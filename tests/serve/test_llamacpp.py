"""llama.cpp's routes, as llama.vscode and its kin use them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from serve.conftest import Live
from serve.support import INFILLS


@pytest.fixture(scope="module")
def http(infilling: Live) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=infilling.url, timeout=60) as client:
        # Loaded afresh: other tests of this server may have asked for a longer context.
        client.post("/api/generate", json={"model": INFILLS, "keep_alive": 0})
        yield client


@pytest.fixture(scope="module")
def talking(live: Live) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=live.url, timeout=60) as client:
        yield client


VSCODE = {
    "id_slot": 0,
    "input_prefix": "import os\n\n\ndef first(path):\n",
    "input_suffix": "\n    return path\n",
    "input_extra": [{"text": "def other(): pass\n", "time": 1, "filename": "a.py"}],
    "prompt": "    pa",
    "n_predict": 8,
    "n_cmpl": 1,
    "top_k": 1,
    "top_p": 0.99,
    "stream": False,
    "samplers": ["top_k", "top_p", "infill"],
    "cache_prompt": True,
    "t_max_prompt_ms": 5000,
    "t_max_predict_ms": 5000,
    "lora": [{"id": 0, "scale": 0.5}],
    "model": "",
}


def infill(http: httpx.Client, **fields: Any) -> Any:
    reply = http.post("/infill", json=VSCODE | fields)
    assert reply.status_code == 200, reply.text
    return reply.json()


def test_infill_as_llama_vscode_sends_it(http: httpx.Client) -> None:
    reply = infill(http)
    assert isinstance(reply["content"], str) and reply["stop"]
    assert reply["generation_settings"]["n_ctx"] == 16384
    assert reply["tokens_evaluated"] > 0 and not reply["truncated"]
    assert {"prompt_n", "prompt_ms", "predicted_n", "predicted_per_second"} <= set(reply["timings"])


def test_a_warmed_cache_is_used(http: httpx.Client) -> None:
    prefix = "".join(f"value_{i} = {i}\n" for i in range(60))
    warm = infill(http, input_prefix=prefix, n_predict=0, samplers=[], t_max_predict_ms=1)
    assert warm["content"] == "" and warm["tokens_predicted"] == 0
    reply = infill(http, input_prefix=prefix)
    assert reply["tokens_cached"] > 0.8 * reply["tokens_evaluated"]


def test_a_keystroke_costs_the_keys_typed(http: httpx.Client) -> None:
    """Suffix first: only the end of the growing prefix is computed."""
    prefix = "".join(f"number_{i} = {i}\n" for i in range(50))
    infill(http, input_prefix=prefix, input_extra=[], prompt="")
    for typed in ("x", "x = ", "x = numb"):
        reply = infill(http, input_prefix=prefix, input_extra=[], prompt=typed)
        assert reply["timings"]["prompt_n"] <= 16 + 8


def test_several_completions_are_an_array(http: httpx.Client) -> None:
    replies = infill(http, n_cmpl=3, top_k=40, seed=1)
    assert [reply["index"] for reply in replies] == [0, 1, 2]


def test_orders(http: httpx.Client) -> None:
    contents = {order: infill(http, order=order)["content"] for order in ("psm", "spm")}
    assert contents["psm"] != contents["spm"]
    assert infill(http)["content"] == contents["spm"]


def test_extras_that_do_not_fit_are_left_out_and_said(http: httpx.Client) -> None:
    extras = [{"text": f"# {i}\n" + "x = 1\n" * 400, "filename": f"{i}.py"} for i in range(20)]
    assert infill(http, input_extra=extras)["truncated"] is True


def test_missing_fields(http: httpx.Client) -> None:
    reply = http.post("/infill", json={"input_suffix": ""})
    assert reply.status_code == 400
    assert reply.json()["error"]["message"] == '"input_prefix" is required'


@pytest.mark.weights
def test_models_that_cannot_infill_say_so_with_501(talking: httpx.Client) -> None:
    reply = talking.post("/infill", json={"input_prefix": "a", "input_suffix": "b"})
    assert reply.status_code == 501
    assert reply.json()["error"]["type"] == "not_supported_error"
    assert "prefix token is missing" in reply.json()["error"]["message"]


@pytest.mark.weights
def test_completion(talking: httpx.Client) -> None:
    body = {"prompt": "def f(x):", "n_predict": 6, "temperature": 0, "n_probs": 2}
    whole = talking.post("/completion", json=body).json()
    assert whole["stop_type"] == "limit" and len(whole["completion_probabilities"]) == 6
    with talking.stream("POST", "/completion", json=body | {"stream": True}) as reply:
        events = [json.loads(line[6:]) for line in reply.iter_lines() if line]
    assert "".join(event["content"] for event in events) == whole["content"]
    assert events[-1]["stop"] and not events[0]["stop"]
    word = talking.post("/completion", json=body | {"n_predict": 50, "stop": ["\n"]}).json()
    assert word["stop_type"] == "word" and word["stopping_word"] == "\n"


@pytest.mark.weights
def test_grammars(talking: httpx.Client) -> None:
    body = {"prompt": "Is water wet? ", "n_predict": 8, "temperature": 0}
    reply = talking.post("/completion", json=body | {"grammar": 'root ::= "yes" | "no"'}).json()
    assert reply["content"] in ("yes", "no") and reply["stop_type"] == "eos"
    reply = talking.post("/completion", json=body | {"regex": "[0-9]{3}"}).json()
    assert len(reply["content"]) == 3 and reply["content"].isdecimal()
    reply = talking.post("/completion", json=body | {"grammar": "root ::= ("})
    assert reply.status_code == 400 and "GBNF" in reply.json()["error"]["message"]


@pytest.mark.weights
def test_tokens_and_templates(talking: httpx.Client) -> None:
    ids = talking.post("/tokenize", json={"content": "naïve code"}).json()["tokens"]
    assert talking.post("/detokenize", json={"tokens": ids}).json()["content"] == "naïve code"
    pieces = talking.post("/tokenize", json={"content": "a b", "with_pieces": True}).json()[
        "tokens"
    ]
    assert "".join(piece["piece"] for piece in pieces) == "a b"
    messages = [{"role": "user", "content": "hi"}]
    prompt = talking.post("/apply-template", json={"messages": messages}).json()["prompt"]
    assert prompt.endswith("<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n")
    body = {"prompt": prompt, "n_predict": 8, "temperature": 0}
    raw = talking.post("/completion", json=body).json()["content"]
    chat = talking.post(
        "/v1/chat/completions", json={"messages": messages, "max_tokens": 8, "temperature": 0}
    ).json()
    assert raw == chat["choices"][0]["message"]["content"]


@pytest.mark.weights
def test_states(talking: httpx.Client) -> None:
    assert talking.get("/health").json() == {"status": "ok"}
    props = talking.get("/props").json()
    assert props["default_generation_settings"]["n_ctx"] == 1024
    assert props["default_generation_settings"]["cache_type_k"] == "f16"
    assert "/" not in props["model_path"]
    assert talking.get("/slots").json() == []
    metrics = talking.get("/metrics").text
    for name in (
        "vllm:time_to_first_token_seconds_bucket",
        "vllm:generation_tokens_total",
        "vllm:num_requests_running",
        "codellama:constraint_seconds_total",
        "llamacpp:prompt_tokens_total",
    ):
        assert f"\n{name}" in metrics, name


@pytest.mark.weights
def test_a_time_limit_ends_the_answer_after_a_line(talking: httpx.Client) -> None:
    body = {"prompt": "a\nb\nc\n", "ignore_eos": True, "t_max_predict_ms": 1, "n_predict": 400}
    reply = talking.post("/completion", json=body | {"temperature": 0}).json()
    assert reply["stop_type"] == "limit" and reply["tokens_predicted"] < 400
    body = {"prompt": "x = 1\n" * 150, "t_max_prompt_ms": 1, "n_predict": 50}
    reply = talking.post("/completion", json=body).json()
    assert reply["content"] == "" and reply["stop_type"] == "limit"


def test_infilling_that_parses_as_python(http: httpx.Client) -> None:
    """Random weights: what ends by itself parses, with the text around it."""
    fields = {"input_prefix": "x = (", "input_suffix": ")\n", "prompt": "", "input_extra": []}
    for seed in range(6):
        reply = infill(
            http, **fields, parses="python", seed=seed, top_k=0, top_p=1, min_p=0, temperature=2,
            n_predict=40,
        )  # fmt: skip
        if reply["stop_type"] == "eos":
            compile("x = (" + reply["content"] + ")\n", "gap", "exec", flags=0x400)  # the AST alone
    bad = http.post("/infill", json=VSCODE | {"parses": "cobol"})
    assert bad.status_code == 400
