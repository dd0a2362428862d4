"""The probes measure something, refuse nonsense, and are matched with kernels by name."""

from __future__ import annotations

import pytest

from codellama.bench.machine import int8_instruction, measure_machine
from codellama.native import available_isas
from codellama.native.probe import peak_instructions, peak_rate, read_bandwidth


def test_rates_are_of_a_computer() -> None:
    """Loose bounds: this finds a probe that was optimized away, or that counts wrongly."""
    assert 1e8 < read_bandwidth(1 << 26, 1, 0.02) < 1e12
    for name in peak_instructions():
        assert 1e9 < peak_rate(name, 1, 0.02) < 1e14, name


def test_wider_instructions_are_faster() -> None:
    rates = {n: max(peak_rate(n, 1, 0.03) for _ in range(5)) for n in peak_instructions()}
    for wide, narrow in (("avx512_vnni", "avx2_int8"), ("amx_int8", "avx512_vnni")):
        if wide in rates and narrow in rates:
            assert rates[wide] > 1.2 * rates[narrow]  # a Zen 4 halves its vectors: 1.6


def test_nonsense() -> None:
    with pytest.raises(ValueError, match="at least one thread"):
        read_bandwidth(1 << 20, 0, 0.01)
    with pytest.raises(ValueError, match="too few bytes"):
        read_bandwidth(100, 1, 0.01)
    with pytest.raises(ValueError, match="no instruction 'abacus'"):
        peak_rate("abacus", 1, 0.01)


def test_machine() -> None:
    heard: list[str] = []
    machine = measure_machine(1, 1 << 22, seconds=0.01, progress=heard.append)
    assert machine.processor
    assert machine.memory > 1 << 30
    assert machine.cached_bandwidth >= machine.bandwidth > 0
    assert list(machine.peaks) == peak_instructions()
    assert heard == ["memory bandwidth", *machine.peaks]


def test_every_instruction_set_but_portable_has_a_peak() -> None:
    """Of those that this machine has; a new set must be named here or judged by memory alone."""
    known = dict.fromkeys(peak_instructions(), 1.0)
    for isa in available_isas():
        assert (int8_instruction(isa, known) is None) == (isa == "portable"), isa
