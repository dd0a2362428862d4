"""The command line in this process: what it prints, where, and how it ends."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from codellama.api.answers import Prompt
from codellama.api.prompting import Prompter
from codellama.cli import main
from codellama.cli.generate import split_words
from codellama.engine.params import SamplingParams
from codellama.hub.catalogue import DEFAULT_MODEL
from codellama.weights.load import open_model
from tiny_checkpoints import TINY, random_weights, write_meta, write_sentencepiece

SIZE = 512
CONFIG = replace(TINY, vocab_size=SIZE)


class Done(NamedTuple):
    status: int
    out: str
    err: str


Run = Callable[..., Done]


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes], tmp_path: Path
) -> Run:
    """Run one command in a store of its own, without a network; `stdin` is piped."""
    monkeypatch.setenv("CODELLAMA_MODELS", str(tmp_path / "store"))
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "ollama"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.chdir(tmp_path)

    def command(*arguments: str, stdin: bytes = b"") -> Done:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        with pytest.raises(SystemExit) as end:
            main(list(arguments))
        sys.stdout.flush()
        out, err = capsysbinary.readouterr()
        status = end.value.code
        return Done(status if isinstance(status, int) else 0, out.decode(), err.decode())

    return command


@pytest.fixture(scope="module")
def meta(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Code Llama as Meta releases it; it infills, and writes nonsense."""
    folder = write_meta(tmp_path_factory.mktemp("models") / "tiny", random_weights(CONFIG))
    return write_sentencepiece(folder, SIZE, infills=True)


