"""Past one device: a mesh, sharded weights (FSDP2), tensor and context parallelism, sharded
checkpoints, and a dry run of a large layout on one machine.

A plain torch.distributed program: torchrun, Slurm, Kubernetes or Ray Train start the same entry
point, and torch's own parts do the work. What is ours is the glue: which matrices are cut which
way, and context parallelism by gathering keys and values, which runs on every backend (torch's ring
attention has no sharding rule for CPU tensors in 2.13).

Every rank reads the same global plan and takes rows rank, rank + size, … of a step; the loss is
divided by the weights of the whole batch, so the number of ranks changes nothing but speed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed import checkpoint as dcp
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)

from codellama.errors import RequestError
from codellama.model.config import ModelConfig
from codellama.model.llama import Block, Llama
from codellama.specialize.forward import PackedLoss
from codellama.specialize.recipe import Profile
from codellama.specialize.speed import compute_dtype

__all__ = [
    "DryRun", "build_mesh", "dry_run", "gathered_attention", "load_sharded", "save_sharded",
    "shard",
]  # fmt: skip


def build_mesh(profile: Profile) -> DeviceMesh:
    """The profile's mesh over all ranks; torch.distributed must be initialized.

    Raises RequestError when its size is not the number of ranks.
    """
    axes = profile.mesh or (("dp", dist.get_world_size()),)
    size = 1
    for _, count in axes:
        size *= count
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
    """Cut the model over the mesh, in place: "tp" splits heads and ffn_dim, "dp" shards all weights
    and gradients layer by layer.

    Raises RequestError when heads do not divide.
    """
    names = mesh.mesh_dim_names or ()
    if "tp" in names:
        _split_layers(module.model, mesh["tp"])
    if "dp" in names:
        policy = MixedPrecisionPolicy(
            param_dtype=torch.bfloat16 if compute_dtype(profile) == torch.bfloat16 else None,
            reduce_dtype=torch.float32,
        )
        for block in module.model.layers:
            fully_shard(block, mesh=mesh["dp"], mp_policy=policy)
        fully_shard(module, mesh=mesh["dp"], mp_policy=policy)


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


class _Gather(torch.autograd.Function):
    """All ranks' chunks joined along dim 1; the gradient of a chunk is summed over the ranks."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any) -> Tensor:
        ctx.group = group
        parts = [torch.empty_like(x) for _ in range(dist.get_world_size(group))]
        dist.all_gather(parts, x.contiguous(), group=group)
        return torch.cat(parts, 1)

    @staticmethod
    def backward(ctx: Any, *slopes: Any) -> tuple[Tensor, None]:
        (slope,) = slopes
        size, rank = dist.get_world_size(ctx.group), dist.get_rank(ctx.group)
        total = slope.contiguous()
        dist.all_reduce(total, group=ctx.group)
        return total.chunk(size, 1)[rank].contiguous(), None


def gathered_attention(
    q_1CNH: Tensor, k_1CKH: Tensor, v_1CKH: Tensor, lengths: Sequence[int], group: Any
) -> Tensor:
    """Causal attention inside pieces for this rank's C tokens of a row cut over the ranks.

    Every rank holds an equal, contiguous chunk; keys and values are gathered, queries stay. Memory
    of a layer's keys and values is that of the whole row, of everything else a rank's share.

    Args:
        lengths: of the pieces of the whole row; they add up to C · ranks.

    Returns:
        [1, C, N, H].
    """
    rank, own = dist.get_rank(group), q_1CNH.shape[1]
    k_1TKH: Tensor = _Gather.apply(k_1CKH, group)  # type: ignore[no-untyped-call]
    v_1TKH: Tensor = _Gather.apply(v_1CKH, group)  # type: ignore[no-untyped-call]
    grouped = q_1CNH.shape[2] != k_1TKH.shape[2]
    low, high = rank * own, (rank + 1) * own
    outs, start = [], 0
    for length in lengths:
        begin, end = max(start, low), min(start + length, high)
        if begin < end:
            q = q_1CNH[:, begin - low : end - low]
            k, v = k_1TKH[:, start:end], v_1TKH[:, start:end]
            rows = torch.arange(begin - start, end - start, device=q.device)
            seen = rows[:, None] >= torch.arange(end - start, device=q.device)
            out = F.scaled_dot_product_attention(
                q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2),
                attn_mask=seen, enable_gqa=grouped,
            )  # fmt: skip
            outs.append(out.transpose(1, 2))
        start += length
    return torch.cat(outs, 1)


def save_sharded(folder: Path, module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Every rank writes its shards (torch.distributed.checkpoint)."""
    dcp.save(_state(module, optimizer), checkpoint_id=str(folder))  # type: ignore[attr-defined]


def load_sharded(folder: Path, module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Read a checkpoint of any number of ranks into this one's shards."""
    from torch.distributed.checkpoint.state_dict import set_state_dict

    state = _state(module, optimizer)
    dcp.load(state, checkpoint_id=str(folder))  # type: ignore[attr-defined]
    set_state_dict(
        module, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"]
    )


def _state(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    from torch.distributed.checkpoint.state_dict import get_state_dict

    model, moments = get_state_dict(module, optimizer)
    return {"model": model, "optimizer": moments}


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
    ranks = 1
    for _, count in profile.mesh:
        ranks *= count
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=max(1, ranks))
    try:
        with torch.device("meta"):
            module = PackedLoss(Llama(config))
        on_cpu = Profile(name=profile.name, mesh=profile.mesh, dtype=profile.dtype)
        shard(module, build_mesh(on_cpu), on_cpu)
        own = sum(_local_elements(p) for p in module.parameters())
    finally:
        dist.destroy_process_group()
    return DryRun(max(1, ranks), own, config.n_parameters, 16 * own)


def _local_elements(parameter: Tensor) -> int:
    local = getattr(parameter, "_local_tensor", parameter)
    return int(local.numel())
