"""Pipelines from the command line: corpus → stages → a model that infills; gates; measures."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from codellama.cli import main
from codellama.errors import CodeLlamaError, RequestError
from codellama.model.tokenizer import Tokenizer
from codellama.specialize.base import load_base
from codellama.specialize.dataset import Document, build_dataset
from codellama.specialize.instruct import encode_chat
from codellama.specialize.measure import by_position, score_texts
from codellama.specialize.run import GateError, held_out, run_pipeline
from codellama.specialize.stages import Gate, Pipeline
from codellama.specialize.trainer import StepRecord
from codellama.weights.adapter_file import read_own_adapter, stacked, write_adapter
from codellama.weights.load import open_model

from .test_trainer import FULL32, LORA, RECIPE


def test_stages_follow_each_other_and_resume(
    tiny_base: Path, documents: list[Document], tmp_path: Path
) -> None:
    long = replace(
        RECIPE, name="long", rope_theta=1e6, context=1024, sequence=256, batch_tokens=512
    )
    pipeline = Pipeline(name="p", base="tiny", stages=(replace(LORA, name="code"), long))
    arguments = (pipeline, FULL32, tiny_base, {"code": documents})
    records: list[StepRecord] = []
    first = run_pipeline(*arguments, tmp_path, seconds=0.01, on_step=records.append)
    assert not first.finished and len(records) == 1
    done = run_pipeline(*arguments, tmp_path, on_step=records.append)
    assert done.finished and done.model is not None and done.adapter is None
    assert [result["stage"] for result in done.results] == ["code", "long"]
    model = open_model(done.model)
    assert model.config.rope_theta == 1e6 and model.config.context == 1024
    assert model.tokenizer().infill is not None
    assert (tmp_path / "code" / "adapter.safetensors").is_file()
    count = len(records)
    again = run_pipeline(*arguments, tmp_path, on_step=records.append)
    assert again == done and len(records) == count


def test_an_adapter_is_trained_on(
    tiny_base: Path, documents: list[Document], tmp_path: Path
) -> None:
    corpus, slow = {"code": documents}, replace(LORA.optimizer, learning_rate=1e-9)
    first = Pipeline(name="p", base="tiny", stages=(LORA,))
    trained = run_pipeline(first, FULL32, tiny_base, corpus, tmp_path / "first")
    assert trained.adapter is not None and trained.model is not None
    second = Pipeline(name="p", base="tiny", stages=(replace(LORA, optimizer=slow),))
    arguments = (second, FULL32, tiny_base, corpus)
    more = run_pipeline(*arguments, tmp_path / "more", adapter=trained.adapter)
    assert more.model is not None
    old, new = open_model(trained.model), open_model(more.model)
    for name in old.names:  # the same model, but for the adapter file's float16
        now, then = (model.tensor(name).data.view("f4") for model in (new, old))
        np.testing.assert_allclose(now, then, rtol=1e-3, atol=1e-5)
    assert run_pipeline(*arguments, tmp_path / "more", adapter=trained.adapter) == more
    for other, adapter in ((first, trained.adapter), (second, None)):
        with pytest.raises(RequestError, match="another recipe or adapter"):
            run_pipeline(other, *arguments[1:], tmp_path / "more", adapter=adapter)
    assert LORA.lora is not None
    wider = replace(LORA, lora=replace(LORA.lora, rank=LORA.lora.rank + 1))
    with pytest.raises(RequestError, match="must have one rank"):
        run_pipeline(
            replace(first, stages=(wider,)), FULL32, tiny_base, corpus, tmp_path / "wider",
            adapter=trained.adapter,
        )  # fmt: skip
    with pytest.raises(RequestError, match="trains all weights"):
        run_pipeline(
            replace(first, stages=(RECIPE,)), FULL32, tiny_base, corpus, tmp_path / "full",
            adapter=trained.adapter,
        )  # fmt: skip


def test_the_mean_of_before_and_after(
    tiny_base: Path, documents: list[Document], tmp_path: Path
) -> None:
    arguments = (Pipeline(name="p", base="tiny", stages=(LORA,)), FULL32, tiny_base)
    corpus = {"code": documents}
    made: dict[str, Mapping[str, Any]] = {}
    first = run_pipeline(*arguments, corpus, tmp_path / "first").adapter
    for name, average in (("after", False), ("mean", True)):
        place = tmp_path / name
        done = run_pipeline(*arguments, corpus, place, adapter=first, average=average)
        assert done.adapter is not None
        made[name] = read_own_adapter(done.adapter).arrays
    assert first is not None
    for name, before in read_own_adapter(first).arrays.items():
        mean = (before.astype("f4") + made["after"][name].astype("f4")) / 2
        np.testing.assert_allclose(made["mean"][name].astype("f4"), mean, rtol=2e-3, atol=1e-4)
        assert name.endswith(".a") or not np.array_equal(made["after"][name], before)
    with pytest.raises(RequestError, match="no adapter to average with"):
        run_pipeline(*arguments, corpus, tmp_path / "none", average=True)


def test_a_gate_stops_the_next_stage(
    tiny_base: Path, documents: list[Document], tmp_path: Path
) -> None:
    corpus = {"code": documents, "nl": documents}
    harmful = replace(
        RECIPE, name="bad", optimizer=replace(RECIPE.optimizer, learning_rate=1.0, clip=1e9)
    )
    pipeline = Pipeline(
        name="p", base="tiny", stages=(harmful, RECIPE), gate=Gate(natural_language_rise=0.03)
    )
    with pytest.raises(GateError, match=r"bad: bits per byte of held-out nl rose by \d+"):
        run_pipeline(pipeline, FULL32, tiny_base, corpus, tmp_path)
    assert (tmp_path / "bad" / "model.gguf").is_file()
    assert not (tmp_path / RECIPE.name).exists()


def test_what_is_measured_is_not_trained_on(documents: list[Document]) -> None:
    train, test = held_out({"code": documents})
    assert not set(train["code"]) & set(test["code"]) and test["code"]
    assert len(train["code"]) + len(test["code"]) == len(documents)


def test_bits_per_byte(tiny_base: Path) -> None:
    base = load_base(tiny_base, infill=False)
    text = textwrap.dedent(Path(textwrap.__file__).read_text()[:1500])
    score = score_texts(base.model, base.tokenizer, [text, text], window=100_000)
    ids = base.tokenizer.encode(text)
    with torch.no_grad():
        log_p = base.model(torch.tensor([ids]))[0].log_softmax(-1)
    nats = -sum(float(log_p[i, id]) for i, id in enumerate(ids[1:]))
    n_bytes = len(text.encode()) - len(base.tokenizer.piece(ids[0]))
    assert score.n_bytes == 2 * n_bytes
    assert score.bits_per_byte == pytest.approx(nats / math.log(2) / n_bytes, rel=1e-4)
    parts = by_position(base.model, base.tokenizer, [text], [0, 50, 100_000])
    assert sum(p.bits for p in parts) == pytest.approx(score.bits / 2, rel=1e-4)
    assert sum(p.n_bytes for p in parts) == n_bytes


def chat_tokenizer(tiny_base: Path) -> Tokenizer:
    return load_base(tiny_base, infill=False).tokenizer


def test_only_answers_are_learned(tiny_base: Path) -> None:
    tokenizer = chat_tokenizer(tiny_base)
    messages = (("user", "add 1"), ("assistant", "x + 1"), ("user", "2"), ("assistant", "x + 2"))
    encoded = encode_chat(tokenizer, messages, 512)
    learned = [id for id, weight in zip(encoded.ids, encoded.weights, strict=True) if weight]
    end = tokenizer.token_id("<|im_end|>")
    want = [*tokenizer.encode("x + 1"), end, *tokenizer.encode("x + 2"), end]
    assert learned == want
    short = encode_chat(tokenizer, messages, 40)
    assert 0 < len(short.ids) <= 40 and any(short.weights)
    with pytest.raises(CodeLlamaError, match="an assistant's message"):
        encode_chat(tokenizer, (("user", "hm"),), 512)


def test_instruction_examples_in_a_dataset(tiny_base: Path, documents: list[Document]) -> None:
    base = load_base(tiny_base, infill=True)
    chat = Document("i", "", messages=(("user", "say x"), ("assistant", "x")))
    recipe = replace(RECIPE, mix=(("instruct", 0.5), ("code", 0.5)))
    data = build_dataset(
        recipe, {"instruct": [chat], "code": documents}, base.tokenizer, base.end, None
    )
    pieces = [
        row.weights_T.tolist()
        for row in (data.row(i) for i in range(len(data.plan)))
        if row.documents[0] == "i"
    ]
    assert pieces and all(0 < sum(p) < len(p) for p in pieces)


def logged(folder: Path) -> list[float]:
    """The losses that TensorBoard would show."""
    module = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = module.EventAccumulator(str(folder))
    events.Reload()
    return [round(event.value, 4) for event in events.Scalars("smol-135m-lora/loss")]


def read_losses(path: Path) -> list[float]:
    return [round(json.loads(line)["loss"], 4) for line in path.read_text().splitlines()]


@pytest.mark.weights
@pytest.mark.slow
def test_from_sources_to_a_model_that_fills_a_middle(smollm2_path: Path, tmp_path: Path) -> None:
    """The whole way with the real base: two steps teach nothing, and everything fits together."""
    source = tmp_path / "code"
    source.mkdir()
    (source / "LICENSE").write_text("Permission is hereby granted, free of charge")
    for name in ("textwrap", "bisect", "heapq", "shlex"):
        module = __import__(name)
        (source / f"{name}.py").write_text(Path(module.__file__).read_text())
        (source / f"{name}.js").write_text("function f(a) {\n  return a + 1\n}\n" * 3 + name)
    run, corpus, gguf = tmp_path / "run", tmp_path / "corpus", tmp_path / "smol.gguf"

    def codellama(*words: str, stdin: str = "") -> str:
        done = subprocess.run(
            [sys.executable, "-m", "codellama", *words],
            input=stdin, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    codellama("corpus", "build", str(corpus), str(source), "--unit", "definition")
    stats = json.loads(codellama("corpus", "stats", str(corpus), "--json"))
    assert stats["sets"]["python"]["documents"] > 5
    command = ["specialize", "smol-135m", str(corpus), "--out", str(run), "--tokens", "4096"]
    codellama(*command, "--base", str(smollm2_path), "--export", str(gguf), "--tensorboard")
    assert logged(run / "tensorboard") == read_losses(run / "smol-135m-lora" / "log.jsonl")
    assert (run / "smol-135m-lora" / "loss.svg").read_text().startswith("<?xml")
    assert (run / "smol-135m-lora" / "adapter.safetensors").stat().st_size < 25e6
    more = ["--out", str(tmp_path / "more"), "--tokens", "2048", "--base", str(smollm2_path)]
    adapter = run / "smol-135m-lora" / "adapter.safetensors"
    once = read_own_adapter(adapter)
    twice = tmp_path / "stacked.safetensors"
    write_adapter(twice, *stacked(once, once))
    own = tmp_path / "own.jsonl"
    wish = ["--texts", "30", "--conversations", "2", "--functions", str(corpus), "--questions", "2"]
    codellama(
        "corpus", "rehearse", str(own), "--model", str(smollm2_path), *wish, "--license", "mit"
    )
    codellama("corpus", "build", str(corpus), str(source), str(own), "--unit", "standalone")
    other = ["--adapter", str(twice), "--spans", "line=0.5,rest=0.5", "--suffix-first", "0.6"]
    other += ["--mix", "python=0.8,nl=0.2", "--plain", "nl"]
    codellama("specialize", "smol-135m", str(corpus), *more, *other)
    trained_on = read_own_adapter(tmp_path / "more" / "smol-135m-lora" / "adapter.safetensors")
    name = next(name for name in once.arrays if name.endswith(".a"))
    assert trained_on.arrays[name].shape[0] == 2 * once.arrays[name].shape[0]  # its own rank
    (tmp_path / "suffix").write_text("\n\nprint(add(1, 2))\n")
    answer = json.loads(
        codellama(
            "complete", str(gguf), "--suffix-file", str(tmp_path / "suffix"), "--json", "-n", "8",
            stdin="def add(a, b):\n    return ",
        )
    )  # fmt: skip
    assert answer["finish_reason"] in ("stop", "length")


def test_bad_input_is_one_line(
    tiny_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, message in (
        (["specialize", "nope", str(tmp_path), "-o", str(tmp_path / "r")], "no recipe 'nope'"),
        (["specialize", "smol-135m", str(tmp_path), "-o", str(tmp_path)], "holds no corpus"),
        (
            ["specialize", "smol-135m", str(tmp_path), "-o", str(tmp_path), "--mix", "a=0.2"],
            "add up to 1",
        ),
        (
            ["specialize", "smol-135m", str(tmp_path), "-o", str(tmp_path), "--spans", "word=1"],
            "no kind word",
        ),
        (
            ["specialize", "smol-135m", str(tmp_path), "-o", str(tmp_path), "--plain", "nl"],
            "the mix has no nl",
        ),
        (["corpus", "rehearse", str(tmp_path / "own.txt")], "must end in .jsonl"),
        (
            ["specialize", "smol-135m", str(tmp_path), "-o", str(tmp_path), "--spans", "line"],
            "could not convert",
        ),
        (
            ["specialize", "smol-135m", str(tmp_path), "-o", str(tmp_path), "--suffix-first", "2"],
            "between 0 and 1",
        ),
        (["plan", "smol-135m", "--profile", "phone"], "no profile 'phone'"),
        (["plan", "smol-135m", "--share", "2"], "share between 0 and 1"),
        (["corpus", "stats", str(tmp_path)], "holds no corpus"),
        (["corpus", "build", str(tmp_path / "c"), str(tmp_path / "absent")], "no such file"),
    ):
        with pytest.raises(SystemExit) as status:
            main(words)
        assert status.value.code == 1
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1, error


def test_plan_prints_what_a_recipe_costs(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["plan", "codellama-7b-base", "--profile", "h100x512", "--json", "--dry-run"])
    answer = json.loads(capsys.readouterr().out)
    stages = answer["stages"]
    assert answer["layout"]["ranks"] == 512
    assert [stage["name"] for stage in stages] == ["code-7b", "long-7b-base"]
    assert stages[0]["device_hours"] == pytest.approx(15_300, rel=0.05)
    with pytest.raises(SystemExit):
        main(["plan", "smol-135m"])
    assert "lost to failures" in capsys.readouterr().out
