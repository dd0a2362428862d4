"""What was trained is what is written: GGUF, Hugging Face folders and adapters say the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from codellama.errors import ModelFileError
from codellama.model.llama import Llama
from codellama.specialize.base import dead_slots, load_base
from codellama.specialize.dataset import Document
from codellama.specialize.export import save_adapter, trained_model
from codellama.specialize.forward import packed_hidden
from codellama.specialize.recipe import Lora
from codellama.specialize.run import run_pipeline
from codellama.specialize.stages import Pipeline
from codellama.specialize.trainer import Trainer
from codellama.weights.adapter import base_of, open_adapted, write_adapter
from codellama.weights.adapter_file import Adapter, stacked
from codellama.weights.export import export_gguf, export_hf, quantize_model
from codellama.weights.load import open_model
from codellama.weights.tensor import GGMLType
from codellama.weights.torch_model import load_llama
from tiny_checkpoints import write_hf, write_sentencepiece

from .conftest import TINY
from .test_trainer import FULL32, LORA, RECIPE, trainer

IDS = [5, 300, 2, 8, 511, 42, 7]


def logits(model: Llama, ids: list[int] = IDS) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.tensor([ids]))[0]


@pytest.fixture(params=["full", "lora"])
def trained(request: pytest.FixtureRequest, tiny_base: Path, documents: list[Document]) -> Trainer:
    recipe = RECIPE if request.param == "full" else LORA
    run, _ = trainer(tiny_base, documents, None, recipe=recipe)
    run.train()
    run.finish()
    return run


def test_every_form_says_what_the_trained_model_says(trained: Trainer, tmp_path: Path) -> None:
    base = trained.base
    with torch.no_grad():
        hidden = packed_hidden(base.model, torch.tensor(IDS), [len(IDS)], embed=trained.new_rows)
        want = base.model.logits(hidden)
    model = trained_model(base, trained.new_rows, name="mine")
    export_gguf(model, tmp_path / "mine.gguf")
    export_hf(model, tmp_path / "mine", dtype="F32")
    quantize_model(model, tmp_path / "small.gguf", "Q8_0")
    for name, bound in (("mine.gguf", 1e-4), ("mine", 1e-4), ("small.gguf", 0.1)):
        written = open_model(tmp_path / name)
        assert torch.allclose(logits(load_llama(written)), want, atol=bound), name
        tokenizer = written.tokenizer()
        assert tokenizer.infill == base.tokenizer.infill, name
        assert tokenizer.eot_id in tokenizer.stop_ids
        assert tokenizer.pieces[tokenizer.eot_id or 0] == "<EOT>"
        assert tokenizer.encode("<PRE> x<EOT>") == base.tokenizer.encode("<PRE> x<EOT>")
        assert written.config.infills or name == "mine"
    # The file differs from the base: it was trained.
    assert not torch.allclose(logits(load_llama(base.source)), want[:, :512], atol=0.1)


def test_the_exported_folder_in_transformers(trained: Trainer, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = trained_model(trained.base, trained.new_rows, name="mine")
    export_hf(model, tmp_path / "mine", dtype="F32")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "mine").eval()
    with torch.no_grad():
        want = theirs(torch.tensor([IDS])).logits[0]
    ours = load_llama(open_model(tmp_path / "mine"))
    assert torch.allclose(logits(ours), want, atol=1e-4)


DEAD = [512, 513, 514, 515]


def dead_base(tiny_base: Path, target: Path) -> Path:
    """A GGUF base with four control tokens that share one embedding, as SmolLM2's do."""
    base = load_base(tiny_base, infill=True)
    rows = base.model.tok_embeddings.weight
    with torch.no_grad():
        rows[DEAD] = rows[DEAD[0]].clone()
    for id in DEAD:
        base.tokenizer.pieces[id] = f"<unused_{id}>"  # type: ignore[index]
    base.tokenizer.infill = None
    export_gguf(trained_model(base, None, name="dead"), target)
    return target


