"""A pipeline from its base to a finished model: stage after stage, each resumed where it stopped,
with a gate after each.

    RUN/
    ├── NAME/                one folder a stage: data/, checkpoints/, log.jsonl, loss.svg
    │   ├── model.gguf       the stage's result, float32: what the next stage starts from
    │   ├── adapter.safetensors     where it and all stages before it trained adapters: theirs
    │   │                           stacked, on the pipeline's base
    │   └── result.json      bits per byte before and after
    └── …

A stage whose result.json is there is done and is not run again; one of another recipe or adapter is
refused.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from codellama.errors import CodeLlamaError, RequestError
from codellama.specialize.base import Base, load_base
from codellama.specialize.corpus.record import CHAT, Record, turns_of
from codellama.specialize.dataset import Document, build_dataset
from codellama.specialize.export import save_adapter, trained_model
from codellama.specialize.lora import average_with
from codellama.specialize.measure import score_texts
from codellama.specialize.parallel import Parallel, agreed
from codellama.specialize.recipe import Profile, Recipe
from codellama.specialize.stages import Pipeline
from codellama.specialize.trainer import StepRecord, Trainer
from codellama.weights.adapter_file import Adapter, read_own_adapter, stacked, write_adapter
from codellama.weights.export import export_gguf
from codellama.weights.files import atomic_file, read_json

__all__ = ["GateError", "Outcome", "as_documents", "held_out", "run_pipeline"]

Sets = Mapping[str, Sequence[Document]]

_HELD_OUT = 50  # one document of this many is never trained on
_SCORED = 40_000  # characters of a set that are scored before and after: 12,000 tokens


class GateError(CodeLlamaError):
    """A stage cost more than its gate allows; its model is kept, the next stage is not begun."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Attributes:
    finished: whether all stages are done; else call again to go on.
    model: the last stage's file, None while the first is under way.
    adapter: what it trained, where it trained adapters.
    """

    finished: bool
    model: Path | None
    adapter: Path | None
    results: tuple[dict[str, Any], ...]


def as_documents(records: Iterable[Record]) -> list[Document]:
    """Records of a corpus as what is trained on; conversations are taken apart."""
    documents = []
    for record in records:
        if record.language == CHAT:
            documents.append(Document(record.id, "", CHAT, tuple(turns_of(record))))
        else:
            documents.append(Document(record.id, record.text, record.language))
    return documents


def held_out(corpus: Sets) -> tuple[dict[str, list[Document]], dict[str, list[Document]]]:
    """(to train on, to measure on), by the documents' ids: the same in every run."""

    def kept(document: Document) -> bool:
        return sum(document.id.encode()) % _HELD_OUT != 0

    train = {name: [d for d in documents if kept(d)] for name, documents in corpus.items()}
    test = {name: [d for d in documents if not kept(d)] for name, documents in corpus.items()}
    return train, test


def run_pipeline(
    pipeline: Pipeline,
    profile: Profile,
    base_path: Path,
    corpus: Sets,
    folder: Path,
    *,
    base_name: str = "",
    adapter: Path | None = None,
    average: bool = False,
    parallel: Parallel | None = None,
    seconds: float | None = None,
    on_stage: Callable[[Recipe, Trainer], None] | None = None,
    on_step: Callable[[StepRecord], None] | None = None,
    on_warning: Callable[[str], None] | None = None,
) -> Outcome:
    """Run, or go on with, all stages.

    Args:
        base_name: by which others find the base; adapters carry it.
        adapter: of the base, from an earlier run: the first stage goes on training it.
        average: the first stage's result is the mean of that adapter and what became of it.
        parallel: this process among others that run the same pipeline.
        seconds: stop after about so long, with a checkpoint; None runs to the end.

    Raises:
        GateError: a stage went beyond its gate.
        DivergedError, RequestError, ModelFileError: as Trainer and build_dataset do.
    """
    train, test = held_out(corpus)
    started = time.monotonic()
    results: list[dict[str, Any]] = []
    path, before = base_path, None
    place = folder
    start = None if adapter is None else read_own_adapter(adapter)
    if average and start is None:
        raise RequestError("there is no adapter to average with")
    if start is not None and pipeline.stages[0].lora is None:
        raise RequestError(f"{pipeline.stages[0].name} trains all weights, not an adapter")
    for recipe in pipeline.stages:
        place = folder / recipe.name
        origin = _origin(recipe, start, average)
        if not _is_done(place, origin):
            left = None if seconds is None else seconds - (time.monotonic() - started)
            if left is not None and agreed(parallel, left <= 0):
                return Outcome(False, None, None, tuple(results))
            stage = _Stage(
                recipe, profile, path, train, test, place, base_name or str(base_path), before,
                parallel, start, average, origin,
            )  # fmt: skip
            if not stage.run(left, on_stage, on_step, on_warning):
                return Outcome(False, None, None, tuple(results))
        results.append(read_json(place / "result.json"))
        _check_gate(pipeline, recipe, results[-1])
        path, before, start = place / "model.gguf", place / "adapter.safetensors", None
    adapter = place / "adapter.safetensors"
    return Outcome(True, path, adapter if adapter.is_file() else None, tuple(results))


