"""Every method of ollama-python against a live server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from codellama.weights.adapter import open_adapted, write_adapter
from codellama.weights.export import export_gguf
from codellama.weights.load import open_model
from serve.conftest import Live
from serve.support import INFILLS

ollama = pytest.importorskip("ollama")
GREEDY = {"temperature": 0, "num_predict": 12}


@pytest.fixture(scope="module")
def client(live: Live) -> Iterator[ollama.Client]:
    client = ollama.Client(host=live.url)
    yield client
    client._client.close()


@pytest.fixture(scope="module")
def infill_client(infilling: Live) -> Iterator[ollama.Client]:
    client = ollama.Client(host=infilling.url)
    yield client
    client._client.close()


@pytest.mark.weights
def test_generate(client: ollama.Client) -> None:
    whole = client.generate("codellama", "def add(a, b):", raw=True, options=GREEDY)
    assert whole.done and whole.done_reason == "length"
    assert whole.eval_count == 12
    assert whole.prompt_eval_count and whole.eval_duration and whole.total_duration
    pieces = list(
        client.generate("codellama", "def add(a, b):", raw=True, options=GREEDY, stream=True)
    )
    assert "".join(piece.response for piece in pieces) == whole.response
    assert pieces[-1].done and not any(piece.done for piece in pieces[:-1])


@pytest.mark.weights
def test_context_continues_a_conversation(client: ollama.Client) -> None:
    first = client.generate("codellama", "My name is Ada.", options=GREEDY)
    assert first.context
    second = client.generate("codellama", "What is my name?", context=first.context, options=GREEDY)
    assert second.prompt_eval_count > len(first.context)


@pytest.mark.weights
def test_chat(client: ollama.Client) -> None:
    messages = [{"role": "user", "content": "Say hello."}]
    whole = client.chat("codellama", messages, options=GREEDY)
    assert whole.message.role == "assistant" and whole.message.content
    pieces = list(client.chat("codellama", messages, options=GREEDY, stream=True))
    assert "".join(piece.message.content for piece in pieces) == whole.message.content


@pytest.mark.weights
def test_formats(client: ollama.Client) -> None:
    schema = {
        "type": "object",
        "properties": {"answer": {"type": "string", "maxLength": 20}},
        "required": ["answer"],
        "additionalProperties": False,
    }
    messages = [{"role": "user", "content": "What is the capital of France? Answer in JSON."}]
    options = {"temperature": 0, "num_predict": 60}
    reply = client.chat("codellama", messages, format=schema, options=options)
    assert set(json.loads(reply.message.content)) == {"answer"}
    reply = client.generate("codellama", "Answer: ", format="json", options=options)
    assert reply.response.lstrip().startswith("{")


@pytest.mark.weights
def test_tools(client: ollama.Client) -> None:
    def add(a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    reply = client.chat(
        "codellama", [{"role": "user", "content": "1+2"}], tools=[add], options=GREEDY
    )
    assert reply.message.content or reply.message.tool_calls


@pytest.mark.weights
def test_logprobs(client: ollama.Client) -> None:
    reply = client.generate(
        "codellama", "def f(", raw=True, logprobs=True, top_logprobs=2, options=GREEDY
    )
    assert reply.logprobs and len(reply.logprobs) == 12
    assert reply.logprobs[0].logprob <= 0
    assert len(reply.logprobs[0].top_logprobs) == 2


@pytest.mark.weights
def test_embed(client: ollama.Client) -> None:
    reply = client.embed("codellama", ["a", "b"])
    assert len(reply.embeddings) == 2
    assert sum(x * x for x in reply.embeddings[0]) == pytest.approx(1, abs=1e-4)
    assert len(client.embeddings("codellama", "a").embedding) == 576


@pytest.mark.weights
def test_models(client: ollama.Client) -> None:
    names = [model.model for model in client.list().models]
    assert "smollm2:135m" in names and "codellama:latest" in names
    shown = client.show("codellama")
    assert shown.modelinfo["llama.context_length"] == 8192
    assert "completion" in shown.capabilities
    client.generate("codellama", "")
    (running,) = client.ps().models
    assert running.model == "smollm2:135m" and running.context_length == 1024


@pytest.mark.weights
def test_create_copy_and_delete(client: ollama.Client) -> None:
    client.create(
        "mine",
        from_="smollm2:135m",
        system="You are terse.",
        parameters={"temperature": 0, "stop": ["\n"]},
    )
    shown = client.show("mine")
    assert shown.parameters and "temperature" in shown.parameters
    assert 'SYSTEM """You are terse."""' in shown.modelfile
    client.copy("mine", "other")
    client.delete("mine")
    assert client.show("other").modelinfo
    reply = client.generate("other", "hi", options={"num_predict": 3})
    assert reply.done
    client.delete("other")
    with pytest.raises(ollama.ResponseError) as error:
        client.show("other")
    assert error.value.status_code == 404


def test_blobs_and_create_from_a_file(infill_client: ollama.Client, infilling: Live) -> None:
    path = infilling.store.parent / "tiny.gguf"
    digest = infill_client.create_blob(path)
    steps = list(infill_client.create("uploaded", files={"tiny.gguf": digest}, stream=True))
    assert steps[-1].status == "success"
    assert infill_client.generate("uploaded", "x", options={"num_predict": 2}).done
    steps = list(infill_client.create("small", from_="uploaded", quantize="q8_0", stream=True))
    assert steps[-1].status == "success"
    assert infill_client.show("small").details.quantization_level == "Q8_0"
    for name in ("uploaded", "small"):
        infill_client.delete(name)


def tiny_adapter(infilling: Live) -> Path:
    """An adapter that turns the tiny model's answers around, as a file of ours."""
    base = open_model(infilling.store.parent / "tiny.gguf")
    generator = np.random.default_rng(5)
    arrays = {}
    for name in ("layers.0.attention.wo.weight", "layers.1.feed_forward.w2.weight"):
        out, width = base.layout(name).shape
        arrays[f"{name}.a"] = generator.standard_normal((4, width)).astype(np.float16)
        arrays[f"{name}.b"] = generator.standard_normal((out, 4)).astype(np.float16)
    path = infilling.store.parent / "mine.safetensors"
    about = {"name": "mine", "scale": 0.5, "rows": [], "pieces": [], "infill": None}
    write_adapter(path, arrays, about)
    return path


