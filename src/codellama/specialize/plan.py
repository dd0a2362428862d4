"""What a recipe costs on a machine, before anything is spent: hours, memory, disk, failures.

Formulas of training.md §4.5, which the paper's own 400,000 A100-hours bear out at 48% of peak:

    FLOP a token = 6·N + 6·L·d·s (causal attention); LoRA leaves out the products with ∂W: 4·N.
    checkpoints every √(2·C·M) (Young) lose C/τ + (τ/2 + R)/M, M = machine's mean time to failure.

Estimates, not promises: `peak` and `share` are the machine's, given or measured.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from codellama.model.config import ModelConfig
from codellama.specialize.recipe import Profile, Recipe

__all__ = ["Machine", "StagePlan", "flops_per_token", "plan_stage"]

MTBF_HOURS = 50_700.0
"""Of one GPU: 419 unexpected stops in 16,384 GPUs · 54 days (Llama 3, arXiv 2407.21783 §3.3.4)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Attributes:
    peak: FLOP a second of one device in the profile's type.
    share: of the peak that training reaches.
    devices: how many.
    memory: bytes of one device.
    write: bytes a second to the disk.
    """

    peak: float
    share: float
    devices: int = 1
    memory: float = 80e9
    write: float = 1e9


H100 = Machine(peak=989e12, share=0.40)
"""bf16, dense; 0.40 as reported for dense models of these sizes (training.md §2)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StagePlan:
    """Of one stage. Times in hours, sizes in bytes."""

    name: str
    steps: int
    tokens: int
    tokens_per_second: float
    hours: float
    device_hours: float
    state_bytes: float
    device_bytes: float
    fits: bool
    checkpoint_bytes: float
    disk_bytes: float
    checkpoint_minutes: float
    waste: float


def flops_per_token(config: ModelConfig, recipe: Recipe) -> float:
    """Of forward and backward, without recomputation."""
    products = config.n_parameters
    if config.tied:
        pass  # the shared matrix is multiplied once, as the head
    else:
        products -= config.vocab_size * config.dim  # the embedding is looked up
    attention = 6 * config.n_layers * config.n_heads * config.head_dim * recipe.sequence
    return (4 if recipe.lora else 6) * products + attention


def adapter_parameters(config: ModelConfig, rank: int) -> int:
    """Of LoRA on the seven matrices of every layer."""
    query, kv = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
    sides = [
        (config.dim, query), (config.dim, kv), (config.dim, kv), (query, config.dim),
        *[(config.dim, config.ffn_dim)] * 3,
    ]  # fmt: skip
    return config.n_layers * rank * sum(a + b for a, b in sides)


def _element(profile: Profile) -> int:
    """Bytes of a number in the type of the products."""
    if profile.dtype == "auto" and profile.device == "cpu":
        from codellama.specialize.speed import compute_dtype  # PyTorch, which all else does without

        return compute_dtype(profile).itemsize
    return 4 if profile.dtype == "float32" else 2


def plan_stage(
    config: ModelConfig, recipe: Recipe, profile: Profile, machine: Machine
) -> StagePlan:
    """One stage on `machine.devices` devices over which the state is sharded evenly."""
    speed = machine.devices * machine.peak * machine.share / flops_per_token(config, recipe)
    hours = recipe.tokens / speed / 3600
    trained = adapter_parameters(config, recipe.lora.rank) if recipe.lora else config.n_parameters
    element = _element(profile)
    # Weights and gradients in the compute type; master, its gradient and two moments in float32.
    state = config.n_parameters * element + trained * (element + (16 if element == 2 else 8))
    activations = _activations(config, recipe, profile, element)
    saved = trained * 12.0
    per_device = state / machine.devices + activations
    if profile.device == "cpu":  # a copy of what a checkpoint holds, while it is written
        per_device += saved / machine.devices
    write_hours = saved / machine.devices / machine.write / 3600
    lifetime = MTBF_HOURS / machine.devices
    interval = min(math.sqrt(2 * write_hours * lifetime), max(hours, 1e-9))
    waste = write_hours / interval + (interval / 2 + 0.1) / lifetime  # 6 minutes to start again
    corpus = 4.0 * min(recipe.tokens, 10**12)
    return StagePlan(
        name=recipe.name,
        steps=recipe.steps,
        tokens=recipe.tokens,
        tokens_per_second=speed,
        hours=hours,
        device_hours=hours * machine.devices,
        state_bytes=state,
        device_bytes=per_device,
        fits=per_device < machine.memory,
        checkpoint_bytes=saved,
        disk_bytes=saved * profile.keep + corpus,
        checkpoint_minutes=interval * 60,
        waste=waste,
    )


def _activations(config: ModelConfig, recipe: Recipe, profile: Profile, element: int) -> float:
    """Bytes kept for the backward pass of one micro-batch: per token and layer 14 vectors of dim
    and 4 of ffn_dim (of one layer only with recomputation, plus every layer's input); logits of
    512 rows, of 2,048 where the head is trained, and twice those of 512 in float32.
    """
    tokens = profile.micro_rows * recipe.sequence
    layer = tokens * element * (14 * config.dim + 4 * config.ffn_dim)
    kept = layer + config.n_layers * tokens * element * config.dim
    layers = kept if profile.recompute else config.n_layers * layer
    rows = min(tokens, 512 if recipe.lora else 2048)
    return layers + (rows * element + 2 * 512 * 4.0) * config.vocab_size
