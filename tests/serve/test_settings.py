"""OLLAMA_* variables, durations, Modelfiles, names of parameters."""

from __future__ import annotations

import contextlib
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codellama.errors import CodeLlamaError, RequestError
from codellama.serve.modelfile import parse_modelfile
from codellama.serve.ollama_types import CreateRequest
from codellama.serve.sampling import Options, merged_options, ollama_params
from codellama.serve.settings import Settings, duration, parse_host


@pytest.mark.parametrize(
    "text, host, port",
    [
        ("", "127.0.0.1", 11434),
        ("0.0.0.0", "0.0.0.0", 11434),
        (":8080", "127.0.0.1", 8080),
        ("example.com:56789", "example.com", 56789),
        ("http://10.0.0.1", "10.0.0.1", 80),
        ("https://10.0.0.1/x", "10.0.0.1", 443),
        ("[::1]:11434", "::1", 11434),
        ("::1", "::1", 11434),
    ],
)
def test_hosts(text: str, host: str, port: int) -> None:
    assert parse_host(text) == (host, port)


@pytest.mark.parametrize("text", ["x:99999", "x:y", "[::1"])
def test_hosts_that_are_none(text: str) -> None:
    with pytest.raises(RequestError, match="OLLAMA_HOST"):
        parse_host(text)


@pytest.mark.parametrize(
    "value, seconds",
    [("10m", 600), ("1h30m", 5400), ("-1", math.inf), (-1, math.inf), (0, 0), ("0", 0),
     (1800, 1800), ("500ms", 0.5), ("24h", 86400), ("-1m", math.inf), (0.5, 0.5)],
)  # fmt: skip
def test_durations(value: object, seconds: float) -> None:
    assert duration(value) == pytest.approx(seconds)


@given(st.text(max_size=12) | st.none() | st.booleans() | st.lists(st.integers()))
def test_durations_that_are_none(value: object) -> None:
    with contextlib.suppress(RequestError):
        assert duration(value) >= 0


def test_the_environment() -> None:
    made = Settings.from_environment(
        {
            "OLLAMA_HOST": "0.0.0.0:1234",
            "OLLAMA_KEEP_ALIVE": "-1",
            "OLLAMA_NUM_PARALLEL": "8",
            "OLLAMA_MAX_QUEUE": "7",
            "OLLAMA_CONTEXT_LENGTH": "2048",
            "OLLAMA_ORIGINS": "https://a.example, b://*",
            "OLLAMA_MAX_LOADED_MODELS": "1",
            "OLLAMA_KV_CACHE_TYPE": "q8_0",
            "CODELLAMA_KEEP_ALIVE": "1m",
        }
    )
    assert (made.host, made.port, made.parallel, made.max_queue) == ("0.0.0.0", 1234, 8, 7)
    assert made.keep_alive == 60 and made.context == 2048 and made.max_loaded == 1
    assert made.origins == ("https://a.example", "b://*")
    assert made.kv_type == "q8_0" and Settings.from_environment({}).kv_type == "f16"
    with pytest.raises(RequestError, match="OLLAMA_KV_CACHE_TYPE is 'q4_0'"):
        Settings.from_environment({"OLLAMA_KV_CACHE_TYPE": "q4_0"})
    with pytest.raises(RequestError, match="OLLAMA_MAX_QUEUE"):
        Settings.from_environment({"OLLAMA_MAX_QUEUE": "many"})


MODELFILE = '''
# mine
FROM codellama:7b
PARAMETER temperature 0.5
PARAMETER num_ctx 4096
PARAMETER stop "<EOT>"
PARAMETER stop "[/INST]"
TEMPLATE """{{ .Prompt }}
"""
SYSTEM You are terse.
MESSAGE user hello
MESSAGE assistant hi there
LICENSE """free"""
'''


def test_a_modelfile() -> None:
    made = parse_modelfile(MODELFILE, CreateRequest(model="x", parameters={"seed": 1}))
    assert made.from_ == "codellama:7b" and made.model == "x"
    assert made.parameters == {
        "temperature": 0.5, "num_ctx": 4096, "stop": ["<EOT>", "[/INST]"], "seed": 1,
    }  # fmt: skip
    assert made.template == "{{ .Prompt }}\n" and made.system == "You are terse."
    assert made.messages is not None
    assert [(m.role, m.content) for m in made.messages] == [
        ("user", "hello"),
        ("assistant", "hi there"),
    ]


@pytest.mark.parametrize("text", ["FROM", "NOISE x", "PARAMETER stop", "MESSAGE nobody hi", "\x00"])
def test_modelfiles_that_are_none(text: str) -> None:
    with pytest.raises(RequestError, match="line 1"):
        parse_modelfile(text, CreateRequest(model="x"))


@given(st.text(st.sampled_from('FROM x\n"#TEMPLATE {}\r\\ é'), max_size=60))
def test_any_modelfile_is_read_or_refused(text: str) -> None:
    try:
        parse_modelfile(text, CreateRequest(model="x"))
    except CodeLlamaError as error:
        assert "\n" not in str(error)


def test_options_win_over_the_modelfile_and_nonsense_there_is_ignored() -> None:
    defaults = {"temperature": 0.1, "top_k": "many", "stop": ["a"], "mirostat": 2}
    merged = merged_options(defaults, Options(temperature=0.7))
    params = ollama_params(merged)
    assert params.temperature == 0.7 and params.top_k == 40 and params.stop == ("a",)
    assert params.max_tokens is None and params.repetition_penalty == 1.0 and params.top_p == 0.9
    assert ollama_params(Options(num_predict=-1, seed=-1)).seed is None
    with pytest.raises(RequestError, match="temperature"):
        ollama_params(Options(temperature=-1.0))
