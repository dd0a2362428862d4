"""AdamW on float32 masters of weights that compute in another type, and the learning rate's course.

The model's trainable parameters hold the compute type; for each of them a float32 master is kept,
gradients are summed in float32, and after every step the master is rounded back into the parameter.
With a float32 model the masters are the parameters themselves. PyTorch's AdamW updates; compiled
for a CPU, `update` does, which reads and writes everything once where the other takes two passes
more for gradients in float32, one to clip them and one to round.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from codellama.errors import ModelFileError
from codellama.specialize.recipe import Optimizer
from codellama.specialize.shards import whole

__all__ = ["MasterAdamW", "OnePass", "learning_rate", "squares", "update"]


class OnePass(NamedTuple):
    """`squares` and `update`, compiled."""

    squares: Callable[[Tensor], Tensor]
    update: Callable[..., None]


def learning_rate(config: Optimizer, step: int, steps: int) -> float:
    """Of step 0 … steps − 1: linear warm-up, then cosine, a plateau with a linear end, or constant.

    >>> o = Optimizer(learning_rate=1.0, warmup=2, final_ratio=0.0)
    >>> [round(learning_rate(o, s, 6), 3) for s in range(6)]
    [0.5, 1.0, 1.0, 0.75, 0.25, 0.0]
    """
    warmup = min(config.warmup, max(1, steps // 2))
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    done = (step - warmup) / max(1, steps - 1 - warmup)
    low = config.final_ratio
    if config.schedule == "constant":
        share = 1.0
    elif config.schedule == "cosine":
        share = low + (1 - low) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    else:
        falling = max(0.0, done - (1 - config.decay)) / config.decay if config.decay else 0.0
        share = 1 - (1 - low) * min(1.0, falling)
    return config.learning_rate * share


def squares(gradient: Tensor) -> Tensor:
    """Σ gradient², float32, row by row: millions of addends in one sum would lose digits."""
    return gradient.float().square().sum(-1).sum()


def update(
    master: Tensor,
    gradient: Tensor,
    mean: Tensor,
    square: Tensor,
    rounded: Tensor | None,
    numbers: Tensor,
) -> None:
    """AdamW of one tensor, in place (arXiv 1711.05101; as torch.optim.AdamW computes it).

    Args:
        rounded: the parameter, where it is not the master itself.
        numbers: clipping factor, 1 − β1, β2, 1 − β2, 1 − rate · decay, rate / (1 − β1^t),
            √(1 − β2^t), ε.
    """
    clip, new_mean, old_square, new_square, keep, rate, root, eps = numbers.unbind()
    slope = gradient.float() * clip
    mean_now = mean + (slope - mean) * new_mean
    square_now = square * old_square + slope * slope * new_square
    master_now = master * keep - rate * mean_now / (square_now.sqrt() / root + eps)
    mean.copy_(mean_now)
    square.copy_(square_now)
    master.copy_(master_now)
    if rounded is not None:
        rounded.copy_(master_now)


class MasterAdamW:
    """The optimizer of one run.

    Args:
        parameters: name → trainable parameter, on its device and in the compute type.

    Attributes:
        sharded: whether masters are parts of tensors.
        one_pass: what takes the place of PyTorch's AdamW where it was compiled.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], config: Optimizer) -> None:
        self.config = config
        self.parameters = dict(parameters)
        self.masters = {
            name: p if p.dtype == torch.float32 else nn.Parameter(p.detach().float())
            for name, p in self.parameters.items()
        }
        matrices = [m for m in self.masters.values() if m.dim() >= 2]
        vectors = [m for m in self.masters.values() if m.dim() < 2]
        groups: list[dict[str, Any]] = [
            {"params": matrices, "weight_decay": config.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ]
        self.sharded = any(isinstance(m, DTensor) for m in self.masters.values())
        # Gradients where masters are apart; that of a single backward pass stays as it came.
        self._sums: dict[str, Tensor] = {}
        self.one_pass: OnePass | None = None
        self._adam = torch.optim.AdamW(
            [group for group in groups if group["params"]],
            lr=config.learning_rate,
            betas=config.betas,
            eps=config.eps,
            fused=not self.sharded,
            foreach=False if self.sharded else None,  # those of one step may lie on several meshes
        )

    def collect(self) -> None:
        """Add the gradients of a backward pass to the masters' sums, and drop them."""
        for name, parameter in self.parameters.items():
            if self.masters[name] is parameter or parameter.grad is None:
                continue
            known = self._sums.get(name)
            self._sums[name] = (
                parameter.grad if known is None else known.float().add_(parameter.grad)
            )
            parameter.grad = None

    def step(self, rate: float) -> float:
        """Clip, update, round back into the model, clear; returns the norm before clipping.

        Where the norm is not finite nothing is updated: the caller stops.
        """
        norm = self._step_at_once(rate) if self.one_pass is not None else self._step(rate)
        self._sums.clear()
        self._adam.zero_grad(set_to_none=True)
        return norm

    def _step(self, rate: float) -> float:
        self._sum_in_masters()
        norm = self._clip()
        if math.isfinite(norm):
            for group in self._adam.param_groups:
                group["lr"] = rate
            self._adam.step()
            self.write_back()
        return norm

    def _sum_in_masters(self) -> None:
        while self._sums:
            name, gradient = self._sums.popitem()
            self.masters[name].grad = gradient.float()

    @torch.no_grad()
    def _step_at_once(self, rate: float) -> float:
        assert self.one_pass is not None
        gradients = {
            name: found for name, master in self.masters.items()
            if (found := self._sums.get(name, master.grad)) is not None
        }  # fmt: skip
        norm = math.sqrt(sum(float(self.one_pass.squares(g)) for g in gradients.values()))
        if not math.isfinite(norm):
            return norm
        clip = self._factor(norm)
        for name, gradient in gradients.items():
            master, parameter = self.masters[name], self.parameters[name]
            state = self._moments(master)
            state["step"] += 1
            self.one_pass.update(
                master.data.view(-1),
                gradient.reshape(-1),
                state["exp_avg"].view(-1),
                state["exp_avg_sq"].view(-1),
                None if parameter is master else parameter.data.view(-1),
                self._numbers(rate, clip, master.dim(), float(state["step"])),
            )
        return norm

    def _moments(self, master: Tensor) -> dict[str, Tensor]:
        """AdamW's state of a master, zero before its first step."""
        state: dict[str, Tensor] = self._adam.state[master]
        if not state:
            state["step"] = torch.zeros(())
            state["exp_avg"] = torch.zeros_like(master)
            state["exp_avg_sq"] = torch.zeros_like(master)
        return state

    def _numbers(self, rate: float, clip: float, dimensions: int, step: float) -> Tensor:
        """What `update` takes. Vectors do not decay."""
        (beta1, beta2), eps = self.config.betas, self.config.eps
        decay = self.config.weight_decay if dimensions >= 2 else 0.0
        return torch.tensor(
            [
                clip, 1 - beta1, beta2, 1 - beta2, 1 - rate * decay, rate / (1 - beta1**step),
                math.sqrt(1 - beta2**step), eps,
            ]
        )  # fmt: skip

    @torch.no_grad()
    def share_gradients(self, add_up: Callable[[Tensor], None]) -> None:
        """Have `add_up` replace each summed gradient by its sum over processes, in one order."""
        self._sum_in_masters()
        for master in self.masters.values():
            if master.grad is None:
                master.grad = torch.zeros_like(master)
            add_up(master.grad)

    @torch.no_grad()
    def _clip(self) -> float:
        """Clip all gradients by the norm of all; returns it."""
        masters = list(self.masters.values())
        if not self.sharded:
            return float(nn.utils.clip_grad_norm_(masters, self.config.clip))
        gradients = [m.grad for m in masters if m.grad is not None]
        norm = math.sqrt(sum(float(whole(g.norm())) ** 2 for g in gradients))
        if (factor := self._factor(norm)) < 1:
            for gradient in gradients:
                gradient.mul_(factor)
        return norm

    def _factor(self, norm: float) -> float:
        """What gradients of that norm are multiplied by; as clip_grad_norm_ has it."""
        return min(1.0, self.config.clip / (norm + 1e-6))

    @torch.no_grad()
    def write_back(self) -> None:
        for name, parameter in self.parameters.items():
            if self.masters[name] is not parameter:
                parameter.copy_(self.masters[name])

    def state(self) -> dict[str, Tensor]:
        """Everything that a resumed run needs, by name: tensors or shards, not copies."""
        tensors: dict[str, Tensor] = {f"master.{n}": m.detach() for n, m in self.masters.items()}
        for name, master in self.masters.items():
            for key, value in self._adam.state.get(master, {}).items():
                tensors[f"{key}.{name}"] = value
        return tensors

    def blank(self) -> dict[str, Tensor]:
        """What `state` may hold: the masters themselves, and new moments for `restore`."""
        tensors: dict[str, Tensor] = {f"master.{n}": m.detach() for n, m in self.masters.items()}
        for name, master in self.masters.items():
            tensors[f"step.{name}"] = torch.zeros(())
            tensors[f"exp_avg.{name}"] = torch.zeros_like(master.detach())
            tensors[f"exp_avg_sq.{name}"] = torch.zeros_like(master.detach())
        return tensors

    def restore(self, tensors: Mapping[str, Tensor], found: Container[str]) -> None:
        """Go on from a filled `blank`, of which the names in `found` were filled.

        Raises ModelFileError where a master was not, or only some of its moments.
        """
        keys = ("step", "exp_avg", "exp_avg_sq")
        for name, master in self.masters.items():
            moments = {key: tensors[f"{key}.{name}"] for key in keys if f"{key}.{name}" in found}
            if f"master.{name}" not in found or len(moments) not in (0, len(keys)):
                raise ModelFileError(f"the checkpoint lacks {name}, or moments of it")
            self._adam.state[master].update(moments)
        self.write_back()
