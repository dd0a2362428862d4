"""Tensors of which every process may hold a shard. A tensor that is no shard is left as it is."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Replicate
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

__all__ = ["is_spare", "local_part", "unshard", "whole"]


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor. Every process must ask, in the same order."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def local_part(tensor: Tensor) -> tuple[Tensor, list[int]]:
    """What this process holds of a tensor, in its own memory, and where in the whole it begins."""
    if not isinstance(tensor, DTensor):
        return tensor, [0] * tensor.dim()
    mesh, placements = tensor.device_mesh, tensor.placements
    _, offset = compute_local_shape_and_global_offset(tensor.shape, mesh, placements)
    return tensor.to_local(), list(offset)


def is_spare(tensor: Tensor, rank: int) -> bool:
    """Whether a process of lower rank holds what this one does."""
    if not isinstance(tensor, DTensor):
        return rank > 0
    mesh = tensor.device_mesh
    if not (mesh.mesh == 0).any():  # one of several that hold the same, and not the first
        return True
    place: Sequence[int] = mesh.get_coordinate() or ()
    return any(
        at > 0 and isinstance(placement, Replicate)
        for at, placement in zip(place, tensor.placements, strict=True)
    )


def unshard(module: nn.Module) -> None:
    """Put whole parameters, in main memory, in the place of shards. Every process must ask. Nothing
    is trained afterwards.
    """
    for owner in module.modules():
        for name, parameter in list(owner.named_parameters(recurse=False)):
            if isinstance(parameter, DTensor):
                full = parameter.full_tensor().detach().cpu()
                owner.register_parameter(name, nn.Parameter(full))
