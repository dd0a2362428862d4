"""Norms, activations and the exponential on every instruction set, against float64."""

from __future__ import annotations

import numpy as np
import pytest

import codellama.native._native as _native
from codellama.native import available_isas

isas = pytest.mark.parametrize("isa", available_isas())
lengths = pytest.mark.parametrize("n", [1, 7, 16, 33, 576, 4096])


@isas
@lengths
@pytest.mark.parametrize("size", [1e-6, 1.0, 1e6])
def test_rms_norm(isa: str, n: int, size: float) -> None:
    rng = np.random.default_rng(n)
    x = (rng.normal(size=n) * size).astype(np.float32)
    weight, out = rng.normal(size=n).astype(np.float32), np.empty(n, np.float32)
    _native.rms_norm(x, weight, 1e-5, out, isa)
    x64 = x.astype(np.float64)
    np.testing.assert_allclose(out, x64 / np.sqrt((x64**2).mean() + 1e-5) * weight, rtol=2e-6)


@isas
@lengths
def test_silu_times_up(isa: str, n: int) -> None:
    rng = np.random.default_rng(n)
    gate = rng.normal(0, 5, n).astype(np.float32)
    up, out = rng.normal(size=n).astype(np.float32), gate.copy()
    _native.silu_mul(out, up, isa)
    g64 = gate.astype(np.float64)
    np.testing.assert_allclose(out, g64 / (1 + np.exp(-g64)) * up, rtol=1e-6, atol=1e-30)


@isas
def test_the_exponential_over_its_whole_range(isa: str) -> None:
    """Through SiLU: x / silu(x) − 1 is exp(−x), taken where neither addend hides the other."""
    gate = np.linspace(-80, 15, 200_000, dtype=np.float32)
    gate = gate[np.abs(gate) > 1e-3]
    out = gate.copy()
    _native.silu_mul(out, np.ones_like(gate), isa)
    g64 = gate.astype(np.float64)
    np.testing.assert_allclose(out, g64 / (1 + np.exp(-g64)), rtol=4e-7)


@isas
def test_extremes_stay_finite(isa: str) -> None:
    gate = np.array([-1e30, -200, -88, 88, 200, 3e38, 0.0, -0.0], np.float32)
    out = gate.copy()
    _native.silu_mul(out, np.ones_like(gate), isa)
    assert np.isfinite(out).all()
    np.testing.assert_allclose(out[3:6], gate[3:6])
    assert np.abs(out[:3]).max() < 1e-7
