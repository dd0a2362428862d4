"""Tensors of which every process may hold a shard, made whole and cut again. Every process must
ask, in the same order; a tensor that is no shard is left as it is.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

__all__ = ["like", "unshard", "whole"]


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
