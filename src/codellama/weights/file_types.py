"""Names of whole files' quantizations as llama.cpp knows them, and the rules by which its mixtures
give some tensors more bits.

Q4_K_M and its like store most matrices in one type and those that suffer most in a larger one.
`plan_types` decides per tensor, so that a file of ours has the same types as one that llama.cpp
makes without an importance matrix. Knows names and shapes, not data.

Source: llama.cpp at the commit vendored by llama-cpp-python 0.3.36, src/llama-quant.cpp
(llama_tensor_get_type, tensor_type_fallback) and include/llama.h (llama_ftype).
"""

from __future__ import annotations

from collections.abc import Mapping

from codellama.errors import RequestError
from codellama.model.config import ModelConfig
from codellama.weights.checkpoint import Layout
from codellama.weights.tensor import BLOCK_LAYOUT, GGMLType

__all__ = ["DEFAULT_TYPE", "FILE_TYPES", "WRITABLE", "file_type_name", "plan_types"]

_T = GGMLType

FILE_TYPES: dict[str, int] = {
    "F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q8_0": 7, "Q5_0": 8, "Q5_1": 9, "Q2_K": 10,
    "Q3_K_S": 11, "Q3_K_M": 12, "Q3_K_L": 13, "Q4_K_S": 14, "Q4_K_M": 15, "Q5_K_S": 16,
    "Q5_K_M": 17, "Q6_K": 18, "Q2_K_S": 21, "BF16": 32,
}  # fmt: skip
"""general.file_type of each name."""

DEFAULT_TYPE: dict[str, GGMLType] = {
    name: GGMLType[name if name in GGMLType.__members__ else name[:4]] for name in FILE_TYPES
}
"""What most matrices of such a file are stored as."""

WRITABLE: tuple[str, ...] = (
    "F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q4_K_S", "Q4_K_M",
    "Q5_K", "Q5_K_S", "Q5_K_M", "Q6_K",
)  # fmt: skip
"""What `quantize` can make. Q4_K and Q5_K mean the M mixtures, as for llama.cpp."""

_ALIASES = {"Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M"}
_SMALLER_BLOCK = {_T.Q4_K: _T.Q5_0, _T.Q5_K: _T.Q5_1, _T.Q6_K: _T.Q8_0}
_UNQUANTIZED = (_T.F32, _T.F16, _T.BF16)


def file_type_name(number: object) -> str | None:
    """The name of a general.file_type; None for one that is unknown or no number."""
    return next((name for name, value in FILE_TYPES.items() if value == number), None)


def canonical(name: str) -> str:
    """The name of a writable type, whatever its case; Q4_K and Q5_K become their M mixtures.

    Raises:
        RequestError: no type that can be written; all are named.
    """
    upper = name.upper()
    if upper not in WRITABLE:
        raise RequestError(f"cannot quantize to {name!r}; known types: {', '.join(WRITABLE)}")
    return _ALIASES.get(upper, upper)


def plan_types(
    name: str, config: ModelConfig, layouts: Mapping[str, Layout]
) -> dict[str, GGMLType]:
    """The storage type of every tensor in a file quantized as `name` (canonical).

    Vectors (the norms) are F32. Matrices get the default type or more, as llama.cpp decides.
    """
    return {
        tensor: _T.F32 if len(layout.shape) < 2 else _matrix_type(name, tensor, layout, config)
        for tensor, layout in layouts.items()
    }


def _matrix_type(name: str, tensor: str, layout: Layout, config: ModelConfig) -> GGMLType:
    default = DEFAULT_TYPE[name]
    if default in _UNQUANTIZED:
        return default
    columns = layout.shape[-1]
    is_head = tensor == "output.weight" or (config.tied and tensor == "tok_embeddings.weight")
    if is_head:
        return _fitting(_head_type(default, columns), columns)
    if tensor.startswith("layers."):
        _, index, rest = tensor.split(".", 2)
        if rest == "attention.wv.weight":
            return _fitting(_wv_type(name, int(index), config), columns)
        if rest == "feed_forward.w2.weight":
            return _fitting(_w2_type(name, int(index), config.n_layers), columns)
    return _fitting(default, columns)


def _head_type(default: GGMLType, columns: int) -> GGMLType:
    """The output matrix, also when it serves as the embeddings: at least Q6_K."""
    if default == _T.Q8_0 or columns % BLOCK_LAYOUT[default][0]:
        return _T.Q8_0
    return _T.Q6_K


def _wv_type(name: str, layer: int, config: ModelConfig) -> GGMLType:
    chosen = DEFAULT_TYPE[name]
    if name in ("Q4_K_M", "Q5_K_M") and _more_bits(layer, config.n_layers):
        chosen = _T.Q6_K
    elif name == "Q4_K_S" and layer < 4:
        chosen = _T.Q5_K
    # Eight query heads of the 70B share each value head: wv is small there and worth more bits.
    is_70b = config.n_layers == 80 and config.n_heads != config.n_kv_heads
    return _T.Q5_K if is_70b and chosen == _T.Q4_K else chosen


def _w2_type(name: str, layer: int, n_layers: int) -> GGMLType:
    if name in ("Q4_K_M", "Q5_K_M") and _more_bits(layer, n_layers):
        return _T.Q6_K
    if name == "Q4_K_S" and layer < n_layers // 8:
        return _T.Q5_K
    return DEFAULT_TYPE[name]


def _more_bits(layer: int, n_layers: int) -> bool:
    """The first and last eighth, and every third layer between."""
    eighth = n_layers // 8
    return layer < eighth or layer >= 7 * n_layers // 8 or (layer - eighth) % 3 == 2


def _fitting(type: GGMLType, columns: int) -> GGMLType:
    """The type itself, or the next whose blocks divide the row: 256 → 32 → no blocks (F16)."""
    if columns % BLOCK_LAYOUT[type][0] == 0:
        return type
    smaller = _SMALLER_BLOCK.get(type, type)
    return smaller if columns % BLOCK_LAYOUT[smaller][0] == 0 else _T.F16