def test_dead_slots_become_sentinels_and_an_adapter_carries_them(
    tiny_base: Path, documents: list[Document], tmp_path: Path
) -> None:
    path = dead_base(tiny_base, tmp_path / "dead.gguf")
    plain = load_base(path, infill=False)
    assert dead_slots(plain.tokenizer, plain.model.tok_embeddings.weight) == DEAD
    run, _ = trainer(path, documents, None, recipe=LORA)
    assert run.base.new_ids == tuple(DEAD)
    assert run.base.model.config.vocab_size == 516
    rows = run.base.model.tok_embeddings.weight[DEAD].float()
    cosines = torch.nn.functional.cosine_similarity(rows[:, None], rows[None], dim=-1)
    assert (cosines - torch.eye(4)).max() < 0.9  # apart
    run.train()
    run.finish()
    assert LORA.lora is not None
    adapter = tmp_path / "adapter.safetensors"
    save_adapter(adapter, run.base, LORA.lora, run.new_rows, "mine", base_name=str(path))
    merged = open_adapted(open_model(path), adapter)
    export_gguf(merged, tmp_path / "merged.gguf")
    export_gguf(trained_model(run.base, run.new_rows, name="mine"), tmp_path / "trained.gguf")
    a, b = (open_model(tmp_path / f"{n}.gguf") for n in ("merged", "trained"))
    assert torch.allclose(logits(load_llama(a)), logits(load_llama(b)), atol=2e-2)
    assert a.tokenizer().infill == b.tokenizer().infill == run.base.tokenizer.infill
    small = open_adapted(open_model(path), adapter, GGMLType.Q8_0)
    assert torch.allclose(logits(load_llama(small)), logits(load_llama(b)), atol=0.1)
    assert base_of(adapter) == str(path) and base_of(path) is None
    assert a.config == replace(b.config, name=a.config.name)


def test_adapters_of_two_stages_are_one(
    tiny_base: Path, documents: list[Document], tmp_path: Path
) -> None:
    path = dead_base(tiny_base, tmp_path / "dead.gguf")
    lora = replace(LORA, name="talk", lora=Lora(rank=2, alpha=6), infilling=None)
    pipeline = Pipeline(name="p", base="dead", stages=(replace(LORA, name="code"), lora))
    done = run_pipeline(pipeline, FULL32, path, {"code": documents}, tmp_path / "run")
    assert done.model is not None and done.adapter is not None
    assert base_of(done.adapter) == str(path)
    merged, trained = open_adapted(open_model(path), done.adapter), open_model(done.model)
    first = open_adapted(open_model(path), tmp_path / "run" / "code" / "adapter.safetensors")
    both, code = logits(load_llama(merged)), logits(load_llama(first))
    assert torch.allclose(both, logits(load_llama(trained)), atol=2e-2)
    assert not torch.allclose(both, code, atol=0.1)  # the second stage taught something
    assert merged.tokenizer().infill == trained.tokenizer().infill is not None


def test_adapters_that_change_different_things_are_stacked() -> None:
    one = np.ones((1, 3), np.float16)
    first = Adapter(
        {"w.a": one, "w.b": one.T, "rows": one}, scale=2.0, rows=(7,), pieces=("x",), base="b"
    )
    second = Adapter(
        {"w.a": 2 * one, "w.b": one.T, "v.a": one, "v.b": one.T, "rows": 3 * one},
        scale=3.0, rows=(7,), pieces=("y",), name="n", rope_theta=5.0,
    )  # fmt: skip
    arrays, about = stacked(first, second)
    assert np.array_equal(2 * arrays["w.b"] @ arrays["w.a"], np.full((3, 3), 2 * 1 + 3 * 2))
    assert np.array_equal(2 * arrays["v.b"] @ arrays["v.a"], np.full((3, 3), 3))
    assert (arrays["rows"] == 3).all() and (about["rows"], about["pieces"]) == ([7], ["y"])
    assert (about["name"], about["base"], about["rope_theta"]) == ("n", "b", 5.0)


