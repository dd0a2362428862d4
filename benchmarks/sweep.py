"""Variants of the smol-135m recipe on a small budget of tokens, one after another, on one corpus.

    python benchmarks/sweep.py ./corpus --tokens 100000 --out sweep.json \
        base= 'rate 4e-3=learning_rate:4e-3' 'lines=line:0.5,lines:0.2,characters:0.3' \
        'middles=middle_weight:8' 'all weights=method:full,learning_rate:5e-4'

A variant is NAME=FIELD:VALUE,…; fields are tokens, learning_rate, batch_tokens, method, rate, spm,
middle_weight, rank, alpha and the kinds of spans (any of these replaces them all). Each is scored
on gaps of one line in functions that no variant was trained on: bits per token of middle and EOT,
teacher forced, exact matches of greedy answers, and answers that ended, in PSM and in SPM with
token healing; and bits per byte of the same functions read left to right. What is in OUT already
is not run again. One seed each: differences of a few percent are noise.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import torch

from codellama import CodeLlama
from codellama.evaluate.statistics import mean
from codellama.hub import resolve
from codellama.specialize.base import Base, load_base
from codellama.specialize.corpus.build import load_corpus
from codellama.specialize.dataset import Document, build_dataset
from codellama.specialize.export import save_adapter, trained_model
from codellama.specialize.fim import Split, draws, encode_split
from codellama.specialize.forward import PackedLoss
from codellama.specialize.recipe import Infilling, Profile, Recipe, SpanKind
from codellama.specialize.run import as_documents, held_out
from codellama.specialize.smol import smol_135m
from codellama.specialize.spans import line_span
from codellama.specialize.trainer import Trainer
from codellama.weights.export import quantize_model
from codellama.weights.files import atomic_file, read_json
from learning_curve import Problem, infilled

BASE = "smollm2:135m"


def variant(text: str, tokens: int, mix: str | None) -> Recipe:
    """The recipe with the fields of NAME=FIELD:VALUE,…"""
    fields = dict(pair.split(":") for pair in text.split(",") if pair)
    tokens = int(fields.pop("tokens", tokens))
    recipe = smol_135m(tokens, fields.pop("method", "lora"))
    spans = tuple((k, float(fields.pop(k))) for k in get_args(SpanKind) if k in fields)
    infilling, optimizer, lora = recipe.infilling, recipe.optimizer, recipe.lora
    assert infilling is not None
    if spans:
        infilling = replace(infilling, spans=spans)
    for name in ("rate", "middle_weight", "spm"):
        if name in fields:
            infilling = replace(infilling, **{name: float(fields.pop(name))})
    if "learning_rate" in fields:
        optimizer = replace(optimizer, learning_rate=float(fields.pop("learning_rate")))
    if lora is not None and "rank" in fields:
        lora = replace(lora, rank=int(fields.pop("rank")))
    if lora is not None and "alpha" in fields:
        lora = replace(lora, alpha=float(fields.pop("alpha")))
    if "batch_tokens" in fields:
        size = int(fields.pop("batch_tokens"))
        recipe = replace(recipe, batch_tokens=size, sequence=min(size, recipe.sequence))
    if fields:
        raise SystemExit(f"no such field: {', '.join(fields)}")
    if mix:
        pairs = (pair.partition("=") for pair in mix.split(","))
        recipe = replace(recipe, mix=tuple((name, float(share)) for name, _, share in pairs))
    return replace(recipe, infilling=infilling, optimizer=optimizer, lora=lora)


def gaps(documents: Sequence[Document], count: int) -> list[Problem]:
    """One line left out of each of `count` functions, the same for every variant."""
    found: list[Problem] = []
    for document in documents:
        text = document.text
        if 200 <= len(text) <= 1600 and text.count("\n") >= 4 and len(found) < count:
            begin, end = line_span(text, draws("sweep", document.id, 0), most=1)
            found.append(
                {
                    "prompt": text[:begin],
                    "canonical_solution": text[begin:end],
                    "suffix": text[end:],
                }
            )
    return found


@torch.no_grad()
def bits(base: Base, module: PackedLoss, problems: Sequence[Problem], order: Any) -> float:
    """Bits per token of middles and EOT."""
    only = Infilling(sentinel_weight=0.0)
    total = count = 0.0
    for each in problems:
        parts = Split(each["prompt"], each["canonical_solution"], each["suffix"], order)
        ids = encode_split(base.tokenizer, parts, replace(only, middle_weight=2.0), None)
        weights = torch.tensor([float(w == 2.0) for w in ids.weights]).roll(-1)
        total += float(module(torch.tensor(ids.ids), [len(ids.ids)], weights))
        count += float(weights.sum())
    return total / count / math.log(2)


@torch.no_grad()
def plain_bits(base: Base, module: PackedLoss, texts: Sequence[str]) -> float:
    """Bits per byte of whole functions, left to right."""
    total = 0.0
    for text in texts:
        ids = torch.tensor(base.tokenizer.encode(text))
        weights = torch.ones(len(ids)).index_fill(0, torch.tensor([len(ids) - 1]), 0.0)
        total += float(module(ids, [len(ids)], weights))
    return total / sum(len(text.encode()) for text in texts) / math.log(2)


def trained(recipe: Recipe, path: Path, corpus: Any, threads: int | None) -> tuple[Base, Trainer]:
    base = load_base(path, infill=True)
    data = build_dataset(recipe, corpus, base.tokenizer, base.end, None)

    def told(record: Any) -> None:
        if record.step % 10 == 0:
            print(f"  step {record.step}  loss {record.loss:.3f}  {record.seconds} s", flush=True)

    trainer = Trainer(base, recipe, Profile(threads=threads), data, None, on_step=told)
    trainer.train()
    return base, trainer


def scored(base: Base, trainer: Trainer, problems: list[Problem]) -> dict[str, float]:
    scores = {
        f"{order} bits": bits(base, trainer.module, problems, order) for order in ("psm", "spm")
    }
    texts = [each["prompt"] + each["canonical_solution"] + each["suffix"] for each in problems]
    scores["bits per byte"] = plain_bits(base, trainer.module, texts)
    trainer.finish()
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "variant.gguf"
        if trainer.recipe.lora is None:
            quantize_model(trained_model(base, trainer.new_rows, name="variant"), target, "Q8_0")
        else:
            target = target.with_suffix(".safetensors")
            save_adapter(
                target, base, trainer.recipe.lora, trainer.new_rows, "variant", base_name=BASE
            )
        llm = CodeLlama.load(target, context=2048, threads=1)
        for order in ("psm", "spm"):
            scores |= {k: mean(v) for k, v in infilled(llm, problems, order).items()}
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("variants", nargs="+", metavar="NAME=FIELD:VALUE,…")
    parser.add_argument("--tokens", type=int, default=100_000)
    parser.add_argument("--mix")
    parser.add_argument("--gaps", type=int, default=200)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--out", type=Path, default=Path("sweep.json"))
    options = parser.parse_args()
    sets = {name: as_documents(records) for name, records in load_corpus(options.corpus).items()}
    corpus, test = held_out(sets)
    problems = gaps(test["python"], options.gaps)
    done: dict[str, Any] = read_json(options.out) if options.out.is_file() else {}
    for each in options.variants:
        name, _, text = each.partition("=")
        if name in done:
            continue
        print(name, flush=True)
        recipe = variant(text, options.tokens, options.mix)
        base, trainer = trained(recipe, resolve(BASE), corpus, options.threads)
        scores = scored(base, trainer, problems)
        done = read_json(options.out) if options.out.is_file() else {}
        done[name] = {"fields": text, "tokens": trainer.tokens, **scores}
        atomic_file(options.out, json.dumps(done, indent=1).encode())
        print(f"  {', '.join(f'{k} {v:.3f}' for k, v in scores.items())}", flush=True)


if __name__ == "__main__":
    main()