def test_create_with_an_adapter(infill_client: ollama.Client, infilling: Live) -> None:
    """The answers are those of the merged model: as a file, through the store, after a copy."""
    path = tiny_adapter(infilling)
    base = infilling.store.parent / "tiny.gguf"
    merged = path.with_name("merged.gguf")
    export_gguf(open_adapted(open_model(base), path, None), merged)
    infill_client.create("merged", files={"m.gguf": infill_client.create_blob(merged)})
    digest = infill_client.create_blob(path)
    steps = [
        step.status
        for step in infill_client.create(
            "adapted", from_=INFILLS, adapters={"mine.safetensors": digest}, stream=True
        )
    ]
    assert "converting adapter" in steps and steps[-1] == "success"
    body = {"model": "written", "modelfile": f"FROM {INFILLS}\nADAPTER @{digest}", "stream": False}
    assert infill_client._client.post("/api/create", json=body).status_code == 200
    infill_client.copy("adapted", "again")

    def answer(model: str) -> str:
        options = {"temperature": 0, "num_predict": 16}
        return infill_client.generate(model, "def f(x):", raw=True, options=options).response

    wanted = answer("merged")
    assert wanted != answer(INFILLS)
    assert [answer(name) for name in ("adapted", "written", "again")] == [wanted] * 3
    assert infill_client.generate("adapted", "a", "b", options={"num_predict": 2}).done
    for name in ("merged", "adapted", "written", "again"):
        infill_client.delete(name)