def _origin(recipe: Recipe, start: Adapter | None, average: bool) -> str:
    """16 hex digits of what a stage's result follows from, beside its base and its corpus."""
    digest = hashlib.sha256(f"{recipe.key}\0{average}".encode())
    for data in start.data() if start is not None else ():
        digest.update(data)
    return digest.hexdigest()[:16]


def _is_done(place: Path, origin: str) -> bool:
    """Whether the stage's result is there. RequestError for that of another recipe or adapter."""
    if not (place / "result.json").is_file():
        return False
    # Results written before there were origins are taken as they are.
    if read_json(place / "result.json").get("origin", origin) != origin:
        raise RequestError(
            f"{place} holds the result of another recipe or adapter: choose another folder, or "
            "remove that one"
        )
    return True


@dataclass(slots=True)
class _Stage:
    recipe: Recipe
    profile: Profile
    start: Path
    train: Sets
    test: Sets
    place: Path
    base_name: str
    before: Path | None
    parallel: Parallel | None
    adapter: Adapter | None
    average: bool
    origin: str

    def run(
        self,
        seconds: float | None,
        on_stage: Callable[[Recipe, Trainer], None] | None,
        on_step: Callable[[StepRecord], None] | None,
        on_warning: Callable[[str], None] | None,
    ) -> bool:
        """Whether the stage is done."""
        recipe = self.recipe
        base = load_base(self.start, infill=recipe.infilling is not None, seed=recipe.seed)
        change_positions(base, recipe)
        with self.parallel.first() if self.parallel else nullcontext():
            data = build_dataset(
                recipe, self.train, base.tokenizer, base.end, self.place / "data",
                template=base.source.chat_template,
            )  # fmt: skip
        trainer = Trainer(
            base, recipe, self.profile, data, self.place,
            parallel=self.parallel, start=self.adapter, on_step=on_step, on_warning=on_warning,
        )  # fmt: skip
        if on_stage is not None:
            on_stage(recipe, trainer)
        if trainer.train(seconds=seconds) < trainer.steps:
            return False
        trainer.finish()
        if self.average and self.adapter is not None:
            average_with(base.model, trainer.new_rows, self.adapter)
        if self.parallel is None or self.parallel.rank == 0:
            self._finish(base, trainer)
        if self.parallel is not None:
            self.parallel.wait()
        return True

    def _finish(self, base: Base, trainer: Trainer) -> None:
        """Write the stage's model and what it cost and gained."""
        recipe, data = self.recipe, trainer.dataset
        self._export(base, trainer)
        before = self._scores(load_base(self.start, infill=False))
        after = self._scores(load_base(self.place / "model.gguf", infill=False))
        result = {
            "stage": recipe.name, "key": trainer.key, "origin": self.origin, "steps": trainer.steps,
            "tokens": trainer.tokens, "infilled": data.infilled, "epochs": data.epochs,
            "bits_per_byte": {k: {"before": before[k], "after": after[k]} for k in before},
        }  # fmt: skip
        atomic_file(self.place / "result.json", json.dumps(result, indent=1).encode())

    def _export(self, base: Base, trainer: Trainer) -> None:
        export_gguf(
            trained_model(base, trainer.new_rows, name=self.recipe.name),
            self.place / "model.gguf",
        )
        if self.recipe.lora is None or (self.before is not None and not self.before.is_file()):
            return  # a stage that trained all weights left no adapter to stack on
        target = self.place / "adapter.safetensors"
        save_adapter(
            target, base, self.recipe.lora, trainer.new_rows, self.recipe.name,
            base_name=self.base_name,
        )  # fmt: skip
        if self.before is not None:
            both = stacked(read_own_adapter(self.before), read_own_adapter(target))
            write_adapter(target, *both)

    def _scores(self, base: Base) -> dict[str, float]:
        """Bits per byte of held-out documents, by set of the corpus."""
        scores = {}
        for name, documents in self.test.items():
            texts, size = [], 0
            for document in documents:
                if document.text and size < _SCORED:
                    texts.append(document.text)
                    size += len(document.text)
            if texts:
                scores[name] = score_texts(base.model, base.tokenizer, texts).bits_per_byte
        return scores


def change_positions(base: Base, recipe: Recipe) -> None:
    """Set the RoPE base and the context that a long-context stage trains at (paper §2.4)."""
    config = base.model.config
    base.model.config = replace(
        config,
        rope_theta=recipe.rope_theta or config.rope_theta,
        context=recipe.context or config.context,
    )


def _check_gate(pipeline: Pipeline, recipe: Recipe, result: Mapping[str, Any]) -> None:
    for name in ("nl", "nl_code"):
        scores = result["bits_per_byte"].get(name)
        if scores is None:
            continue
        rise = scores["after"] / scores["before"] - 1
        if rise > pipeline.gate.natural_language_rise:
            raise GateError(
                f"{recipe.name}: bits per byte of held-out {name} rose by {rise:.1%}, more than "
                f"{pipeline.gate.natural_language_rise:.0%}: the next stage is not begun "
                "(lower the learning rate, or give natural language a larger share)"
            )
        return
