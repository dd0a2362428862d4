"""One process of several that train together: who it is, and what all of them must agree on.

torchrun, Slurm, Kubernetes or Ray Train start the processes and set RANK, WORLD_SIZE and where to
meet; `start_parallel` joins them. The profile's mesh says how they share a step: over "dp" each
takes other rows, over "cp" other tokens of the same rows, over "tp" other parts of every layer.
The loss is divided by the weights of the whole batch, so their number changes nothing but speed.
Where all weights are trained they are sharded (distributed.py); adapters, which are small, every
process has whole, and gradients are added up. Checkpoints hold whole tensors, so a run goes on with
any number of processes.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
import torch.distributed as dist

from codellama.errors import RequestError
from codellama.specialize.context import Context
from codellama.specialize.distributed import build_mesh, shard
from codellama.specialize.forward import PackedLoss
from codellama.specialize.optimizer import MasterAdamW
from codellama.specialize.recipe import Profile, Recipe

__all__ = ["Parallel", "agreed", "start_parallel"]


def start_parallel(profile: Profile) -> Parallel | None:
    """Join the processes that a launcher started; None where this one was started alone.

    "dp" takes as many processes as the mesh's other axes leave, whatever the profile says.

    Raises RequestError for a mesh that these processes cannot form.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    inner = [(name, count) for name, count in profile.mesh if name != "dp"]
    others = math.prod(count for _, count in inner)
    if size % others:
        shape = " x ".join(f"{name} {count}" for name, count in inner)
        raise RequestError(
            f"{shape} needs {others} processes, or a multiple of them, and {size} "
            f"{'was' if size == 1 else 'were'} started: torchrun --nproc-per-node {others} "
            "-m codellama specialize …"
        )
    if size == 1 and not dist.is_initialized():
        return None
    if not dist.is_initialized():
        dist.init_process_group("gloo" if profile.device == "cpu" else "nccl")
    return Parallel(replace(profile, mesh=(("dp", dist.get_world_size() // others), *inner)))


class Parallel:
    """This process among the others.

    Attributes:
        rank, size: which of how many.
        share, shares: rows share, share + shares, … of a step are this process's.
        profile: with the mesh of all of them.
    """

    def __init__(self, profile: Profile) -> None:
        self.profile = profile
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        axes = dict(profile.mesh)
        self.shares, self._copies = axes.get("dp", 1), axes.get("tp", 1)
        self.share = self.rank // (self.size // self.shares)
        self._means = False
        if profile.device.startswith("cuda"):
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", self.rank)))

    @property
    def factor(self) -> int:
        """What a process's part of the loss must be multiplied by before its gradients are taken:
        FSDP's are the mean over the processes, not the sum.
        """
        return self.size // self._copies if self._means else 1

    def divide(self, module: PackedLoss, recipe: Recipe) -> None:
        """Give this process its part of the module. Raises RequestError for what cannot be cut."""
        if recipe.rows % self.shares:
            raise RequestError(
                f"a batch of {recipe.rows} rows does not divide among {self.shares} processes"
            )
        mesh = build_mesh(self.profile)
        if recipe.lora is None:
            shard(module, mesh, self.profile)
            self._means = True
        elif self._copies > 1:
            raise RequestError("adapters are not cut by tp: use dp and cp, or train all weights")
        elif "cp" in (mesh.mesh_dim_names or ()):
            module.context = Context(mesh["cp"].get_group())

    def share_gradients(self, optimizer: MasterAdamW) -> None:
        """Add up what backward passes have not."""
        if not self._means:
            optimizer.share_gradients(dist.all_reduce)

    def total(self, value: float) -> float:
        """The sum of the processes' values; those that are cut by tp have the same one, once."""
        tensor = torch.tensor(value, dtype=torch.float64)
        if self.profile.device.startswith("cuda"):
            tensor = tensor.cuda()
        dist.all_reduce(tensor)
        return float(tensor) / self._copies

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
