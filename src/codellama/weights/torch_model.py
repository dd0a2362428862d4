"""Named tensors → the PyTorch forward, dequantized. Alone in weights/ in needing PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch

from codellama.errors import ModelFileError
from codellama.model.config import ModelConfig
from codellama.model.llama import Llama
from codellama.weights.blocks import check_finite, dequantize
from codellama.weights.tensor import Tensor

__all__ = ["load_llama"]

_ROPE_FACTORS = "rope_freqs.weight"


class _Source(Protocol):
    @property
    def config(self) -> ModelConfig: ...
    @property
    def names(self) -> Sequence[str]: ...
    def tensor(self, name: str) -> Tensor: ...


def load_llama(source: _Source, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Llama:
    """The dequantized model on a device. Raises ModelFileError for missing, extra or misshapen
    tensors and for NaN.
    """
    with torch.device("meta"):
        model = Llama(source.config)
    state = {}
    for name in source.names:
        tensor = source.tensor(name)
        check_finite(tensor)
        values = torch.from_numpy(np.array(dequantize(tensor)))
        if name == _ROPE_FACTORS:
            model.rope_factors = values.to(device)
        else:
            state[name] = values.to(device, dtype)
    try:
        model.load_state_dict(state, strict=True, assign=True)
    except RuntimeError as error:
        problem = " ".join(str(error).split())
        raise ModelFileError(f"{source.config.name}: {problem}") from None
    return model.eval().requires_grad_(False)
