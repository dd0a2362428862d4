"""Ollama's options as SamplingParams: names, defaults, and the legacy ones that clients still send.

Sources: ollama/ollama api/types.go (Options, DefaultOptions) and docs. Load-time options other than
num_ctx are the server's business here and ignored, as are samplers that this engine does not have.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from codellama.engine.request import SamplingParams
from codellama.serve.errors import StatusError

__all__ = ["Options", "merged_options", "ollama_params", "stop_texts"]


class Options(msgspec.Struct):
    """What is honoured of `options`; anything else (mirostat, tfs_z, num_gpu, …) is accepted and
    ignored.
    """

    num_ctx: int | None = None
    num_predict: int | None = None
    seed: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repeat_penalty: float | None = None
    repeat_last_n: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    stop: str | list[str] | None = None
    max_lines: int | None = None
    """Ours: end after so many lines."""


def merged_options(defaults: Mapping[str, Any], options: Options | None) -> Options:
    """The Modelfile's parameters under the request's. Bad ones of the Modelfile are left out."""
    merged = Options()
    for source in (_converted(defaults), options):
        if source is not None:
            for name in Options.__struct_fields__:
                if (value := getattr(source, name)) is not None:
                    setattr(merged, name, value)
    return merged


def ollama_params(
    options: Options, *, logprobs: int | None = None, speculate: bool | None = None
) -> SamplingParams:
    """Raises RequestError for values out of range."""
    o = options
    predict = -1 if o.num_predict is None else o.num_predict
    seed = o.seed if o.seed is not None and o.seed >= 0 else None
    return SamplingParams(
        max_tokens=predict if predict > 0 else None,
        temperature=_or(o.temperature, 0.8),
        top_k=_or(o.top_k, 40),
        top_p=_or(o.top_p, 0.9),
        min_p=_or(o.min_p, 0.0),
        repetition_penalty=_or(o.repeat_penalty, 1.0),
        repeat_last_n=_or(o.repeat_last_n, 64),
        presence_penalty=_or(o.presence_penalty, 0.0),
        frequency_penalty=_or(o.frequency_penalty, 0.0),
        seed=seed,
        stop=stop_texts(o.stop),
        max_lines=o.max_lines,
        logprobs=logprobs,
        speculate=speculate,
    )


def stop_texts(stop: str | list[str] | None) -> tuple[str, ...]:
    """At most 64 stop texts; empty ones are left out, as Ollama does."""
    texts = [stop] if isinstance(stop, str) else stop or []
    if len(texts) > 64:
        raise StatusError(400, f"stop has {len(texts)} texts: at most 64 are taken")
    return tuple(text for text in texts if text)


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value


def _converted(defaults: Mapping[str, Any]) -> Options | None:
    kept = {}
    for name in Options.__struct_fields__:
        try:
            value = msgspec.convert({name: defaults.get(name)}, Options, strict=False)
        except msgspec.ValidationError:
            continue
        kept[name] = getattr(value, name)
    return Options(**kept) if kept else None
