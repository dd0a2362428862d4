"""Where a runner takes its weights from: the part of an open model file that it needs."""

from __future__ import annotations

from typing import Protocol

from codellama.model.config import ModelConfig
from codellama.weights.tensor import Tensor

__all__ = ["TensorSource"]


class TensorSource(Protocol):
    """Shape, names and tensors of a model; weights.load.ModelFile is one."""

    @property
    def config(self) -> ModelConfig: ...
    @property
    def names(self) -> tuple[str, ...]: ...
    def tensor(self, name: str) -> Tensor: ...
