"""Training speed and memory: ours beside a plain PyTorch loop and Hugging Face's Trainer.

    python benchmarks/training.py [--steps 4] [--method full|lora]

The same shape (SmolLM2-135M, random weights), rows (2 × 1,024 tokens, four documents each), types
(float32 weights, products in bfloat16 where the processor has instructions for it) and optimizer
(AdamW, one step a batch). Every contestant runs in a process of its own, one after the other, and
around in the other order; reported is the median of all steps but each process's first. Peers see
the rows as one text each, without document masks, as they pack by default: that is less attention
work to keep apart, and more of it to compute.

Every contestant also runs compiled by torch.compile (the peers their whole model, we what is
element-wise), unless --no-compile; the first step, which compiles, is not counted.

Needs transformers, accelerate and, for LoRA, peft for the peers; those not installed are left out
and named.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from codellama.bench.machine import processor

ROWS, LENGTH, DOCUMENT = 2, 1024, 256
CONTESTANTS = ("ours", "plain loop", "HF Trainer")
COMPILED = ", compiled"


def brief() -> bool:
    """Whether products are in bfloat16, ours and the peers' alike."""
    import torch

    from codellama.specialize.recipe import Profile
    from codellama.specialize.speed import compute_dtype

    return compute_dtype(Profile()) is torch.bfloat16


def tokens(step: int) -> Any:
    import torch

    generator = torch.Generator().manual_seed(step)
    return torch.randint(20, 49_000, (ROWS, LENGTH), generator=generator)


def ours(steps: int, method: str, compiled: bool) -> list[float]:
    import numpy as np
    import torch

    from codellama.model.config import PUBLISHED
    from codellama.model.llama import Llama
    from codellama.specialize.base import Base
    from codellama.specialize.dataset import Dataset
    from codellama.specialize.pack import Plan
    from codellama.specialize.recipe import Lora, Optimizer, Profile, Recipe
    from codellama.specialize.trainer import Trainer

    model = Llama(PUBLISHED["smollm2:135m"])
    model.init_weights(torch.Generator().manual_seed(0))
    flat = np.concatenate([tokens(s).flatten().numpy() for s in range(steps)]).astype(np.uint32)
    starts = np.arange(0, len(flat), DOCUMENT)
    count = len(starts)
    plan = Plan(np.arange(count), np.arange(0, count + 1, LENGTH // DOCUMENT))
    data = Dataset(
        plan, flat, np.ones(len(flat), np.float16), np.stack([starts, starts + DOCUMENT], 1),
        ["d"] * count, 0.0, {},
    )  # fmt: skip
    recipe = Recipe(
        name="speed", tokens=len(flat), batch_tokens=ROWS * LENGTH, sequence=LENGTH,
        mix=(("code", 1.0),), optimizer=Optimizer(learning_rate=1e-4),
        lora=Lora() if method == "lora" else None,
    )  # fmt: skip
    seconds: list[float] = []
    source: Any = SimpleNamespace(tensor=None)
    base = Base(model, None, source, (), None)  # type: ignore[arg-type]
    run = Trainer(
        base, recipe, Profile(micro_rows=ROWS, compile=compiled), data, None,
        on_step=lambda record: seconds.append(record.seconds),
    )  # fmt: skip
    run.train()
    return seconds


def peer_model(method: str) -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=49_152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30,
            num_attention_heads=9, num_key_value_heads=3, tie_word_embeddings=True,
        )
    )  # fmt: skip
    if method == "lora":
        from peft import LoraConfig, get_peft_model

        targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
        return get_peft_model(model, LoraConfig(r=32, lora_alpha=32, target_modules=targets))
    return model


def plain_loop(steps: int, method: str, compiled: bool) -> list[float]:
    import torch

    model = peer_model(method)
    run = torch.compile(model) if compiled else model
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=True)
    seconds, autocast = [], brief()
    for step in range(steps):
        began = time.monotonic()
        ids = tokens(step)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = run(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.monotonic() - began)
    return seconds


