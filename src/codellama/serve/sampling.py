"""How to sample, as every dialect's requests say it: the fields they share, defaults of each, and
biases of single tokens.

Ollama's names and defaults are here, too, with the legacy ones that clients still send. Load-time
options other than num_ctx are the server's business and ignored, as are samplers that this engine
does not have. Sources: ollama/ollama api/types.go (Options, DefaultOptions) and docs; llama.cpp
tools/server/README.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from codellama.engine.params import SamplingParams
from codellama.serve.errors import StatusError

__all__ = [
    "Knobs",
    "Options",
    "llamacpp_bias",
    "merged_options",
    "ollama_params",
    "openai_bias",
    "sampling_params",
    "stop_texts",
]

NEVER = float("-inf")
MOST_BIASED = 4096
BREAKERS = ("\n", ":", '"', "*")  # llama.cpp's

Biases = dict[int, float]


class Knobs(msgspec.Struct, kw_only=True):
    """What Ollama's `options` and the bodies of OpenAI's and llama.cpp's requests share."""

    num_ctx: int | None = None
    seed: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repeat_penalty: float | None = None
    repeat_last_n: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    dry_multiplier: float | None = None
    dry_base: float | None = None
    dry_allowed_length: int | None = None
    dry_penalty_last_n: int | None = None
    dry_sequence_breakers: list[str] | None = None
    stop: str | list[str] | None = None


class Options(Knobs, kw_only=True):
    """What is honoured of Ollama's `options`; anything else (mirostat, tfs_z, num_gpu, …) is
    accepted and ignored.
    """

    num_predict: int | None = None
    max_lines: int | None = None
    """Ours: end after so many lines."""
    nonempty: bool | None = None
    """Ours: what fills a gap is more than white space."""


def sampling_params(
    knobs: Knobs,
    *,
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float = 0.0,
    **more: Any,
) -> SamplingParams:
    """What a request says, over its dialect's defaults; a negative seed is a random one.

    Args:
        more: other fields of SamplingParams.

    Raises RequestError for values out of range.
    """
    k = knobs
    return SamplingParams(
        temperature=_or(k.temperature, temperature),
        top_k=_or(k.top_k, top_k),
        top_p=_or(k.top_p, top_p),
        min_p=_or(k.min_p, min_p),
        repetition_penalty=_or(k.repeat_penalty, 1.0),
        repeat_last_n=_or(k.repeat_last_n, 64),
        presence_penalty=_or(k.presence_penalty, 0.0),
        frequency_penalty=_or(k.frequency_penalty, 0.0),
        dry_multiplier=_or(k.dry_multiplier, 0.0),
        dry_base=_or(k.dry_base, 1.75),
        dry_allowed_length=_or(k.dry_allowed_length, 2),
        dry_penalty_last_n=_or(k.dry_penalty_last_n, -1),
        dry_sequence_breakers=_or(k.dry_sequence_breakers, BREAKERS),
        seed=k.seed if k.seed is not None and k.seed >= 0 else None,
        stop=stop_texts(k.stop),
        **more,
    )


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
    predict = -1 if options.num_predict is None else options.num_predict
    return sampling_params(
        options,
        temperature=0.8,
        top_k=40,
        top_p=0.9,
        max_tokens=predict if predict > 0 else None,
        max_lines=options.max_lines,
        logprobs=logprobs,
        speculate=speculate,
    )


def stop_texts(stop: str | list[str] | None) -> tuple[str, ...]:
    """At most 64 stop texts; empty ones are left out, as Ollama does."""
    texts = [stop] if isinstance(stop, str) else stop or []
    if len(texts) > 64:
        raise StatusError(400, f"stop has {len(texts)} texts: at most 64 are taken")
    return tuple(text for text in texts if text)


def openai_bias(bias: Mapping[str, float] | None) -> Biases:
    """`logit_bias`: token id → -100 … 100, of which -100 is never. Raises StatusError 400; whether
    the vocabulary has the ids, the engine checks.
    """
    made: Biases = {}
    for key, value in (bias or {}).items():
        if not -100 <= value <= 100:
            raise StatusError(400, f"logit_bias: {value!r} for {key[:20]} is not in [-100, 100]")
        made[_token_id(key)] = NEVER if value == -100 else value
    return _bounded(made)


def llamacpp_bias(bias: Any, encode: Callable[[str], list[int]]) -> Biases:
    """`logit_bias`: pairs of a token id or a text with a number, or false for never; or a table of
    them. A text biases each of its tokens. Raises StatusError 400.
    """
    pairs = list(bias.items()) if isinstance(bias, dict) else bias or []
    if not isinstance(pairs, list) or not all(
        isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs
    ):
        raise StatusError(400, "logit_bias must be a list of [token, number or false]")
    made: Biases = {}
    for token, value in pairs:
        if value is True or not isinstance(value, int | float):
            raise StatusError(400, "logit_bias: a bias must be a number, or false for never")
        number = NEVER if value is False else float(value)
        if isinstance(token, str) and not (isinstance(bias, dict) and token.isdecimal()):
            made |= dict.fromkeys(encode(token), number)
        else:
            made[_token_id(token)] = number
    return _bounded(made)


def _token_id(key: object) -> int:
    if isinstance(key, str) and len(key) < 20 and key.isascii() and key.isdecimal():
        return int(key)
    if isinstance(key, int) and not isinstance(key, bool) and key >= 0:
        return key
    raise StatusError(400, f"logit_bias: {str(key)[:20]!r} is no token id")


def _bounded(made: Biases) -> Biases:
    if len(made) > MOST_BIASED:
        raise StatusError(400, f"logit_bias has {len(made)} tokens: at most {MOST_BIASED}")
    return made


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
