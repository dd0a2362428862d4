"""openai-python against a live server: completions, chat, parse, embeddings, models."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from serve.conftest import Live

openai = pytest.importorskip("openai")
pydantic = pytest.importorskip("pydantic")
HI = [{"role": "user", "content": "Say hello."}]


@pytest.fixture(scope="module")
def client(live: Live) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{live.url}/v1", api_key="k", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def infill_client(infilling: Live) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{infilling.url}/v1", api_key="k", max_retries=0) as client:
        yield client


class Answer(pydantic.BaseModel):
    answer: str


@pytest.mark.weights
def test_chat(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(
        model="codellama",
        messages=HI,
        temperature=0,
        max_completion_tokens=8,
        logprobs=True,
        top_logprobs=2,
    )
    choice = whole.choices[0]
    assert choice.message.content and choice.finish_reason == "length"
    assert len(choice.logprobs.content) == 8 and len(choice.logprobs.content[0].top_logprobs) == 2
    assert whole.usage.completion_tokens == 8
    stream = client.chat.completions.create(
        model="codellama", messages=HI, temperature=0, max_tokens=8, stream=True,
        stream_options={"include_usage": True},
    )  # fmt: skip
    chunks = list(stream)
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == choice.message.content
    assert chunks[-1].usage.completion_tokens == 8 and not chunks[-1].choices
    assert chunks[-2].choices[0].finish_reason == "length"


@pytest.mark.weights
def test_several_answers(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(
        model="codellama", messages=HI, temperature=1.2, seed=3, n=3, max_tokens=8
    )
    texts = [choice.message.content for choice in reply.choices]
    assert len(set(texts)) > 1 and [c.index for c in reply.choices] == [0, 1, 2]
    again = client.chat.completions.create(
        model="codellama", messages=HI, temperature=1.2, seed=3, n=3, max_tokens=8
    )
    assert texts == [choice.message.content for choice in again.choices]


@pytest.mark.weights
def test_parse(client: openai.OpenAI) -> None:
    reply = client.chat.completions.parse(
        model="codellama", messages=HI, response_format=Answer, temperature=0, max_tokens=100,
        extra_body={"repeat_penalty": 1.3},
    )  # fmt: skip
    assert isinstance(reply.choices[0].message.parsed, Answer)


@pytest.mark.weights
def test_a_forced_tool_call(client: openai.OpenAI) -> None:
    parameters = {
        "type": "object",
        "properties": {"city": {"enum": ["Paris", "Rome"]}},
        "required": ["city"],
        "additionalProperties": False,
    }
    tool = {"type": "function", "function": {"name": "weather", "parameters": parameters}}
    ask = {
        "model": "codellama",
        "messages": HI,
        "tools": [tool],
        "tool_choice": "required",
        "temperature": 0,
    }
    reply = client.chat.completions.create(**ask)
    (call,) = reply.choices[0].message.tool_calls
    assert reply.choices[0].finish_reason == "tool_calls"
    assert call.function.name == "weather"
    assert json.loads(call.function.arguments)["city"] in ("Paris", "Rome")
    chunks = list(client.chat.completions.create(**ask, stream=True))
    calls = [c.choices[0].delta.tool_calls for c in chunks if c.choices[0].delta.tool_calls]
    assert calls[0][0].function.arguments == call.function.arguments
    assert chunks[-1].choices[0].finish_reason == "tool_calls"
    history = [
        *HI,
        reply.choices[0].message,
        {"role": "tool", "tool_call_id": call.id, "content": "sunny"},
    ]
    reply = client.chat.completions.create(model="codellama", messages=history, max_tokens=4)
    assert reply.choices[0].message.content is not None


@pytest.mark.weights
def test_completions(client: openai.OpenAI) -> None:
    ask = {"model": "codellama", "prompt": "def f(x):", "temperature": 0, "max_tokens": 6}
    whole = client.completions.create(**ask, logprobs=2)
    choice = whole.choices[0]
    assert len(choice.logprobs.tokens) == 6 == len(choice.logprobs.token_logprobs)
    assert "".join(choice.logprobs.tokens) == choice.text
    assert choice.logprobs.text_offset[0] == 0
    streamed = "".join(c.choices[0].text for c in client.completions.create(**ask, stream=True))
    assert streamed == choice.text
    several = client.completions.create(**{**ask, "prompt": ["def f(x):", "class A:"]}, n=2)
    assert [c.index for c in several.choices] == [0, 1, 2, 3]
    assert several.choices[0].text == choice.text
    merged: dict[int, str] = {}
    prompts = {**ask, "prompt": ["def f(x):", "class A:"], "stream": True}
    for chunk in client.completions.create(**prompts):
        merged[chunk.choices[0].index] = (
            merged.get(chunk.choices[0].index, "") + chunk.choices[0].text
        )
    assert merged == {0: choice.text, 1: several.choices[2].text}


@pytest.mark.weights
def test_token_prompts_and_echo(client: openai.OpenAI) -> None:
    ids = client.post("/../tokenize", cast_to=dict, body={"content": "def f(x):"})["tokens"]
    ask = {"model": "codellama", "temperature": 0, "max_tokens": 0, "echo": True, "logprobs": 1}
    by_text = client.completions.create(prompt="def f(x):", **ask).choices[0]
    by_ids = client.completions.create(prompt=ids, **ask).choices[0]
    assert by_text.text == by_ids.text == "def f(x):"
    assert by_text.logprobs.token_logprobs == by_ids.logprobs.token_logprobs
    assert by_text.logprobs.token_logprobs[0] is None
    assert all(p <= 0 for p in by_text.logprobs.token_logprobs[1:])
    best = client.completions.create(
        model="codellama", prompt="def f(x):", best_of=4, n=1, temperature=1, max_tokens=4, seed=1
    )
    assert len(best.choices) == 1 and best.usage.completion_tokens == 16


def test_real_infilling(infill_client: openai.OpenAI) -> None:
    ask = {"model": "codellama", "temperature": 0, "max_tokens": 8}
    texts = {
        order: infill_client.completions.create(
            prompt="def f(x):\n    ",
            suffix="\n    return y",
            extra_body={"infill_order": order},
            **ask,
        ).choices[0]
        for order in ("psm", "spm")
    }
    assert texts["psm"].text != texts["spm"].text  # other prompts for random weights
    textual = infill_client.completions.create(
        prompt="<PRE> def f(x):\n     <SUF>\n    return y <MID>", stop=["<EOT>"], **ask
    )
    assert textual.choices[0].text == texts["psm"].text


def test_fim_completions_as_continue_sends_them(infill_client: openai.OpenAI) -> None:
    body = {"model": "codellama", "prompt": "a", "suffix": "b", "max_tokens": 8, "temperature": 0}
    whole = infill_client.post("/fim/completions", cast_to=dict, body=body)
    text = whole["choices"][0]["message"]["content"]
    with infill_client._client.stream(
        "POST", "fim/completions", json=body | {"stream": True}
    ) as reply:
        events = [line[6:] for line in reply.iter_lines() if line.startswith("data: ")]
    assert events[-1] == "[DONE]"
    pieces = [json.loads(event)["choices"][0]["delta"]["content"] for event in events[:-1]]
    assert "".join(pieces) == text


@pytest.mark.weights
def test_embeddings(client: openai.OpenAI) -> None:
    packed = client.embeddings.create(model="codellama", input=["x", "y"])  # base64 by default
    plain = client.embeddings.create(model="codellama", input=["x", "y"], encoding_format="float")
    assert packed.data[1].embedding == pytest.approx(plain.data[1].embedding)
    assert len(plain.data[0].embedding) == 576


@pytest.mark.weights
def test_models(client: openai.OpenAI) -> None:
    names = [model.id for model in client.models.list()]
    assert "smollm2:135m" in names and "codellama" in names
    assert client.models.retrieve("smollm2:135m").id == "smollm2:135m"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nobody")


@pytest.mark.weights
def test_errors(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="nobody", messages=HI)
    with pytest.raises(openai.BadRequestError) as error:
        client.completions.create(model="codellama", prompt="x " * 3000)
    assert error.value.code == "context_length_exceeded"
    assert error.value.body["n_ctx"] == 1024 and error.value.body["n_prompt_tokens"] > 3000 - 5
    with pytest.raises(openai.BadRequestError, match="temperature"):
        client.chat.completions.create(model="codellama", messages=HI, temperature=-1)
    with pytest.raises(openai.BadRequestError, match="cannot infill"):
        client.completions.create(model="codellama", prompt="a", suffix="b")
    with pytest.raises(openai.BadRequestError, match="only text"):
        client.chat.completions.create(
            model="codellama",
            messages=[
                {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}
            ],
        )


@pytest.mark.weights
def test_num_ctx_is_honoured(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as error:
        client.completions.create(model="codellama", prompt="x " * 100, extra_body={"num_ctx": 64})
    assert error.value.body["n_ctx"] == 64
