"""The type of products follows the device, unless a profile says which."""

from __future__ import annotations

import pytest
import torch

from codellama.specialize.plan import plan_stage
from codellama.specialize.recipe import Profile
from codellama.specialize.speed import compute_dtype, matmul_peak


@pytest.mark.parametrize(
    ("present", "expected"),
    [
        ({"avx2": True, "avx512_bf16": False, "amx_bf16": False}, torch.float32),
        ({"avx512_f": True, "avx512_bf16": True}, torch.bfloat16),
        ({"amx_bf16": True}, torch.bfloat16),
        ({"neon": True, "bf16": True}, torch.bfloat16),
        ({}, torch.float32),
    ],
)
def test_a_processor_computes_in_what_it_has_instructions_for(
    monkeypatch: pytest.MonkeyPatch, present: dict[str, bool], expected: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: present)
    assert compute_dtype(Profile()) is expected
    assert compute_dtype(Profile(dtype="float32")) is torch.float32
    assert compute_dtype(Profile(dtype="bfloat16")) is torch.bfloat16
    assert compute_dtype(Profile(device="cuda:1")) is torch.bfloat16


def test_a_plan_counts_the_bytes_of_that_type(monkeypatch: pytest.MonkeyPatch) -> None:
    from codellama.model.config import PUBLISHED
    from codellama.specialize.plan import H100
    from codellama.specialize.smol import smol_135m

    def memory(profile: Profile, present: dict[str, bool]) -> float:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: present)
        config = PUBLISHED["smollm2:135m"]
        return plan_stage(config, smol_135m(10_000, "lora"), profile, H100).device_bytes

    wide, brief = memory(Profile(), {}), memory(Profile(), {"amx_bf16": True})
    assert wide == memory(Profile(dtype="float32"), {}) > brief
    assert brief == memory(Profile(dtype="bfloat16"), {})


def test_the_peak_is_a_rate() -> None:
    assert matmul_peak(torch.float32) > 1e8
