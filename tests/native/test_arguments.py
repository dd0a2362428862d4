"""What the engine refuses: before anything is computed, in words, with its state as it was."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import codellama.native._native as _native
from codellama.native import NativeModel, Shape

SHAPE = Shape(
    dim=32, n_layers=1, n_heads=2, n_kv_heads=1, head_dim=16, ffn_dim=32, vocab_size=20,
    norm_eps=1e-5, rope_theta=1e4,
)  # fmt: skip
MATRICES = {
    "tok_embeddings.weight": (20, 32),
    "layers.0.attention.wq.weight": (32, 32),
    "layers.0.attention.wk.weight": (16, 32),
    "layers.0.attention.wv.weight": (16, 32),
    "layers.0.attention.wo.weight": (32, 32),
    "layers.0.feed_forward.w1.weight": (32, 32),
    "layers.0.feed_forward.w2.weight": (32, 32),
    "layers.0.feed_forward.w3.weight": (32, 32),
}
SIZES = ("dim", "n_layers", "n_heads", "n_kv_heads", "head_dim", "ffn_dim", "vocab_size")
NORMS = ("layers.0.attention_norm.weight", "layers.0.ffn_norm.weight", "norm.weight")


def matrix_bytes(shape: tuple[int, int]) -> np.ndarray:
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    return values.reshape(-1).view(np.uint8)


def loaded(*, without: str = "", shape: Shape = SHAPE) -> NativeModel:
    """A model with every tensor added but one, not finished."""
    model = NativeModel(shape, n_threads=2)
    for name, size in MATRICES.items():
        if name != without:
            model.add_matrix(name, 0, size, matrix_bytes(size))
    for name in NORMS:
        if name != without:
            model.add_norm(name, np.ones(32, np.float32))
    return model


def logits(model: NativeModel) -> np.ndarray:
    """After one token."""
    model.finish()
    model.allocate_cache(1)
    zero, one = np.zeros(1, np.int32), np.array([0, 1], np.int32)
    return model.step(zero, one, zero, zero[None], zero)


@pytest.fixture
def model() -> NativeModel:
    model = loaded()
    model.finish()
    model.allocate_cache(4)
    return model


def step(**changes: Any) -> dict[str, Any]:
    arguments = {
        "tokens_T": np.array([1, 2], np.int32),
        "starts_S1": np.array([0, 2], np.int32),
        "past_S": np.array([0], np.int32),
        "blocks_SB": np.array([[0]], np.int32),
        "rows_R": np.array([1], np.int32),
    }
    return arguments | changes


def int32(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


@pytest.mark.parametrize(
    "change",
    [
        {"out": np.zeros((1, 20), np.float64)},
        {"out": np.zeros((1, 40), np.float32)[:, ::2]},
        {"out": np.zeros(20, np.float32)},
        {"tokens_T": np.array([2**32 + 1, 2])},
        {"tokens_T": np.array([1.5, 2.0])},
        {"rows_R": np.zeros((1, 1), np.int32)},
    ],
    ids=["float64 out", "strided out", "flat out", "int64 tokens", "float tokens", "2-d rows"],
)
def test_arrays_are_never_converted(model: NativeModel, change: dict[str, Any]) -> None:
    """A converted output would be a copy that nobody reads; a converted token id would wrap."""
    with pytest.raises(TypeError):
        model.step(**step(**change))


def test_a_read_only_output_is_refused(model: NativeModel) -> None:
    out = np.zeros((1, 20), np.float32)
    out.flags.writeable = False
    with pytest.raises(TypeError):
        model.step(**step(out=out))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"tokens_T": int32(20, 2)}, "outside the vocabulary"),
        ({"tokens_T": int32(1, -1)}, "outside the vocabulary"),
        ({"tokens_T": int32(), "starts_S1": int32(0, 0)}, "empty step"),
        ({"starts_S1": int32(0, 3)}, "do not cover"),
        ({"starts_S1": int32(1, 2)}, "do not cover"),
        ({"starts_S1": int32(0, 2, 2)}, "one entry more"),
        ({"past_S": int32(-1)}, "negative past"),
        ({"past_S": int32(15)}, "too short"),
        ({"past_S": int32(2**31 - 1)}, "too short"),
        ({"blocks_SB": np.zeros((2, 1), np.int32)}, "one block table"),
        ({"blocks_SB": int32(4)[None]}, "block 4 does not exist"),
        ({"blocks_SB": int32(-1)[None]}, "block -1 does not exist"),
        ({"rows_R": int32(2)}, "outside the step"),
        ({"rows_R": int32(-1)}, "outside the step"),
        ({"rows_R": int32(0, 0, 1)}, "more rows"),
        ({"out": np.zeros((2, 20), np.float32)}, "rows, vocabulary"),
        ({"out": np.zeros((1, 20), np.float32), "hidden": True}, "hidden states"),
    ],
    ids=str,
)
def test_impossible_steps_are_refused(
    model: NativeModel, change: dict[str, Any], message: str
) -> None:
    before = model.step(**step())
    out = change.get("out", np.full((len(step(**change)["rows_R"]), 20), 7.0, np.float32))
    with pytest.raises(ValueError, match=message):
        model.step(**step(**change) | {"out": out})
    if "out" not in change:
        assert (out == 7.0).all()
    np.testing.assert_array_equal(model.step(**step()), before)


@pytest.mark.parametrize("edges", [(0, -(2**31), 2), (0, 2, 2), (0, 3, 2)], ids=str)
def test_sequences_of_no_or_negative_length_are_refused(
    model: NativeModel, edges: tuple[int, ...]
) -> None:
    change = {"past_S": int32(0, 0), "blocks_SB": np.array([[0], [1]], np.int32)}
    with pytest.raises(ValueError, match=r"sequence without tokens|too short"):
        model.step(**step(starts_S1=int32(*edges), **change))


def test_no_rows_wanted_computes_the_cache_alone(model: NativeModel) -> None:
    assert model.step(**step(rows_R=int32())).shape == (0, 20)
    whole = model.step(
        **step(
            tokens_T=int32(1, 2, 3), starts_S1=int32(0, 3), rows_R=int32(2),
            blocks_SB=int32(1)[None],
        )
    )  # fmt: skip
    last = step(tokens_T=int32(3), starts_S1=int32(0, 1), past_S=int32(2), rows_R=int32(0))
    np.testing.assert_array_equal(model.step(**last), whole)


@pytest.mark.parametrize("without", [*MATRICES, *NORMS])
def test_a_missing_tensor_is_named_and_nothing_runs(without: str) -> None:
    model = loaded(without=without)
    model.allocate_cache(4)
    with pytest.raises(ValueError, match="check_complete comes first"):
        model.step(**step())
    with pytest.raises(ValueError, match=r"missing|is 0 x 0"):
        model.finish()
    with pytest.raises(ValueError, match="check_complete comes first"):
        model.step(**step())


def test_a_tensor_of_another_shape_is_refused_even_late(model: NativeModel) -> None:
    model.add_matrix("layers.0.attention.wq.weight", 0, (16, 32), matrix_bytes((16, 32)))
    with pytest.raises(ValueError, match="check_complete comes first"):
        model.step(**step())
    with pytest.raises(ValueError, match="wq is 16 x 32, 32 x 32 expected"):
        model.finish()


def test_a_cache_that_does_not_fit_leaves_none(model: NativeModel) -> None:
    """2^31 blocks of 2 KB: more than any address space left open for one allocation."""
    wide = loaded(shape=SHAPE)
    wide.finish()
    wide.allocate_cache(4)
    try:
        wide.allocate_cache(2**31 - 1)
    except MemoryError:
        assert wide.n_blocks == 0
        with pytest.raises(ValueError, match="allocate_cache comes first"):
            wide.step(**step())
    with pytest.raises(ValueError, match="at least one block"):
        model.allocate_cache(0)
    for source, target in [(0, 4), (4, 0), (-1, 0), (0, -1)]:
        with pytest.raises(ValueError, match="no such block"):
            model.copy_block(source, target)


@pytest.mark.parametrize(
    "change",
    [
        *({name: 0} for name in SIZES), *({name: -2} for name in SIZES),
        {"head_dim": 15}, {"head_dim": 258}, {"n_heads": 3, "n_kv_heads": 2},
        {"rope_theta": 0.0}, {"rope_theta": float("nan")}, {"rope_factor": 0.0},
        {"norm_eps": -1.0}, {"norm_eps": float("inf")},
    ],
    ids=str,
)  # fmt: skip
def test_impossible_models_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        NativeModel(replace(SHAPE, **change), n_threads=1)


@pytest.mark.parametrize(
    "name",
    [
        "wq", "layers", "layers.0", "layers.0.weight", "layers.x.attention.wq.weight",
        "layers.-1.attention.wq.weight", "layers.1.attention.wq.weight",
        "layers.9999999.attention.wq.weight", "layers.0.attention.wq", "nonsense.weight", "",
    ],
)  # fmt: skip
def test_unknown_names_are_refused(name: str) -> None:
    model = NativeModel(SHAPE, n_threads=1)
    with pytest.raises(ValueError):
        model.add_matrix(name, 0, (32, 32), matrix_bytes((32, 32)))
    with pytest.raises(ValueError):
        model.add_norm(name, np.ones(32, np.float32))


@pytest.mark.parametrize(
    "type_number, shape, n_bytes, message",
    [
        (0, (32, 32), 4095, "4095 bytes, 4096 expected"),
        (0, (2**31 - 1, 2**30), 4096, "expected"),
        (0, (-5, 32), 4096, "does not divide"),
        (2, (32, 33), 4096, "does not divide"),
        (12, (32, 32), 4096, "blocks of 256"),
        (9, (32, 32), 4096, "storage type 9"),
        (-1, (32, 32), 4096, "storage type -1"),
        (0, (32, 32, 1), 4096, "two dimensions"),
    ],
)
def test_matrices_that_cannot_be_are_refused(
    type_number: int, shape: tuple[int, ...], n_bytes: int, message: str
) -> None:
    """Also a huge one: its bytes are counted before memory is taken."""
    model = NativeModel(SHAPE, n_threads=1)
    with pytest.raises(ValueError, match=message):
        name = "layers.0.attention.wq.weight"
        model.add_matrix(name, type_number, shape, np.zeros(n_bytes, np.uint8))


def test_matrices_packed_together_are_those_packed_one_by_one() -> None:
    together, one_by_one = loaded(), loaded()
    for name, size in MATRICES.items():
        together.note_matrix(name, 0, size, matrix_bytes(size)[::-1].copy() // 2)
        one_by_one.add_matrix(name, 0, size, matrix_bytes(size)[::-1].copy() // 2)
    together.pack()
    rows = [logits(model) for model in (together, one_by_one)]
    np.testing.assert_array_equal(*rows)
    assert not np.array_equal(rows[0], logits(loaded()))


def test_one_bad_matrix_of_several_is_named_and_none_is_kept() -> None:
    model, untouched = loaded(), loaded()
    for name, size in MATRICES.items():
        data = np.ones(size, np.float32)
        if name.endswith("wo.weight"):
            data[3, 5] = np.nan
        model.note_matrix(name, 0, size, data.reshape(-1).view(np.uint8))
    with pytest.raises(ValueError, match=r"layers\.0\.attention\.wo\.weight: .*NaN"):
        model.pack()
    np.testing.assert_array_equal(logits(model), logits(untouched))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_norms_and_factors_are_checked(bad: float) -> None:
    model = NativeModel(SHAPE, n_threads=1)
    with pytest.raises(ValueError, match="NaN"):
        model.add_norm("norm.weight", np.array([bad] + [1.0] * 31, np.float32))
    with pytest.raises(ValueError, match="31 values, dim is 32"):
        model.add_norm("norm.weight", np.ones(31, np.float32))
    with pytest.raises(ValueError, match="positive"):
        model.set_rope_frequency_factors(np.array([bad] + [1.0] * 7, np.float32))
    with pytest.raises(ValueError, match="one rope factor per pair"):
        model.set_rope_frequency_factors(np.ones(9, np.float32))


def test_single_kernels_check_their_arrays() -> None:
    ones = np.ones(32, np.float32)
    with pytest.raises(TypeError):
        _native.rms_norm(ones, ones, 1e-5, np.empty(32, np.float64), "portable")
    with pytest.raises(ValueError, match="lengths"):
        _native.rms_norm(ones, ones, 1e-5, np.empty(31, np.float32), "portable")
    with pytest.raises(ValueError, match="lengths"):
        _native.silu_mul(ones.copy(), np.ones(31, np.float32), "portable")
    with pytest.raises(ValueError, match="lengths"):
        _native.quantize(ones, np.empty(32, np.int8), np.empty(2, np.float32), "portable")
    packed = _native.pack(0, 32, 32, matrix_bytes((32, 32)))
    with pytest.raises(ValueError, match="shapes"):
        x = np.ones((1, 31), np.float32)
        _native.matmul(packed, x, np.empty((1, 32), np.float32), "portable", 0)
    with pytest.raises(ValueError, match="another shape"):
        _native.unpack(packed, np.empty((32, 31), np.float32))
