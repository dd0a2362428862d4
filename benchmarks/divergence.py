"""How far an engine's predictions are from those of the exact model, ours and llama.cpp's alike.

    python benchmarks/divergence.py --model FILE.gguf [--peer PATH/llama-perplexity]
    [--windows 40] [--out benchmarks/results]

The reference is the PyTorch forward in float32 over the file's own weights, dequantized: what the
file means. An engine differs from it by what it rounds (activations, keys and values, sums). Per
predicted token: the Kullback-Leibler divergence KL(reference || engine), in nats, over the tokens
that the reference holds at most 12 nats less likely than its first choice, and all others as one.
Both engines run in their default settings.

Text is CPython's: modules of its standard library, and its language reference as pydoc carries it.
It is cut into windows of 512 tokens from an empty cache; the last 255 predictions of each count, as
in llama-perplexity, whose --save-all-logits file gives both the token ids and the peer's
log-probabilities: in 16 bits over 16 nats, hence the limit of 12. Does not measure speed.
"""

from __future__ import annotations

import argparse
import json
import platform
import pydoc_data.topics
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from codellama import CodeLlama
from codellama.engine.torch_runner import load_llama
from codellama.weights.load import open_model

TEXTS = ("Python", "English")
WINDOW = 512
RANGE = 12  # nats
FIRST = WINDOW // 2  # predictions before it have less context than half a window
MODULES = (
    "argparse", "ast", "asyncio/base_events", "collections/__init__", "configparser", "csv",
    "dataclasses", "datetime", "decimal", "difflib", "fractions", "http/client", "inspect",
    "json/decoder", "logging/__init__", "pathlib", "shutil", "statistics", "tarfile", "zipfile",
)  # fmt: skip
PER_MODULE = 9_000  # characters: many modules rather than one whole

Doubles = torch.Tensor  # float64


@dataclass(frozen=True, slots=True)
class Recorded:
    """One window: its token ids [W], and log-probabilities [P, V] of a peer if there is one."""

    ids: list[int]
    peer_PV: Doubles | None


@dataclass(slots=True)
class Tally:
    """Divergences [P] of one engine per window, whether its first choice is the reference's [P],
    and its negative log-likelihoods of the text [P].
    """

    divergences: list[Doubles] = field(default_factory=list)
    same: list[torch.Tensor] = field(default_factory=list)
    nll: list[Doubles] = field(default_factory=list)

    def summary(self) -> dict[str, float]:
        kl = torch.cat(self.divergences)
        return {
            "tokens": len(kl),
            "mean": kl.mean().item(),
            "standard_error": kl.std().item() / len(kl) ** 0.5,
            "median": kl.median().item(),
            "p99": kl.quantile(0.99).item(),
            "same_choice": torch.cat(self.same).double().mean().item(),
            "perplexity": torch.cat(self.nll).mean().exp().item(),
        }


def texts() -> dict[str, str]:
    """Python and English of CPython, the same on every machine with the same Python."""
    library = Path(sysconfig.get_paths()["stdlib"])
    modules = [(library / f"{name}.py").read_text(encoding="utf-8") for name in MODULES]
    return {
        "Python": "\n".join(text[:PER_MODULE] for text in modules),
        "English": "\n\n".join(pydoc_data.topics.topics.values()),
    }


def windows_of(model: Path, text: str, count: int) -> Iterator[Recorded]:
    """The first windows of a text, with our own tokenizer and no peer."""
    tokenizer = open_model(model).tokenizer()
    ids = tokenizer.encode(text)[: count * WINDOW]
    assert len(ids) == count * WINDOW, f"the text has only {len(ids)} tokens"
    for at in range(0, len(ids), WINDOW):
        first = [tokenizer.bos_id] if tokenizer.add_bos and tokenizer.bos_id is not None else []
        yield Recorded(first + ids[at + len(first) : at + WINDOW], None)


