"""The loop: rows → loss → gradients → AdamW, with exact resume.

Everything that step s computes follows from the recipe, the corpus, the base and s; a checkpoint
holds the masters, Adam's moments and s. So a run killed at any moment and resumed gives the very
losses of one that was not. The loss of a step is Σ weight · cross-entropy over its rows divided by
the Σ weight of all of them, however they are spread over micro-batches.

Does not draw bars or print: `on_step` gets a record of every step.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from codellama.errors import CodeLlamaError, ModelFileError
from codellama.specialize import run_log
from codellama.specialize.base import Base
from codellama.specialize.checkpoint import Saver, latest, load_checkpoint
from codellama.specialize.compiled import compile_loss, compile_update, pays
from codellama.specialize.dataset import Dataset, Row
from codellama.specialize.forward import PackedLoss
from codellama.specialize.heap import TRIM_STEPS, keep_memory, trim_memory
from codellama.specialize.lora import NewRows, add_lora, start_from
from codellama.specialize.optimizer import MasterAdamW, learning_rate
from codellama.specialize.parallel import Parallel, agreed
from codellama.specialize.recipe import Profile, Recipe
from codellama.specialize.shards import unshard
from codellama.specialize.speed import compute_dtype
from codellama.weights.adapter_file import Adapter

__all__ = ["DivergedError", "StepRecord", "Trainer"]


class DivergedError(CodeLlamaError):
    """The loss or its gradient is no number any more; the last checkpoint is the last good one."""


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One line of log.jsonl. `tokens` counts from the start of the stage."""

    step: int
    tokens: int
    loss: float
    learning_rate: float
    gradient_norm: float
    seconds: float


