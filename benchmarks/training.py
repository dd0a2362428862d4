"""Training speed and memory: ours beside a plain PyTorch loop and Hugging Face's Trainer.

    python benchmarks/training.py [--steps 4] [--method full|lora]

The same shape (SmolLM2-135M, random weights), rows (2 × 1,024 tokens, four documents each), type
(bfloat16 products, float32 weights) and optimizer (AdamW, one step a batch). Every contestant runs
in a process of its own, one after the other, twice around; reported is the median of all steps but
each process's first. Peers see the rows as one text each, without document masks, as they pack by
default: that is less attention work to keep apart, and more of it to compute.

Needs transformers and accelerate for the peers; those not installed are left out and named.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from types import SimpleNamespace
from typing import Any

ROWS, LENGTH, DOCUMENT = 2, 1024, 256
CONTESTANTS = ("ours", "plain loop", "HF Trainer")


def tokens(step: int) -> Any:
    import torch

    generator = torch.Generator().manual_seed(step)
    return torch.randint(20, 49_000, (ROWS, LENGTH), generator=generator)


def ours(steps: int, method: str) -> list[float]:
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
        base, recipe, Profile(micro_rows=ROWS), data, None,
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


def plain_loop(steps: int, method: str) -> list[float]:
    import torch

    model = peer_model(method)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=True)
    seconds = []
    for step in range(steps):
        began = time.monotonic()
        ids = tokens(step)
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.monotonic() - began)
    return seconds


def hf_trainer(steps: int, method: str) -> list[float]:
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
        use_cpu=True, bf16=True, report_to=[], save_strategy="no", optim="adamw_torch_fused",
        disable_tqdm=True, dataloader_pin_memory=False,
    )  # fmt: skip
    Trainer(peer_model(method), arguments, train_dataset=rows, callbacks=[Clock()]).train()
    return [b - a for a, b in zip(marks[::2], marks[1::2], strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--method", choices=("full", "lora"), default="full")
    parser.add_argument("--only", choices=CONTESTANTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        run = dict(zip(CONTESTANTS, (ours, plain_loop, hf_trainer), strict=True))[options.only]
        seconds = run(options.steps, options.method)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        print(json.dumps({"seconds": seconds, "peak_gb": peak}))
        return
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in CONTESTANTS}
    for _ in range(2):
        for name in CONTESTANTS:
            command = [sys.executable, __file__, "--only", name, "--method", options.method]
            done = subprocess.run(
                [*command, "--steps", str(options.steps)], capture_output=True, text=True
            )
            if done.returncode:
                print(f"{name}: left out: {done.stderr.strip().splitlines()[-1]}")
                continue
            found[name].append(json.loads(done.stdout.splitlines()[-1]))
    for name, runs in found.items():
        if runs:
            seconds = [s for run in runs for s in run["seconds"][1:]]
            speed = ROWS * LENGTH / statistics.median(seconds)
            peak = max(run["peak_gb"] for run in runs)
            print(f"{name:12} {options.method:5} {speed:7.0f} tokens/s   peak {peak:.2f} GB")


if __name__ == "__main__":
    main()
