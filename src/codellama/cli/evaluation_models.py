"""Models that `evaluate` asks: the local engine, or a server by URL.

LocalModel answers everything. UrlModel speaks OpenAI's completions and chat, and Ollama's generate
and chat where the URL ends in /api; it knows no tokens, so suites that need them say so.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np

from codellama.errors import RequestError
from codellama.evaluate.asks import (
    Ask,
    Continue,
    Decoding,
    Fill,
    Likelihood,
    Positions,
    Raw,
    Talk,
    UnsupportedAskError,
)

if TYPE_CHECKING:
    import numpy.typing as npt

    from codellama import CodeLlama

__all__ = ["LazyModel", "LocalModel", "UrlModel"]


class LocalModel:
    """asks.Model over CodeLlama: questions from several threads are batched by the engine."""

    def __init__(self, llm: CodeLlama, name: str, path: Path | None = None) -> None:
        self.llm = llm
        self.name = name
        self.path = path
        self.infills = llm.tokenizer.infill is not None
        self.parallel = 16
        self.context = llm.context

    def identity(self) -> dict[str, str | int]:
        facts: dict[str, str | int] = {
            "name": self.name,
            "context": self.context,
            "infills": self.infills,
        }
        if self.path is not None and self.path.is_file():
            facts["file"] = self.path.name
            facts["sha256"] = file_sha256(self.path)
        return facts

    def count(self, text: str) -> int:
        return len(self.llm.tokenizer.encode(text))

    def answers(self, ask: Ask, n: int, decoding: Decoding) -> list[Raw]:
        match ask:
            case Likelihood():
                return [self._likelihoods(ask)] * n
            case Positions():
                return [self._positions(ask)] * n
        params: dict[str, Any] = {
            "temperature": decoding.temperature,
            "top_p": decoding.top_p,
            "seed": decoding.seed,
            "max_tokens": ask.max_tokens,
            "stop": ask.stop,
        }
        match ask:
            case Continue():
                # Text as text: a prompt that looks like an infilling one is not taken for one.
                done = self.llm.samples(self._ids(ask.prompt), n, **params)
                return [each.text for each in done]
            case Fill():
                if not self.infills:
                    raise UnsupportedAskError(f"{self.name} cannot infill")
                return [
                    self.llm.infill(
                        ask.prefix,
                        ask.suffix,
                        order=ask.order,
                        heal=ask.heal,
                        until_suffix=ask.until_suffix,
                        nonempty=ask.nonempty,
                        dry_multiplier=ask.dry,
                        **self._nth(params, i),
                    ).text
                    for i in range(n)
                ]
            case Talk():
                messages = [{"role": role, "content": text} for role, text in ask.messages]
                return [self.llm.chat(messages, **self._nth(params, i)).text for i in range(n)]

    def _nth(self, params: dict[str, Any], i: int) -> dict[str, Any]:
        """Parameters of sample i; its prompt comes out of the prefix cache from the second on."""
        return {**params, "seed": params["seed"] + i * 7919}

    def _ids(self, text: str) -> list[int]:
        from codellama.model import prompts

        return prompts.completion(self.llm.tokenizer, text)

    def _likelihoods(self, ask: Likelihood) -> list[list[float]]:
        """Log-probability and tokens of each continuation, all decoded in one batch, each forced to
        its own tokens: the context is computed once.
        """
        from codellama.engine.params import SamplingParams
        from codellama.engine.request import Request

        context = self._ids(ask.context)
        forced = [self._continuation(context, ask.context, text) for text in ask.continuations]
        prefix = context[: min(len(common(context, ids)) for ids in forced)]
        self._warm(prefix)
        totals = [[0.0, 0.0] for _ in forced]
        requests = [
            Request(
                prompt_ids=tuple(prefix),
                params=SamplingParams(
                    max_tokens=len(ids) - len(prefix), logprobs=0, ignore_eos=True
                ),
                constraint=Forced(ids[len(prefix) :], self.llm.runner.vocab_size),
            )
            for ids in forced
        ]
        for place, event in self.llm.engine.events(requests):
            if event.token is not None and event.logprob is not None:
                totals[place][0] += event.logprob.logprob
                totals[place][1] += 1
        return totals

    def _continuation(self, context: list[int], text: str, continuation: str) -> list[int]:
        """Ids of context and continuation together, where the context's own are kept if it ends at
        a token's boundary.
        """
        whole = self._ids(text + continuation)
        kept = len(common(context, whole))
        return whole if kept == len(context) else context[:kept] + whole[kept:]

    def _warm(self, prefix: list[int]) -> None:
        """Compute a context once, so that the continuations find it in the cache."""
        self.llm.complete(prefix, max_tokens=0)

    def _positions(self, ask: Positions) -> list[float]:
        ids = self._ids(ask.text)[: ask.tokens]
        return [round(-float(each), 4) for each in self.llm.engine.logprobs(ids)]


class LazyModel:
    """asks.Model by name: loaded where it is first asked, once in a process. It travels to other
    machines as its name.
    """

    parallel = 16

    def __init__(self, name: str, context: int | None = None, threads: int | None = None) -> None:
        self.name = name
        self._key = (name, context, threads)

    @property
    def infills(self) -> bool:
        return self._model().infills

    @property
    def context(self) -> int:
        return self._model().context

    def identity(self) -> dict[str, str | int]:
        return self._model().identity()

    def count(self, text: str) -> int:
        return self._model().count(text)

    def answers(self, ask: Ask, n: int, decoding: Decoding) -> list[Raw]:
        return self._model().answers(ask, n, decoding)

    def _model(self) -> LocalModel:
        with _LOADING:
            return _loaded(*self._key)


_LOADING = threading.Lock()


@lru_cache(maxsize=1)
def _loaded(name: str, context: int | None, threads: int | None) -> LocalModel:
    from codellama.cli.generate import load
    from codellama.hub import resolve

    return LocalModel(load(name, context=context, threads=threads), name, Path(resolve(name)))


class Forced:
    """engine.request.Constraint: exactly these tokens."""

    def __init__(self, ids: list[int], vocab_size: int) -> None:
        self.ids = ids
        self.vocab_size = vocab_size

    def __call__(self, generated: list[int]) -> npt.NDArray[np.bool_]:
        mask_V = np.zeros(self.vocab_size, bool)
        mask_V[self.ids[min(len(generated), len(self.ids) - 1)]] = True
        return mask_V


class UrlModel:
    """asks.Model over HTTP.

    Args:
        url: an OpenAI base, such as http://127.0.0.1:8080/v1, or Ollama's http://127.0.0.1:11434/api.
        name: the model's name there. OPENAI_API_KEY is sent where it is set.
    """

    def __init__(self, url: str, name: str, *, context: int = 16_384, parallel: int = 8) -> None:
        self.url = url.rstrip("/")
        self.name = name
        self.ollama = self.url.endswith("/api")
        # Ollama's generate takes a suffix, and refuses it itself where the model cannot.
        self.infills = self.ollama
        self.parallel = parallel
        self.context = context
        key = os.environ.get("OPENAI_API_KEY")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self.client = httpx.Client(timeout=600, headers=headers)

    def identity(self) -> dict[str, str | int]:
        return {"name": self.name, "url": self.url, "infills": self.infills}

    def count(self, text: str) -> int:
        raise UnsupportedAskError(
            f"{self.url} does not count tokens: this suite needs a model on this machine"
        )

    def answers(self, ask: Ask, n: int, decoding: Decoding) -> list[Raw]:
        if isinstance(ask, Likelihood | Positions):
            raise UnsupportedAskError(
                f"{self.url} does not give likelihoods of a text: this suite needs a model on this "
                "machine"
            )
        if isinstance(ask, Fill) and (ask.heal or ask.until_suffix or ask.nonempty or ask.dry):
            raise UnsupportedAskError(
                f"{self.url} decides itself how a middle begins and ends: --heal, "
                "--until-suffix, --nonempty and --dry need a model on this machine"
            )
        if self.ollama:
            return [self._ollama(ask, decoding, i) for i in range(n)]
        return self._openai(ask, n, decoding)

    def _openai(self, ask: Continue | Fill | Talk, n: int, decoding: Decoding) -> list[Raw]:
        body: dict[str, Any] = {
            "model": self.name,
            "n": n,
            "max_tokens": ask.max_tokens,
            "temperature": decoding.temperature,
            "top_p": decoding.top_p,
            "seed": decoding.seed,
        }
        if ask.stop:
            body["stop"] = list(ask.stop[:4])  # OpenAI's own bound; the rest is cut by extract
        match ask:
            case Talk():
                body["messages"] = [{"role": r, "content": c} for r, c in ask.messages]
                path = "/chat/completions"
            case Continue():
                body["prompt"] = ask.prompt
                path = "/completions"
            case Fill():
                body["prompt"], body["suffix"] = ask.prefix, ask.suffix
                path = "/completions"
        choices = self._post(path, body)["choices"]
        texts = [
            c["message"]["content"] if path.startswith("/chat") else c["text"] for c in choices
        ]
        if len(texts) < n:  # servers that ignore n
            rest = Decoding(
                temperature=decoding.temperature, top_p=decoding.top_p, seed=decoding.seed + 7919
            )
            texts += self._openai(ask, n - len(texts), rest)
        return texts[:n]

    def _ollama(self, ask: Continue | Fill | Talk, decoding: Decoding, i: int) -> str:
        options: dict[str, Any] = {
            "num_predict": ask.max_tokens,
            "temperature": decoding.temperature,
            "top_p": decoding.top_p,
            "seed": decoding.seed + i * 7919,
            "stop": list(ask.stop),
        }
        body: dict[str, Any] = {"model": self.name, "stream": False, "options": options}
        match ask:
            case Talk():
                body["messages"] = [{"role": r, "content": c} for r, c in ask.messages]
                text: str = self._post("/chat", body)["message"]["content"]
                return text
            case Continue():
                body |= {"prompt": ask.prompt, "raw": True}
            case Fill():
                body |= {"prompt": ask.prefix, "suffix": ask.suffix}
        response: str = self._post("/generate", body)["response"]
        return response

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        """One call; a refused connection or a busy server is tried again for a while."""
        address = f"{self.url}{path}"
        for pause in (1, 4, 16, None):
            try:
                reply = self.client.post(address, json=body)
                if reply.status_code < 500 and reply.status_code != 429:
                    break
                problem = f"{reply.status_code} {reply.text[:200]}"
            except httpx.HTTPError as error:
                problem = str(error)
            if pause is None:
                raise RequestError(f"{address}: {problem}")
            time.sleep(pause)
        if reply.status_code != 200:
            raise RequestError(f"{address}: {reply.status_code} {reply.text[:300]}")
        try:
            return reply.json()
        except ValueError:
            raise RequestError(f"{address}: the answer is not JSON") from None


def common(a: list[int], b: list[int]) -> list[int]:
    """The longest common prefix."""
    length = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), None)
    return a[: min(len(a), len(b)) if length is None else length]


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
