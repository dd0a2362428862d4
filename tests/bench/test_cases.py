"""Cases by their names, and what they cost at least."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codellama.bench.cases import Case, default_cases, parse_cases
from codellama.bench.limits import Cost, Limits, Workload
from codellama.errors import RequestError
from codellama.model.config import PUBLISHED

SMOL = PUBLISHED["smollm2:135m"]
SEVEN = PUBLISHED["codellama:7b-code"]


@given(
    st.sampled_from(("pp", "tg")), st.integers(1, 9999), st.integers(0, 9999), st.integers(1, 99)
)
def test_a_label_is_read_as_what_it_names(kind: str, tokens: int, depth: int, n: int) -> None:
    case = Case(kind, tokens, depth, n if kind == "tg" else 1)  # type: ignore[arg-type]
    assert Case.parse(case.label) == case


@pytest.mark.parametrize("text", ["", "pp", "pp0", "tg1.5", "pp5x2", "answer5@d3", "PP5", "tg4x0"])
def test_no_case(text: str) -> None:
    with pytest.raises(RequestError, match="is no case"):
        Case.parse(text)


def test_lists_keep_their_order_and_repeat_nothing() -> None:
    assert [c.label for c in parse_cases("tg8, pp4,tg8")] == ["tg8", "pp4"]


def test_defaults_fit_the_context() -> None:
    assert all(case.length <= 512 for case in default_cases(512))
    assert any(case.depth for case in default_cases(8192))
    assert any(case.sequences == 16 for case in default_cases(8192))


def test_a_prompt_costs_two_operations_a_weight_and_its_attention() -> None:
    cost = Workload(SEVEN, weight_bytes=3_800_000_000).cost(Case("pp", 2))
    matrices = SEVEN.n_parameters - 2 * SEVEN.vocab_size * SEVEN.dim
    matrices -= (2 * SEVEN.n_layers + 1) * SEVEN.dim  # norms
    attention = 4 * SEVEN.n_layers * SEVEN.n_heads * SEVEN.head_dim * 3  # pairs: 1 + 2
    assert cost.ops == 2 * (2 * matrices + SEVEN.vocab_size * SEVEN.dim) + attention
    assert cost.bytes == 3_800_000_000


def test_a_token_reads_the_weights_and_what_came_before() -> None:
    load = Workload(SMOL, weight_bytes=90_000_000)
    cost = load.cost(Case("tg", 2, depth=1000))
    assert cost.bytes == 2 * 90_000_000 + SMOL.kv_bytes(1000 + 1001)
    together = load.cost(Case("tg", 2, depth=1000, sequences=4))
    assert together.bytes == 2 * 90_000_000 + 4 * SMOL.kv_bytes(1000 + 1001)
    assert together.ops == 4 * cost.ops
    small = Workload(SMOL, weight_bytes=90_000_000, kv_type="q8_0")
    read = small.cost(Case("tg", 2, depth=1000)).bytes - 2 * 90_000_000
    assert read == SMOL.kv_bytes(1000 + 1001, "q8_0") == SMOL.kv_bytes(1000 + 1001) * 68 // 128


def test_the_slower_of_memory_and_multiplication_bounds() -> None:
    limits = Limits(bandwidth=10.0, peak=100.0)
    assert limits.rate(Cost(bytes=20, ops=100, tokens=4)) == 2.0
    assert limits.bound(Cost(bytes=20, ops=100, tokens=4)) == "memory"
    assert limits.rate(Cost(bytes=20, ops=400, tokens=4)) == 1.0
    assert limits.bound(Cost(bytes=20, ops=400, tokens=4)) == "int8"
