"""What people see of a training run: a bar on a terminal, a line every tenth of it elsewhere."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codellama.errors import RequestError

if TYPE_CHECKING:
    from codellama.specialize.recipe import Profile, Recipe
    from codellama.specialize.trainer import StepRecord, Trainer

__all__ = ["View"]


def _tensorboard(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise RequestError("--tensorboard needs it: pip install tensorboard") from None
    return SummaryWriter(str(folder))


class View:
    """A bar on a terminal, a line every tenth elsewhere; on stderr."""

    def __init__(self, profile: Profile, tensorboard: Path | None) -> None:
        self._file, self._profile = sys.stderr, profile
        self._writer = None if tensorboard is None else _tensorboard(tensorboard)
        self._bar: Any = None
        self._task: Any = None
        self._trainer: Trainer | None = None
        self._shown = -1
        self._flops = self._limit = 0.0

    def stage(self, recipe: Recipe, trainer: Trainer) -> None:
        from codellama.specialize.plan import flops_per_token
        from codellama.specialize.speed import compute_dtype, matmul_peak

        self._trainer, self._shown = trainer, -1
        self._limit = matmul_peak(compute_dtype(self._profile), self._profile.device)
        self._flops = flops_per_token(trainer.base.model.config, recipe)
        self.warn(
            f"{recipe.name}: {trainer.steps} steps of {recipe.batch_tokens:,} tokens, "
            f"{trainer.dataset.infilled:.0%} of documents infilled, from step {trainer.step}"
        )
        if self._file.isatty():
            self._start_bar(recipe.name, trainer)

    def _start_bar(self, name: str, trainer: Trainer) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self.close()
        columns = (
            TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[now]}"),
            TimeRemainingColumn(),
        )  # fmt: skip
        self._bar = Progress(*columns, console=Console(stderr=True))
        self._bar.start()
        self._task = self._bar.add_task(name, total=trainer.steps, completed=trainer.step, now="")

    def step(self, record: StepRecord) -> None:
        assert self._trainer is not None
        speed = self._trainer.last_tokens / max(record.seconds, 1e-9)
        share = speed * self._flops / self._limit
        if self._writer is not None:
            for name in ("loss", "learning_rate", "gradient_norm"):
                tag = f"{self._trainer.recipe.name}/{name}"
                self._writer.add_scalar(tag, getattr(record, name), record.step)
            self._writer.flush()
        now = f"loss {record.loss:.3f}  {speed:,.0f} tok/s  {share:.0%} of peak"
        if self._bar is not None:
            self._bar.update(self._task, completed=record.step, now=now)
            return
        tenth = 10 * record.step // self._trainer.steps
        if tenth != self._shown:
            self._shown = tenth
            self.warn(f"step {record.step}/{self._trainer.steps}  {now}")

    def warn(self, text: str) -> None:
        if self._bar is not None:
            self._bar.console.print(text)
        else:
            print(text, file=self._file, flush=True)

    def close(self) -> None:
        """End the bar; what follows is printed plainly."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def end(self) -> None:
        """No step follows: the bar and the log end."""
        self.close()
        if self._writer is not None:
            self._writer.close()
