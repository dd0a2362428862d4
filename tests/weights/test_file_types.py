"""Mixtures: the counts that llama.cpp prints for its own files."""

from __future__ import annotations

from collections import Counter

import pytest

from codellama.errors import RequestError
from codellama.model.config import PUBLISHED, ModelConfig
from codellama.weights.checkpoint import Layout, expected_shapes
from codellama.weights.file_types import (
    DEFAULT_TYPE,
    FILE_TYPES,
    WRITABLE,
    canonical,
    file_type_name,
    plan_types,
)
from codellama.weights.tensor import GGMLType


def plan(name: str, config: ModelConfig) -> dict[str, GGMLType]:
    shapes = expected_shapes(config)
    return plan_types(name, config, {n: Layout(s, GGMLType.F16) for n, s in shapes.items()})


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("F16", {"F32": 65, "F16": 226}),
        ("Q4_0", {"F32": 65, "Q4_0": 225, "Q6_K": 1}),
        ("Q8_0", {"F32": 65, "Q8_0": 226}),
        ("Q4_K_S", {"F32": 65, "Q4_K": 217, "Q5_K": 8, "Q6_K": 1}),
        ("Q4_K_M", {"F32": 65, "Q4_K": 193, "Q6_K": 33}),
        ("Q5_K_S", {"F32": 65, "Q5_K": 225, "Q6_K": 1}),
        ("Q5_K_M", {"F32": 65, "Q5_K": 193, "Q6_K": 33}),
        ("Q6_K", {"F32": 65, "Q6_K": 226}),
    ],
)
def test_7b_files_have_the_types_that_llama_cpp_reports(name: str, counts: dict[str, int]) -> None:
    types = plan(name, PUBLISHED["codellama:7b-code"])
    assert Counter(type.name for type in types.values()) == counts


def test_value_heads_of_the_70b_get_more_bits() -> None:
    types = plan("Q4_K_M", PUBLISHED["codellama:70b-code"])
    wv = Counter(type.name for name, type in types.items() if name.endswith("wv.weight"))
    assert wv == {"Q6_K": 40, "Q5_K": 40}


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        # Rows of 576 do not divide into blocks of 256; rows of 1536 (w2) do.
        ("Q4_K_M", {"F32": 61, "Q5_0": 166, "Q8_0": 15, "Q4_K": 16, "Q6_K": 14}),
        ("Q4_K_S", {"F32": 61, "Q5_0": 176, "Q8_0": 1, "Q4_K": 27, "Q5_1": 4, "Q5_K": 3}),
        ("Q5_K_M", {"F32": 61, "Q5_1": 166, "Q8_0": 15, "Q5_K": 16, "Q6_K": 14}),
        ("Q4_0", {"F32": 61, "Q4_0": 210, "Q8_0": 1}),
        ("Q6_K", {"F32": 61, "Q8_0": 181, "Q6_K": 30}),
    ],
)
def test_rows_that_do_not_divide_fall_back(name: str, counts: dict[str, int]) -> None:
    """As `llama-quantize --dry-run` reports for SmolLM2."""
    types = plan(name, PUBLISHED["smollm2:135m"])
    assert Counter(type.name for type in types.values()) == counts


def test_names() -> None:
    assert canonical("q4_k") == "Q4_K_M" and canonical("Q4_0") == "Q4_0"
    with pytest.raises(RequestError, match=r"'Q2_K'; known types: F32, F16, BF16, Q4_0"):
        canonical("Q2_K")
    assert all(canonical(name) in FILE_TYPES for name in WRITABLE)
    assert DEFAULT_TYPE["Q4_K_S"] == GGMLType.Q4_K and DEFAULT_TYPE["BF16"] == GGMLType.BF16
    assert file_type_name(15) == "Q4_K_M"
    assert file_type_name(999) is None and file_type_name(None) is None