def peer_windows(
    model: Path, text: str, count: int, peer: Path, threads: int
) -> Iterator[Recorded]:
    """The same from llama-perplexity, which tokenizes, runs and records."""
    tokenizer = open_model(model).tokenizer()
    with tempfile.TemporaryDirectory() as folder:
        source, record = Path(folder) / "text.txt", Path(folder) / "logits.bin"
        source.write_text(text, encoding="utf-8")
        command = [str(peer), "-m", str(model), "-f", str(source), "-c", str(WINDOW)]
        command += ["--chunks", str(count), "-t", str(threads), "--save-all-logits", str(record)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        yield from read_record(record, tokenizer.bos_id if tokenizer.add_bos else None)


def read_record(path: Path, bos: int | None) -> Iterator[Recorded]:
    """llama-perplexity's file: magic, window, vocabulary, windows, ids; then per prediction a
    float32 step, a float32 floor and a 16-bit count of steps per token.
    """
    with path.open("rb") as file:
        assert file.read(8) == b"_logits_"
        window, vocab, count = np.frombuffer(file.read(12), np.int32).tolist()
        assert window == WINDOW
        ids_CW = np.frombuffer(file.read(4 * count * window), np.int32).reshape(count, window)
        row = 2 * ((vocab + 1) // 2) + 4
        for ids_W in ids_CW:
            n = WINDOW - 1 - FIRST
            rows = np.frombuffer(file.read(2 * n * row), np.uint16).reshape(n, row)
            step, floor = rows[:, :4].copy().view(np.float32).astype(np.float64).T
            assert (step * 65535 < 16.001).all()
            log_PV = floor[:, None] + step[:, None] * rows[:, 4 : 4 + vocab]
            ids = ids_W.tolist()
            yield Recorded(ids if bos is None else [bos, *ids[1:]], torch.from_numpy(log_PV))


def divergence(exact_PV: Doubles, engine_PV: Doubles) -> Doubles:
    """KL(exact || engine) [P] of log-probabilities, the unlikely tokens taken together."""
    likely_PV = exact_PV > exact_PV.amax(dim=1, keepdim=True) - RANGE
    chance_PV = exact_PV.exp() * likely_PV
    likely_P = (chance_PV * (exact_PV - engine_PV)).sum(dim=1)
    rest_P = 1 - chance_PV.sum(dim=1)
    engine_rest_P = 1 - (engine_PV.exp() * likely_PV).sum(dim=1)
    return likely_P + rest_P * (rest_P / engine_rest_P.clamp(min=1e-9)).log()


def add(tally: Tally, exact_PV: Doubles, engine_PV: Doubles, next_P: torch.Tensor) -> None:
    tally.divergences.append(divergence(exact_PV, engine_PV))
    tally.same.append(exact_PV.argmax(dim=1) == engine_PV.argmax(dim=1))
    tally.nll.append(-engine_PV.gather(1, next_P[:, None])[:, 0])


@torch.inference_mode()
def compare(path: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Both engines against the reference on the texts."""
    exact = load_llama(open_model(path), "cpu", torch.float32)
    llm = CodeLlama.load(path, device="cpu", context=WINDOW, threads=args.threads)
    result: dict[str, Any] = {"model": path.name, "isa": getattr(llm.runner, "isa", "")}
    for kind in args.text:
        text = texts()[kind]
        tallies = {name: Tally() for name in ("float32", "ours", "llama.cpp")}
        if args.peer:
            source = peer_windows(path, text, args.windows, args.peer, args.threads)
        else:
            source = windows_of(path, text, args.windows)
        for index, window in enumerate(source):
            next_P = torch.tensor(window.ids[FIRST + 1 :])
            exact_PV = exact(torch.tensor([window.ids]))[0, FIRST : WINDOW - 1].double()
            exact_PV = exact_PV.log_softmax(dim=1)
            ours_PV = torch.from_numpy(llm.logits(window.ids)[FIRST : WINDOW - 1]).double()
            add(tallies["float32"], exact_PV, exact_PV, next_P)
            add(tallies["ours"], exact_PV, ours_PV.log_softmax(dim=1), next_P)
            if window.peer_PV is not None:
                add(tallies["llama.cpp"], exact_PV, window.peer_PV, next_P)
            print(f"{path.name}, {kind}: {index + 1} of {args.windows}", file=sys.stderr)
        result[kind] = {name: t.summary() for name, t in tallies.items() if t.divergences}
    return result


def table(results: list[dict[str, Any]]) -> str:
    lines = [
        "| file | text | engine | mean KL | ± | median | 99th percentile | same choice | "
        "perplexity |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for result in results:
        for kind in (text for text in TEXTS if text in result):
            for name, s in result[kind].items():
                cells = [
                    result["model"], kind, name, f"{s['mean']:.6f}", f"{s['standard_error']:.6f}",
                    f"{s['median']:.6f}", f"{s['p99']:.5f}", f"{100 * s['same_choice']:.2f}%",
                    f"{s['perplexity']:.4f}",
                ]  # fmt: skip
                lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, action="append", required=True, help="repeatable")
    parser.add_argument("--peer", type=Path, help="llama.cpp's llama-perplexity")
    parser.add_argument("--peer-version", default="not given")
    parser.add_argument("--windows", type=int, default=40, help="of 512 tokens, per text")
    parser.add_argument("--text", action="append", choices=TEXTS, help="default both")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--out", type=Path, help="folder for a dated result file")
    args = parser.parse_args()
    from codellama.native import default_threads
    from speed import processor

    args.threads = args.threads or default_threads()
    args.text = args.text or list(TEXTS)
    results = [compare(path, args) for path in args.model]
    text = table(results)
    print(text)
    if args.out:
        about = {
            "date": datetime.now(UTC).strftime("%Y-%m-%d"),
            "processor": processor(),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "peer": args.peer_version,
            "command": f"python benchmarks/divergence.py --windows {args.windows}",
        }
        name = "-".join([*(model.stem for model in args.model), *args.text])
        path = args.out / f"{about['date']}-divergence-{name}"
        args.out.mkdir(parents=True, exist_ok=True)
        path = path.with_name(path.name.replace(".", "_"))
        path.with_suffix(".json").write_text(json.dumps({**about, "results": results}, indent=1))
        notes = "\n".join(f"- {key}: {value}" for key, value in about.items())
        path.with_suffix(".md").write_text(f"# Divergence from float32\n\n{notes}\n\n{text}\n")


if __name__ == "__main__":
    main()