def test_adapters_that_cannot_be(infill_client: ollama.Client, infilling: Live) -> None:
    base = infill_client.create_blob(infilling.store.parent / "tiny.gguf")
    cases = {
        "not here": {"x.gguf": "sha256:" + "0" * 64},
        "no weights": {"adapter_config.json": base},
        "is no adapter": {"x.gguf": base},
        "not a sha256 digest": {"x": "../../etc/passwd"},
    }
    for said, adapters in cases.items():
        with pytest.raises(ollama.ResponseError, match=said) as error:
            infill_client.create("bad", from_=INFILLS, adapters=adapters)
        assert error.value.status_code == 400 and str(infilling.store) not in error.value.error
    body = {"model": "bad", "modelfile": f"FROM {INFILLS}\nADAPTER ./lora.gguf"}
    reply = infill_client._client.post("/api/create", json=body)
    assert reply.status_code == 400 and "blob" in reply.json()["error"]
    with pytest.raises(ollama.ResponseError, match="not found"):
        infill_client.show("bad")


def test_bad_uploads(infill_client: ollama.Client) -> None:
    import hashlib

    digest = "sha256:" + hashlib.sha256(b"no model").hexdigest()
    assert infill_client._client.post(f"/api/blobs/{digest}", content=b"other").status_code == 400
    assert (
        infill_client._client.post(f"/api/blobs/{digest}", content=b"no model").status_code == 201
    )
    with pytest.raises(ollama.ResponseError, match="no model"):
        infill_client.create("bad", files={"x.gguf": digest})
    assert infill_client._client.post("/api/blobs/sha256:..%2f..", content=b"x").status_code in (
        400,
        404,
    )


def test_infilling(infill_client: ollama.Client) -> None:
    options = {"temperature": 0, "num_predict": 8}
    reply = infill_client.generate(
        "codellama", "def f(x):\n    ", "\n    return y", options=options
    )
    assert reply.done
    assert "insert" in infill_client.show("codellama").capabilities
    assert ".Suffix" in infill_client.show("codellama").template


@pytest.mark.weights
def test_no_infilling_is_said_in_ollamas_words(client: ollama.Client) -> None:
    with pytest.raises(
        ollama.ResponseError, match="codellama:latest does not support insert"
    ) as error:
        client.generate("codellama", "def f(x):", "return y")
    assert error.value.status_code == 400


@pytest.mark.weights
def test_errors(client: ollama.Client) -> None:
    with pytest.raises(ollama.ResponseError, match="model 'nobody' not found"):
        client.generate("nobody", "x")
    with pytest.raises(ollama.ResponseError, match="raw mode does not support"):
        client.generate("codellama", "x", raw=True, system="y")
    with pytest.raises(ollama.ResponseError) as error:
        client.generate("codellama", "x " * 3000, raw=True)
    assert "tokens" in error.value.error and error.value.status_code == 400
    with pytest.raises(ollama.ResponseError, match="not pushed"):
        client.push("codellama")


@pytest.mark.weights
def test_truncation_only_when_asked_and_then_reported(client: ollama.Client) -> None:
    body = {"model": "codellama", "prompt": "x " * 3000, "raw": True, "truncate": True}
    reply = client._client.post("/api/generate", json=body | {"stream": False, "options": GREEDY})
    assert reply.status_code == 200
    assert reply.json()["prompt_truncated"] > 900
    assert "truncated" in reply.headers["x-codellama-notice"]


@pytest.mark.weights
def test_load_and_unload(client: ollama.Client) -> None:
    assert client.generate("codellama", "").done_reason == "load"
    assert client.generate("codellama", "", keep_alive=0).done_reason == "unload"
    assert client.ps().models == []
    assert client.chat("codellama", []).done_reason == "load"
    assert len(client.ps().models) == 1
