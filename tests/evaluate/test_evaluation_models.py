"""The models behind `evaluate`: the local engine's likelihoods, and servers by URL."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import numpy as np
import pytest

from codellama.api import CodeLlama
from codellama.cli.evaluation_models import LocalModel, UrlModel
from codellama.errors import RequestError
from codellama.evaluate.asks import (
    Continue,
    Decoding,
    Fill,
    Likelihood,
    Positions,
    Talk,
    UnsupportedAskError,
)
from codellama.model.config import PUBLISHED
from fakes import ByteTokenizer, FakeRunner, circling

GREEDY = Decoding()


def local(**runner: Any) -> LocalModel:
    fake = FakeRunner(vocab_size=264, context=256, n_blocks=64, **runner)
    config = PUBLISHED["smollm2:135m"]
    return LocalModel(CodeLlama(fake, ByteTokenizer(), config), "fake")


def log_softmax(row: Any) -> Any:
    return row - row.max() - np.log(np.exp(row - row.max()).sum())


def test_likelihoods_are_those_of_the_model() -> None:
    model = local()
    ask = Likelihood("ab", ("cd", "xyz"))
    ((first, second),) = (model.answers(ask, 1, GREEDY)[0],)
    runner = model.llm.runner
    for (total, count), text in ((first, "cd"), (second, "xyz")):  # type: ignore[misc]
        ids = [256, *b"ab", *text.encode()]
        wanted = sum(
            log_softmax(runner.alone(ids[:i]))[ids[i]]  # type: ignore[attr-defined]
            for i in range(3, len(ids))
        )
        assert total == pytest.approx(wanted, abs=1e-4)
        assert count == len(text)


def test_positions_are_losses_of_each_token() -> None:
    model = local()
    losses = model.answers(Positions("hello", 6), 1, GREEDY)[0]
    ids = [256, *b"hello"]
    wanted = [
        -log_softmax(model.llm.runner.alone(ids[:i]))[ids[i]]  # type: ignore[attr-defined]
        for i in range(1, 6)
    ]
    assert losses == pytest.approx(wanted, abs=1e-3)


def test_samples_share_their_prefill() -> None:
    model = local()
    prompt = "x" * 100
    before = model.llm.runner.tokens  # type: ignore[attr-defined]
    answers = model.answers(Continue(prompt, (), 4), 8, Decoding(temperature=1.0, seed=3))
    computed = model.llm.runner.tokens - before  # type: ignore[attr-defined]
    assert len(answers) == 8 and len(set(map(str, answers))) > 1
    assert computed <= 101 + 8 * 4
    again = model.answers(Continue(prompt, (), 4), 8, Decoding(temperature=1.0, seed=3))
    assert answers == again


def test_a_prompt_that_looks_like_infilling_is_text() -> None:
    model = local()
    model.answers(Continue("<PRE> a <SUF>b <MID>", (), 1), 1, GREEDY)
    tokens = model.llm.runner.batches[-1].tokens_T.tolist()  # type: ignore[attr-defined]
    first = model.llm.runner.batches[0].tokens_T.tolist()  # type: ignore[attr-defined]
    assert first[1:] == list(b"<PRE> a <SUF>b <MID>"), tokens


class Server(BaseHTTPRequestHandler):
    """Enough of OpenAI's and Ollama's APIs; remembers what it was asked."""

    asked: ClassVar[list[tuple[str, dict[str, Any]]]] = []
    busy: ClassVar[list[int]] = []

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append((self.path, body))
        status = self.busy.pop(0) if self.busy else 200
        if self.path.startswith("/v1"):
            text = {"message": {"content": "hi"}} if "chat" in self.path else {"text": "hi"}
            answer: dict[str, Any] = {"choices": [text]}  # one, whatever n says
        elif "chat" in self.path:
            answer = {"message": {"content": "hi"}}
        else:
            answer = {"response": "hi"}
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    http = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=http.serve_forever)
    thread.start()
    Server.asked.clear()
    yield f"http://127.0.0.1:{http.server_port}"
    http.shutdown()
    http.server_close()
    thread.join()


def test_openai(server: str) -> None:
    model = UrlModel(f"{server}/v1", "m")
    decoding = Decoding(temperature=0.8, top_p=0.95, seed=5)
    assert model.answers(Continue("p", ("a", "b", "c", "d", "e"), 9), 3, decoding) == ["hi"] * 3
    path, body = Server.asked[0]
    assert (path, body["prompt"], body["n"], body["max_tokens"]) == ("/v1/completions", "p", 3, 9)
    assert body["stop"] == ["a", "b", "c", "d"]
    assert [each[1]["n"] for each in Server.asked] == [3, 2, 1]
    assert len({each[1]["seed"] for each in Server.asked}) == 3
    assert model.answers(Talk((("user", "q"),)), 1, GREEDY) == ["hi"]
    assert Server.asked[-1][1]["messages"] == [{"role": "user", "content": "q"}]


def test_ollama(server: str) -> None:
    model = UrlModel(f"{server}/api", "m")
    assert model.answers(Continue("p", ("a",), 9), 2, GREEDY) == ["hi", "hi"]
    path, body = Server.asked[0]
    assert (path, body["raw"], body["options"]["num_predict"]) == ("/api/generate", True, 9)
    model.answers(Fill("p", "s"), 1, GREEDY)
    assert Server.asked[-1][1]["suffix"] == "s"
    assert model.answers(Talk((("user", "q"),)), 1, GREEDY) == ["hi"]


def test_a_busy_server_is_asked_again(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    Server.busy[:] = [503, 429]
    assert UrlModel(f"{server}/v1", "m").answers(Continue("p"), 1, GREEDY) == ["hi"]
    Server.busy[:] = [400]
    with pytest.raises(RequestError, match="400"):
        UrlModel(f"{server}/v1", "m").answers(Continue("p"), 1, GREEDY)


def test_a_server_knows_no_likelihoods() -> None:
    model = UrlModel("http://127.0.0.1:9/v1", "m")
    for ask in (Likelihood("a", ("b",)), Positions("a", 1)):
        with pytest.raises(UnsupportedAskError, match="a model on this machine"):
            model.answers(ask, 1, GREEDY)
    with pytest.raises(UnsupportedAskError):
        model.count("a")


def test_a_server_decides_itself_how_a_middle_begins_and_ends() -> None:
    model = UrlModel("http://127.0.0.1:9/api", "m")
    for more in ({"heal": True}, {"until_suffix": True}, {"nonempty": True}, {"dry": 0.8}):
        with pytest.raises(UnsupportedAskError, match="--dry"):
            model.answers(Fill("a", "b", **more), 1, GREEDY)


def test_a_middle_may_have_to_be_some() -> None:
    model = local()
    for order in ("psm", "spm"):
        (answer,) = model.answers(Fill("a", "b", order, nonempty=True, max_tokens=4), 1, GREEDY)
        assert answer != ""


def test_a_middle_may_have_to_stop_going_in_circles() -> None:
    model = local(logits=circling(264, "ab", 263))
    for dry, answer in ((0.0, "ab" * 10), (0.8, "ababa")):
        fill = Fill("b", "c", "spm", dry=dry, max_tokens=20)
        assert model.answers(fill, 1, GREEDY) == [answer]
