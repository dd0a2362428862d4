"""One process of several that train together: who it is, and what all of them must agree on.

torchrun, Slurm, Kubernetes or Ray Train start the processes and set RANK, WORLD_SIZE and where to
meet; `start_parallel` joins them. The trainer takes every `size`-th row; checkpoints hold whole
tensors, so a run goes on with any number of processes. Meshes of "dp" alone are driven so; other
axes are parts in distributed.py.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from codellama.errors import RequestError
from codellama.specialize.distributed import build_mesh, shard
from codellama.specialize.forward import PackedLoss
from codellama.specialize.recipe import Profile, Recipe

__all__ = ["Parallel", "like", "start_parallel", "unshard", "whole"]


def start_parallel(profile: Profile) -> Parallel | None:
    """Join the processes that a launcher started; None where this one was started alone.

    Raises RequestError for a mesh that the trainer does not drive.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 and not dist.is_initialized():
        return None
    if not dist.is_initialized():
        dist.init_process_group("gloo" if profile.device == "cpu" else "nccl")
    if any(name != "dp" for name, _ in profile.mesh):
        raise RequestError(
            f"profile {profile.name}: training drives meshes of dp alone; `codellama plan "
            "--dry-run` tries others"
        )
    return Parallel(replace(profile, mesh=(("dp", dist.get_world_size()),)))


class Parallel:
    """This process among the others.

    Attributes:
        rank, size: which of how many.
        profile: with the mesh of all of them.
    """

    def __init__(self, profile: Profile) -> None:
        self.profile = profile
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        if profile.device.startswith("cuda"):
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", self.rank)))

    def shard(self, module: PackedLoss, recipe: Recipe) -> None:
        """FSDP over all processes. Raises RequestError for what cannot be shared out."""
        if recipe.lora is not None:
            raise RequestError("adapters are trained by one process; several train all weights")
        if recipe.rows % self.size:
            raise RequestError(
                f"a batch of {recipe.rows} rows does not divide among {self.size} processes"
            )
        shard(module, build_mesh(self.profile), self.profile)

    def total(self, value: float) -> float:
        """The sum of all processes' values."""
        tensor = torch.tensor(value, dtype=torch.float64)
        if self.profile.device.startswith("cuda"):
            tensor = tensor.cuda()
        dist.all_reduce(tensor)
        return float(tensor)

    @contextmanager
    def first(self) -> Iterator[None]:
        """The body runs in process 0, then in the others, which find what it left on the disk."""
        if self.rank:
            dist.barrier()
        yield
        if not self.rank:
            dist.barrier()

    def wait(self) -> None:
        dist.barrier()

    def close(self) -> None:
        """Leave the others, when all is done or this process gives up."""
        if dist.is_initialized():
            dist.destroy_process_group()


def agreed(parallel: Parallel | None, wish: bool) -> bool:
    """What process 0 wishes, or this one alone: clocks differ, and all must do the same."""
    if parallel is None:
        return wish
    return parallel.total(float(wish and not parallel.rank)) > 0


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor of which each process may hold a shard; every process must ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def like(tensor: Tensor, model: Tensor) -> Tensor:
    """A whole tensor cut as `model` is."""
    if not isinstance(model, DTensor):
        return tensor
    return distribute_tensor(tensor, model.device_mesh, model.placements)


def unshard(module: nn.Module) -> None:
    """Put whole parameters in the place of shards; every process must ask. Nothing is trained
    afterwards.
    """
    for owner in module.modules():
        for name, parameter in list(owner.named_parameters(recurse=False)):
            if isinstance(parameter, DTensor):
                owner.register_parameter(name, nn.Parameter(parameter.full_tensor().detach()))