class Trainer:
    """One stage under way.

    Args:
        folder: of the run: checkpoints/ and log.jsonl. None keeps nothing (short experiments).
        parallel: the other processes, where there are any.
        start: the adapter whose training goes on; None begins a new one.
        on_step, on_warning: told of every step; of a checkpoint that could not be written.

    Attributes:
        step: optimizer steps done.
        steps: of the whole stage.
        tokens, last_tokens: trained on so far; in the last step.
    """

    def __init__(
        self,
        base: Base,
        recipe: Recipe,
        profile: Profile,
        dataset: Dataset,
        folder: Path | None,
        *,
        parallel: Parallel | None = None,
        start: Adapter | None = None,
        on_step: Callable[[StepRecord], None] | None = None,
        on_warning: Callable[[str], None] | None = None,
    ) -> None:
        self.base, self.recipe, self.profile, self.dataset = base, recipe, profile, dataset
        self.folder, self.parallel = folder, parallel
        self._on_step, self._on_warning = on_step, on_warning
        keep_memory()
        if profile.threads is not None:
            torch.set_num_threads(profile.threads)
        self.device = torch.device(profile.device)
        self.new_rows = self._prepare(start)
        self.module = PackedLoss(base.model, self.new_rows, recompute=profile.recompute)
        if parallel is not None:
            parallel.divide(self.module, recipe)
        trainable = {n: p for n, p in base.model.named_parameters() if p.requires_grad}
        if self.new_rows is not None:
            trainable["new_rows"] = self.new_rows.rows
        self.optimizer = MasterAdamW(trainable, recipe.optimizer)
        self._saver = (
            Saver(folder / "checkpoints", profile.keep, parallel) if folder is not None else None
        )
        self.steps = max(1, len(dataset.plan) // recipe.rows)
        self.step = self.tokens = self.last_tokens = 0
        self.key = self._key(start)
        self._resume()
        self._compile()

    def _key(self, start: Adapter | None) -> str:
        """16 hex digits of all that the steps follow from."""
        plan = self.dataset.plan
        about = f"{self.recipe.key}\0{self.base.model.config}\0{self.dataset.tokens}\0{len(plan)}"
        digest = hashlib.sha256(about.encode())
        for data in start.data() if start is not None else ():
            digest.update(data)
        return digest.hexdigest()[:16]

    def _prepare(self, start: Adapter | None) -> NewRows | None:
        """Freeze or free the weights, wrap them, and move them into the compute type."""
        model, recipe = self.base.model, self.recipe
        # FSDP keeps float32 shards and casts what it gathers.
        sharded = self.parallel is not None and recipe.lora is None
        dtype = torch.float32 if sharded else compute_dtype(self.profile)
        rows = None
        if recipe.lora is None:
            model.requires_grad_(True)
            # The head's gradient, which comes first, takes up the few rows of a tied embedding's:
            # a whole one of zeros and its sum are four passes over 49,152 rows.
            model.tok_embeddings.sparse = model.output is None and self.parallel is None
        else:
            add_lora(model, recipe.lora, recipe.seed, self.base.source.tensor)
            if self.base.new_ids:
                rows = NewRows(model.tok_embeddings, self.base.new_ids)
            if start is not None:
                start_from(model, rows, start)
        model.to(self.device, dtype).train()
        if rows is not None:
            rows.to(self.device, dtype)
        return rows

    def _compile(self) -> None:
        """Compile what is element-wise, if it pays or was asked for; else, or in vain, go on."""
        wish = self.profile.compile
        if wish is False or (wish is None and not pays(self.steps - self.step)):
            return
        dtype = next(self.base.model.parameters()).dtype
        try:
            compile_loss(self.module, self.device, dtype)
            compile_update(self.optimizer)
        except (RuntimeError, OSError, ImportError) as error:
            if self._on_warning is not None:
                reason = str(error).strip().splitlines()[0]
                self._on_warning(f"not compiled, training goes on slower: {reason}")

    def train(self, *, until: int | None = None, seconds: float | None = None) -> int:
        """Steps up to `until` (default: all), or until `seconds` have passed; a checkpoint is
        begun every few minutes, and the last one written at the end. Returns the steps done in all.

        Raises DivergedError; what was saved before stays.
        """
        goal = self.steps if until is None else min(until, self.steps)
        try:
            self._steps_to(goal, seconds)
        except BaseException as error:
            # Where processes do not all meet the same error, none can wait for the others.
            if self.parallel is None or isinstance(error, DivergedError):
                self._finish_saving()
            raise
        self.save()
        self._finish_saving()
        return self.step

    def _steps_to(self, goal: int, seconds: float | None) -> None:
        begin = saved = time.monotonic()
        while self.step < goal:
            record = self._train_step()
            self._log(record)
            if self.step % TRIM_STEPS == 0:
                trim_memory()
            if self._saver is not None and self._saver.written():
                self._finish_saving()
            now = time.monotonic()
            if agreed(self.parallel, now - saved > 60 * self.profile.checkpoint_minutes):
                self.save()
                saved = now
            if seconds is not None and agreed(self.parallel, now - begin >= seconds):
                break

    def rows(self, step: int) -> list[Row]:
        """The rows of a step: a pure function, so that a bad step can be looked at again."""
        count = self.recipe.rows
        last = len(self.dataset.plan)
        return [self.dataset.row(i) for i in range(step * count, min((step + 1) * count, last))]

    def _train_step(self) -> StepRecord:
        began = time.monotonic()
        every = self.rows(self.step)
        parallel = self.parallel
        rows = every if parallel is None else every[parallel.share :: parallel.shares]
        factor = 1 if parallel is None else parallel.factor
        rate = learning_rate(self.recipe.optimizer, self.step, self.steps)
        total = max(float(sum(_target_weights(row).sum() for row in every)), 1.0)
        loss = 0.0
        for start in range(0, len(rows), self.profile.micro_rows):
            part = self._loss(rows[start : start + self.profile.micro_rows], total)
            (part * factor).backward()  # type: ignore[no-untyped-call]
            self.optimizer.collect()
            loss += float(part.detach())
        if parallel is not None:
            parallel.share_gradients(self.optimizer)
            loss = parallel.total(loss)
        norm = self.optimizer.step(rate) if math.isfinite(loss) else math.nan
        if not math.isfinite(loss) or not math.isfinite(norm):
            raise self._diverged(every, loss)
        if self.new_rows is not None:
            self.new_rows.sync()
        self.step += 1
        self.last_tokens = sum(len(row.tokens_T) for row in every)
        self.tokens += self.last_tokens
        return StepRecord(
            self.step, self.tokens, loss, rate, norm, round(time.monotonic() - began, 3)
        )

    def _loss(self, rows: list[Row], total: float) -> Tensor:
        """Σ weight · cross-entropy of the rows, over `total`; every token is predicted from those
        before it in its own piece.
        """
        tokens_T = torch.from_numpy(np.concatenate([row.tokens_T for row in rows]))
        weights_T = torch.from_numpy(np.concatenate([_target_weights(row) for row in rows]))
        lengths = [length for row in rows for length in row.lengths]
        loss: Tensor = self.module(
            tokens_T.to(self.device), lengths, weights_T.to(self.device) / total
        )
        return loss

    def _diverged(self, rows: list[Row], loss: float) -> DivergedError:
        names = sorted({name for row in rows for name in row.documents})
        shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        return DivergedError(
            f"step {self.step + 1}: the loss is {loss}, or its gradient is not finite; training "
            f"stopped, the last checkpoint is kept. Documents of this step: {shown}"
        )

    def finish(self) -> None:
        """Put the float32 masters into the model, for export. No step can follow."""
        if self.parallel is not None:
            unshard(self.module)
        for name, parameter in self.optimizer.parameters.items():
            master = self.optimizer.masters[name].data
            if not isinstance(master, DTensor):  # whole again by now
                parameter.data = master

    # What stays on the disk.

    def save(self) -> None:
        """Begin a checkpoint of now, after the one before; training may go on meanwhile."""
        if self._saver is None:
            return
        self._finish_saving()
        state = {"key": self.key, "recipe": asdict(self.recipe), "tokens": self.tokens}
        self._saver.begin(self.step, self.optimizer.state(), state)

    def _finish_saving(self) -> None:
        """Wait for the checkpoint that is under way. A disk that is full is told of, and training
        goes on.
        """
        if self._saver is None:
            return
        step = self._saver.step
        try:
            self._saver.finish()
        except ModelFileError as error:
            if self._on_warning is None:
                raise
            if self.parallel is None or not self.parallel.rank:
                self._on_warning(f"no checkpoint at step {step}: {error}")

    def _resume(self) -> None:
        path = None if self.folder is None else latest(self.folder / "checkpoints")
        if self.folder is None or path is None:
            return
        tensors = self.optimizer.blank()
        found, state = load_checkpoint(path, self.key, tensors)
        self.optimizer.restore(tensors, found)
        if self.new_rows is not None:
            self.new_rows.sync()
        self.step, self.tokens = int(state["step"]), int(state["tokens"])
        if self.parallel is None or not self.parallel.rank:
            run_log.cut(self.folder, self.step)

    def _log(self, record: StepRecord) -> None:
        if self.parallel is not None and self.parallel.rank:
            return
        if self.folder is not None:
            run_log.append(self.folder, asdict(record))
        if self._on_step is not None:
            self._on_step(record)


def _target_weights(row: Row) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """Weight of every position's *next* token; a piece's last position predicts nothing."""
    weights_T = np.roll(row.weights_T, -1)
    weights_T[np.cumsum(row.lengths) - 1] = 0
    return weights_T


def trainable_parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