def test_llama_2_s_vocabulary_grows_to_code_llama_s(tmp_path: Path) -> None:
    config = replace(TINY, tied=False, vocab_size=500)
    write_hf(tmp_path / "llama", config)
    write_sentencepiece(tmp_path / "llama", 500)
    base = load_base(tmp_path / "llama", infill=True)
    assert base.new_ids == tuple(range(500, 516))
    assert base.model.config.vocab_size == 516
    infill = base.tokenizer.infill
    assert infill is not None
    assert (infill.pre, infill.suf, infill.mid, infill.eot) == (507, 508, 509, 510)
    export_gguf(trained_model(base, None, name="grown"), tmp_path / "grown.gguf")
    grown = open_model(tmp_path / "grown.gguf")
    assert grown.tokenizer().infill == infill and grown.config.vocab_size == 516
    was, now = load_llama(base.source), load_llama(grown)
    assert torch.allclose(logits(was, [4, 5]), logits(now, [4, 5])[:, :500], atol=1e-5)


def test_adapters_of_another_base_are_refused(
    trained: Trainer, tiny_base: Path, tmp_path: Path
) -> None:
    from safetensors.numpy import save_file

    save_file({"x": np.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(ModelFileError, match="is no adapter"):
        open_adapted(open_model(tiny_base), tmp_path / "other.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"\x08" + bytes(20))
    with pytest.raises(ModelFileError, match="is no adapter"):
        open_adapted(open_model(tiny_base), tmp_path / "broken.safetensors")
    if LORA.lora is not None and trained.recipe.lora is not None:
        path = tmp_path / "adapter.safetensors"
        save_adapter(path, trained.base, LORA.lora, None, "mine")
        write_hf(tmp_path / "wide", replace(TINY, ffn_dim=96))
        with pytest.raises(ModelFileError, match="does not fit"):
            open_adapted(open_model(tmp_path / "wide"), path)


SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5))
ABOUT = st.fixed_dictionaries(
    {}, optional={
        "name": st.one_of(SCALARS, st.just("x")),
        "scale": st.one_of(SCALARS, st.just(2.0)),
        "rows": st.one_of(SCALARS, st.lists(SCALARS, max_size=3), st.just([3])),
        "pieces": st.one_of(SCALARS, st.lists(SCALARS, max_size=3), st.just(["<PRE>"])),
        "infill": st.one_of(SCALARS, st.lists(SCALARS, max_size=5), st.just([])),
        "rope_theta": SCALARS,
    },
)  # fmt: skip


@given(about=ABOUT, rows=st.integers(0, 3))
@settings(deadline=None, max_examples=60)
def test_headers_of_adapters_are_checked(
    tiny_base: Path, tmp_path_factory: pytest.TempPathFactory, about: dict[str, Any], rows: int
) -> None:
    path = tmp_path_factory.mktemp("adapter") / "a.safetensors"
    write_adapter(path, {"rows": np.zeros((rows, TINY.dim), np.float16)}, about)
    try:
        model = open_adapted(open_model(tiny_base), path)
        model.tensor("tok_embeddings.weight")
        model.tokenizer()
    except ModelFileError as error:
        assert "\n" not in str(error)


def test_an_adapter_is_loaded_by_its_path(
    tiny_base: Path, documents: list[Document], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CodeLlama.load finds the base, merges, and infills."""
    from codellama import CodeLlama

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = dead_base(tiny_base, tmp_path / "dead.gguf")
    run, _ = trainer(path, documents, None, recipe=LORA)
    run.train(until=1)
    run.finish()
    assert LORA.lora is not None
    adapter = tmp_path / "mine.safetensors"
    save_adapter(adapter, run.base, LORA.lora, run.new_rows, "mine", base_name=str(path))
    llm = CodeLlama.load(adapter, device="cpu-torch", context=64)
    assert llm.config.name == "mine" and llm.config.infills
    assert llm.infill("def f(x):\n    ", "\n", max_tokens=3).finish_reason in ("length", "stop")