def hf_trainer(steps: int, method: str, compiled: bool) -> list[float]:
    from transformers import Trainer, TrainerCallback, TrainingArguments

    marks: list[float] = []

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            marks.append(time.monotonic())

        def on_step_end(self, *_: Any, **__: Any) -> None:
            marks.append(time.monotonic())

    rows = [{"input_ids": row, "labels": row} for s in range(steps) for row in tokens(s)]
    arguments = TrainingArguments(
        "/tmp/codellama-bench-trainer", per_device_train_batch_size=ROWS, max_steps=steps,
        use_cpu=True, bf16=brief(), report_to=[], save_strategy="no", optim="adamw_torch_fused",
        disable_tqdm=True, dataloader_pin_memory=False, torch_compile=compiled,
    )  # fmt: skip
    Trainer(peer_model(method), arguments, train_dataset=rows, callbacks=[Clock()]).train()
    return [b - a for a, b in zip(marks[::2], marks[1::2], strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--method", choices=("full", "lora"), default="full")
    parser.add_argument("--turns", type=int, default=2, help="of all contestants, in either order")
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--only-compiled", action="store_true", help="the faster half of them")
    parser.add_argument("--out", default="", help="name of the result files; none: print only")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        name, _, compiled = options.only.partition(COMPILED[0])
        run = dict(zip(CONTESTANTS, (ours, plain_loop, hf_trainer), strict=True))[name]
        seconds = run(options.steps, options.method, bool(compiled))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        print(json.dumps({"seconds": seconds, "peak_gb": peak}))
        return
    plain = () if options.only_compiled else CONTESTANTS
    names = [*plain, *(() if options.no_compile else (n + COMPILED for n in CONTESTANTS))]
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for turn in range(options.turns):
        for name in names if turn == 0 else names[::-1]:
            command = [sys.executable, __file__, "--only", name, "--method", options.method]
            done = subprocess.run(
                [*command, "--steps", str(options.steps)], capture_output=True, text=True
            )
            if done.returncode:
                print(f"{name}: left out: {done.stderr.strip().splitlines()[-1]}")
                continue
            found[name].append(json.loads(done.stdout.splitlines()[-1]))
    report({name: runs for name, runs in found.items() if runs}, options)


def report(found: dict[str, list[dict[str, Any]]], options: argparse.Namespace) -> None:
    """The table, to the terminal and, if asked, into a dated result file."""
    lines = [f"| {options.method} | tokens/s | ours is | peak, GB |", "| --- | --- | --- | --- |"]
    speeds = {
        name: ROWS * LENGTH / statistics.median(s for run in runs for s in run["seconds"][1:])
        for name, runs in found.items()
    }
    best = max(speed for name, speed in speeds.items() if name.startswith("ours"))
    for name, runs in found.items():
        peak = max(run["peak_gb"] for run in runs)
        lines.append(f"| {name} | {speeds[name]:.0f} | {best / speeds[name]:.2f}× | {peak:.2f} |")
    print("\n".join(lines))
    if not options.out:
        return
    versions = {n: version(n) for n in ("torch", "transformers", "accelerate", "peft")}
    stamp = datetime.now(UTC).strftime("%Y-%m-%d")
    path = Path(__file__).parent / "results" / f"{stamp}-{options.out}"
    head = [
        f"# {options.out}, {stamp}", "", f"- {processor()}",
        f"- {', '.join(f'{n} {v}' for n, v in versions.items())}",
        f"- python benchmarks/training.py --method {options.method} --steps {options.steps}"
        f" --turns {options.turns}{' --only-compiled' * options.only_compiled}", "",
    ]  # fmt: skip
    path.with_suffix(".md").write_text("\n".join([*head, *lines, ""]))
    path.with_suffix(".json").write_text(json.dumps({"versions": versions, "runs": found}) + "\n")


if __name__ == "__main__":
    main()
