"""Past one device: a mesh, sharded weights (FSDP2), tensor parallelism, and a dry run of a large
layout on one machine.

A plain torch.distributed program: torchrun, Slurm, Kubernetes or Ray Train start the same entry
point, and torch's own parts do the work. What is ours is the glue: which matrices are cut which
way. A mesh has up to three axes, in this order: "dp" takes other rows, "cp" other tokens of a row
(context.py), "tp" other heads and columns of the same. Weights are sharded over dp and cp together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)

from codellama.errors import RequestError
from codellama.model.config import ModelConfig
from codellama.model.llama import Block, Llama
from codellama.specialize.context import Context
from codellama.specialize.forward import PackedLoss
from codellama.specialize.recipe import Profile
from codellama.specialize.speed import compute_dtype

__all__ = ["AXES", "DryRun", "build_mesh", "dry_run", "shard"]

AXES = ("dp", "cp", "tp")
"""Of a mesh, from the outermost: ranks next to each other, on one machine, share layers."""


def build_mesh(profile: Profile) -> DeviceMesh:
    """The profile's mesh over all ranks; torch.distributed must be initialized.

    Raises RequestError for other axes than AXES, or when its size is not the number of ranks.
    """
    axes = profile.mesh or (("dp", dist.get_world_size()),)
    if [name for name in AXES if name in dict(axes)] != [name for name, _ in axes]:
        found = ", ".join(name for name, _ in axes)
        raise RequestError(f"profile {profile.name}: a mesh of {found}; axes are dp, cp, tp, once")
    size = math.prod(count for _, count in axes)
    if size != dist.get_world_size():
        shape = " × ".join(f"{name} {count}" for name, count in axes)
        raise RequestError(
            f"profile {profile.name} is a mesh of {shape} = {size} devices, "
            f"but {dist.get_world_size()} were started"
        )
    device = profile.device.partition(":")[0]
    names = tuple(name for name, _ in axes)
    return init_device_mesh(device, tuple(count for _, count in axes), mesh_dim_names=names)


def shard(module: PackedLoss, mesh: DeviceMesh, profile: Profile) -> None:
    """Cut the model over the mesh, in place: "tp" splits heads and ffn_dim; "dp" and "cp" shard all
    weights and gradients layer by layer, and "cp" the tokens of a row.

    Raises RequestError when heads or dimensions do not divide.
    """
    names = mesh.mesh_dim_names or ()
    if "tp" in names:
        _split_layers(module.model, mesh["tp"])
    if "cp" in names:
        module.context = Context(mesh["cp"].get_group())
    over = tuple(name for name in names if name != "tp")
    if not over:
        return
    shards = mesh[over[0]] if len(over) == 1 else mesh[over]._flatten("_".join(over))
    policy = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if compute_dtype(profile) == torch.bfloat16 else None,
        reduce_dtype=torch.float32,
    )
    if "tp" in names and module.model.config.dim % shards.size():
        raise RequestError(
            f"dim {module.model.config.dim} does not divide by {' x '.join(over)} {shards.size()}"
        )
    for part in (*module.model.layers, module):
        fully_shard(part, mesh=shards, mp_policy=policy, shard_placement_fn=_other_dimension)


def _other_dimension(parameter: nn.Parameter) -> Shard | None:
    """Along columns where "tp" has cut the rows: cut twice along one, whole tensors are not put
    together and taken apart again as simply.
    """
    rows_cut = isinstance(parameter, DTensor) and parameter.placements[0].is_shard(0)
    return Shard(1) if rows_cut else None


def _split_layers(model: Llama, mesh: DeviceMesh) -> None:
    """Megatron's cut: wq, wk, wv, w1, w3 by rows of their output, wo and w2 by their input, so that
    a layer communicates twice.
    """
    size, config = mesh.size(), model.config
    if config.n_kv_heads % size or config.ffn_dim % size:
        raise RequestError(
            f"{config.n_kv_heads} kv heads and ffn_dim {config.ffn_dim} do not divide by tp {size}"
        )
    plan: dict[str, Any] = {
        **{f"attention.{name}": ColwiseParallel() for name in ("wq", "wk", "wv")},
        **{f"feed_forward.{name}": ColwiseParallel() for name in ("w1", "w3")},
        "attention.wo": RowwiseParallel(),
        "feed_forward.w2": RowwiseParallel(),
    }
    for block in model.layers:
        assert isinstance(block, Block)
        parallelize_module(block, mesh, plan)
        block.attention.n_heads //= size
        block.attention.n_kv_heads //= size


@dataclass(frozen=True, slots=True)
class DryRun:
    """What one rank of a layout holds.

    Attributes:
        parameters: elements of this rank's shards.
        whole: elements of the model.
        state_bytes: weights, gradients, masters and two moments of the shards, float32.
    """

    ranks: int
    parameters: int
    whole: int
    state_bytes: int


def dry_run(config: ModelConfig, profile: Profile) -> DryRun:
    """Cut a model over a pretended mesh, in this process, without memory or network.

    Raises RequestError for a layout that cannot be: that is what it is for.
    """
    from torch.testing._internal.distributed.fake_pg import FakeStore

    if dist.is_initialized():
        raise RequestError("a dry run needs a process without torch.distributed")
    ranks = math.prod(count for _, count in profile.mesh)
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=ranks)
    try:
        with torch.device("meta"):
            module = PackedLoss(Llama(config))
        on_cpu = Profile(name=profile.name, mesh=profile.mesh, dtype=profile.dtype)
        shard(module, build_mesh(on_cpu), on_cpu)
        own = sum(_local_elements(p) for p in module.parameters())
    finally:
        dist.destroy_process_group()
    return DryRun(ranks, own, config.n_parameters, 16 * own)


def _local_elements(parameter: Tensor) -> int:
    local = getattr(parameter, "_local_tensor", parameter)
    return int(local.numel())