@pytest.fixture(scope="module")
def smollm2_store(smollm2_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("store")
    (store / smollm2_path.name).symlink_to(smollm2_path)
    return store


def test_one_answer_goes_to_stdout_and_timings_to_stderr(run: Run, meta: Path) -> None:
    plain = run("run", str(meta), "x = 1", "--raw", "-n", "9", "--temperature", "0")
    assert plain.status == 0
    assert plain.out.endswith("\n")
    assert plain.err == ""
    told = run("run", str(meta), "x = 1", "--raw", "-n", "9", "--temperature", "0", "--verbose")
    assert told.out == plain.out
    assert "eval count:           9 token(s)" in told.err


def test_a_seed_repeats_an_answer(run: Run, meta: Path) -> None:
    arguments = ("run", str(meta), "x", "--raw", "-n", "20", "--temperature", "1", "--seed")
    assert run(*arguments, "3").out == run(*arguments, "3").out != run(*arguments, "4").out


def test_piped_input_joins_the_prompt(run: Run, meta: Path) -> None:
    arguments = ("-n", "9", "--temperature", "0", "--raw")
    piped = run("run", str(meta), "Explain:", *arguments, stdin=b"x = 1\n")
    assert piped.out == run("run", str(meta), "Explain:\n\nx = 1", *arguments).out
    assert run("run", str(meta), *arguments, stdin=b"abc").status == 0
    assert "nothing to do" in run("run", str(meta)).err


def test_complete_reads_its_prefix_untouched(run: Run, meta: Path) -> None:
    done = run("complete", str(meta), "--json", "-n", "5", stdin=b"def f():\r\n")
    answer = json.loads(done.out)
    tokenizer = open_model(meta).tokenizer()
    n_prompt = len(tokenizer.encode("def f():\r\n", bos=True))
    assert answer["usage"] == {"prompt_tokens": n_prompt, "completion_tokens": 5}
    assert answer["finish_reason"] == "length"
    assert len(answer["tokens"]) == 5
    assert run("complete", str(meta), "-n", "5", stdin=b"def f():\r\n").out.rstrip("\n") == answer[
        "text"
    ].rstrip("\n")


def test_complete_with_a_suffix_infills(run: Run, meta: Path, tmp_path: Path) -> None:
    (tmp_path / "suffix").write_bytes(b"\r\n    return x")
    arguments = ("complete", str(meta), "--suffix-file", "suffix", "--json", "-n", "4")
    answer = json.loads(run(*arguments, stdin=b"def f(x): ").out)
    tokenizer = open_model(meta).tokenizer()
    parts = tokenizer.encode("def f(x): "), tokenizer.encode_infilling("\r\n    return x")
    assert 0 <= 4 + sum(map(len, parts)) - answer["usage"]["prompt_tokens"] <= 8  # healed


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_complete_says_that_something_is_missing(
    run: Run, meta: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: tuple[str, ...]
) -> None:
    asked: list[bool] = []
    infilling = Prompter.infilling

    def noted(self: Prompter, *texts: str, **options: Any) -> Prompt:
        asked.append(options["nonempty"])
        return infilling(self, *texts, **options)

    monkeypatch.setattr(Prompter, "infilling", noted)
    (tmp_path / "suffix").write_text("    return x")
    for more in ((), ("--nonempty",)):
        arguments = ("complete", str(meta), "--suffix-file", "suffix", "-n", "2", *form, *more)
        assert run(*arguments, stdin=b"def f(x):\n").status == 0
    assert asked == [False, True]


def test_what_a_small_model_fills_in_does_not_go_in_circles(
    run: Run, meta: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[float] = []
    resolved = Prompter.resolved

    def noted(self: Prompter, params: SamplingParams) -> SamplingParams:
        drawn.append(params.dry_multiplier)
        return resolved(self, params)

    monkeypatch.setattr(Prompter, "resolved", noted)
    (tmp_path / "suffix").write_text("    return x")
    for more in (("--suffix-file", "suffix"), ()):
        assert run("complete", str(meta), "-n", "2", *more, stdin=b"def f(x):\n").status == 0
    assert drawn == [0.8, 0.0]


def test_export_quantize_and_show(run: Run, meta: Path, tmp_path: Path) -> None:
    """Meta → GGUF → Hugging Face → GGUF, and every one of them answers the same."""
    ask = ("x = 1", "--raw", "-n", "9", "--temperature", "0")
    want = run("run", str(meta), *ask).out
    assert run("export", "gguf", str(meta), "a.gguf").out == "a.gguf is written\n"
    assert run("export", "hf", "a.gguf", "hf").status == 0
    assert run("quantize", "hf", "b.gguf", "--type", "BF16").status == 0
    for model in ("./a.gguf", "./hf", "./b.gguf"):
        assert run("run", model, *ask).out == want, model
    about = json.loads(run("show", "./b.gguf", "--json", "--context", "100").out)
    assert (about["quantization"], about["infills"], about["vocabulary"]) == ("BF16", True, SIZE)
    assert about["kv_bytes"] == {"100": CONFIG.kv_bytes(100)}
    assert about["kv_bytes_q8_0"] == {"100": CONFIG.kv_bytes(100, "q8_0")}
    assert about["parameters"] == CONFIG.n_parameters
    shown = run("show", "./b.gguf", "--context", "100").out
    assert all(len(line) <= 80 for line in shown.splitlines()[:-1])
    assert "infilling" in shown


@pytest.mark.weights
def test_the_store(run: Run, smollm2_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CODELLAMA_MODELS", str(smollm2_store))
    assert run("cp", "smollm2:135m", "helper").out == "helper is smollm2:135m\n"
    names = [entry["name"] for entry in json.loads(run("list", "--json").out)]
    assert {"smollm2:135m", "helper:latest"} <= set(names)
    assert "smollm2:135m" in run("ls").out
    assert run("rm", "helper").out == "removed helper\n"
    assert run("rm", "helper").status == 1
    assert json.loads(run("show", "smollm2:135m", "--json").out)["license"] == "apache-2.0"


@pytest.mark.parametrize(
    ("words", "model", "prompt"),
    [
        (("Hi", "there"), DEFAULT_MODEL, "Hi there"),
        (("Hi there",), DEFAULT_MODEL, "Hi there"),
        (("why?",), DEFAULT_MODEL, "why?"),
        (("smollm2:135m", "Hi"), "smollm2:135m", "Hi"),
        (("codellama", "Hi"), "codellama", "Hi"),
        (("codellama",), "codellama", None),
        (("mistral:7b",), "mistral:7b", None),
        (("./m.gguf",), "./m.gguf", None),
        ((), DEFAULT_MODEL, None),
    ],
)
def test_what_is_a_model_and_what_a_prompt(
    run: Run, words: tuple[str, ...], model: str, prompt: str | None
) -> None:
    assert split_words(list(words)) == (model, prompt)


@pytest.mark.parametrize("stdin", [b"", b"def f():\n"])
def test_a_lone_word_that_may_be_either_says_both_readings(run: Run, stdin: bytes) -> None:
    done = run("run", "Hi", stdin=stdin)
    assert (done.status, done.out) == (1, "")
    (line,) = done.err.splitlines()
    assert "no model 'Hi'" in line and "`codellama pull Hi`" in line
    assert f"`codellama run {DEFAULT_MODEL} Hi`" in line


def test_a_misspelt_model_says_what_was_meant(run: Run) -> None:
    assert "Did you mean codellama" in run("run", "codelama").err


def test_an_empty_store_says_what_to_do(run: Run) -> None:
    assert f"codellama pull {DEFAULT_MODEL}" in run("list").out


WRONG = {
    "temperature": ("run", "{model}", "hi there", "--temperature", "-1"),
    "top_p": ("run", "{model}", "hi there", "--top-p", "2"),
    "context is": ("run", "{model}", "hi there", "--context", "9999999"),
    "threads": ("run", "{model}", "hi there", "--threads", "0"),
    "not UTF-8": ("run", "{model}", "a\udcff"),
    "no file or folder": ("run", "./nowhere.gguf", "hi"),
    "nothing to complete": ("complete", "{model}"),
    "No such file": ("complete", "{model}", "--suffix-file", "nowhere"),
    "--nonempty is about a gap": ("complete", "{model}", "--nonempty"),
    "known types": ("quantize", "{model}", "x.gguf", "--type", "Q9"),
    "is a folder": ("quantize", "{model}", ".", "--type", "Q8_0"),
    "cannot be written": ("quantize", "{model}", "no/such/x.gguf", "--type", "Q8_0"),
    "already exists": ("export", "hf", "{model}", "taken"),
    "hf or gguf": ("export", "onnx", "{model}", "out"),
    "no model 'nobody'": ("rm", "nobody"),
    "not a model name": ("pull", "hf.co/a/b/c/d"),
    "is a path": ("cp", "nobody", "../b"),
    "not downloaded yet": ("show", "codellama:7b"),
}


@pytest.mark.parametrize("message", WRONG)
def test_bad_input_costs_one_line(run: Run, meta: Path, tmp_path: Path, message: str) -> None:
    (tmp_path / "taken").write_text("")
    done = run(*(part.format(model=meta) for part in WRONG[message]))
    assert done.status == 1
    assert done.out == ""
    last = done.err.splitlines()[-1]
    assert last.startswith("codellama: ") and message in last
    assert all(line.startswith(("codellama: ", "Q8_0 ")) for line in done.err.splitlines())
    left = {path.name for path in tmp_path.iterdir()} - {"store"}  # which locks need
    assert left == {"taken"}


@pytest.mark.parametrize("command", [("run",), ("complete",)])
def test_standard_input_that_is_no_text(run: Run, meta: Path, command: tuple[str, ...]) -> None:
    done = run(*command, str(meta), stdin=b"\xff\xfe")
    assert (done.status, done.err) == (1, "codellama: standard input is not UTF-8 text\n")


def test_weights_that_are_nan(run: Run, tmp_path: Path) -> None:
    weights = random_weights(CONFIG)
    weights["layers.1.feed_forward.w2.weight"][3, 5] = np.nan
    folder = write_sentencepiece(write_meta(tmp_path / "nan", weights), SIZE, infills=True)
    quantize = ("quantize", str(folder), "q.gguf", "--type", "Q8_0")
    for command in (("run", str(folder), "x", "--raw"), quantize):
        done = run(*command)
        assert done.status == 1
        assert "layers.1.feed_forward.w2.weight: the weights contain NaN" in done.err
    assert not list(tmp_path.glob("*q.gguf*"))


def test_what_cannot_be_parsed_ends_with_2(run: Run) -> None:
    for arguments in (("frobnicate",), ("run", "--bogus"), ("quantize", "a"), ("show",)):
        assert run(*arguments).status == 2


@pytest.mark.parametrize(
    "verb", ["run", "complete", "pull", "list", "show", "rm", "cp", "quantize", "export"]
)
def test_every_verb_has_help_with_an_example(run: Run, verb: str) -> None:
    done = run(verb, "--help")
    assert done.status == 0
    assert "Example: " in done.out


def test_version(run: Run) -> None:
    assert run("--version").out == run("version").out
    assert run("--version").out.startswith("codellama ")


def test_a_full_disk_behind_stdout_costs_one_line(meta: Path) -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full here")
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "codellama", "show", str(meta)],
            stdout=full, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (1, "codellama: No space left on device\n")


def test_a_reader_that_goes_away_is_no_noise(meta: Path) -> None:
    command = f"{sys.executable} -m codellama run {meta} x --raw -n 400 | head -c 1 >/dev/null"
    done = subprocess.run(["bash", "-c", command], stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (0, "")
