"""How far an engine's predictions are from those of the exact model, ours and llama.cpp's alike.

    python benchmarks/divergence.py --model FILE.gguf [--peer "PATH/llama-perplexity [ARGUMENTS]"]
    [--windows 40] [--work FOLDER] [--out benchmarks/results]

The reference is the PyTorch forward in float32 over the file's own weights, dequantized: what the
file means. An engine differs from it by what it rounds (activations, keys and values, sums). Per
predicted token: the Kullback-Leibler divergence KL(reference || engine), in nats, over the tokens
that the reference holds at most 12 nats less likely than its first choice, and all others as one.
Both engines run in their default settings. Ours runs once more with a KV cache of 8 bits; "q8_0
from f16" is its divergence from ours with one of 16.

Text is CPython's: modules of its standard library, and its language reference as pydoc carries it.
It is cut into windows of 512 tokens from an empty cache; the last 255 predictions of each count, as
in llama-perplexity, whose --save-all-logits file gives both the token ids and the peer's
log-probabilities: in 16 bits over 16 nats, hence the limit of 12. Windows done are kept in the work
folder and not done again, so a run can be cut short and go on. Does not measure speed.
"""

from __future__ import annotations

import argparse
import json
import platform
import pydoc_data.topics
import shlex
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from codellama import CodeLlama
from codellama.engine.torch_runner import load_llama
from codellama.model.config import KV_TYPES
from codellama.model.llama import Llama
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

LogProbs = torch.Tensor  # float32


@dataclass(frozen=True, slots=True)
class Recorded:
    """One window: its token ids [W], and log-probabilities [P, V] of a peer if there is one."""

    ids: list[int]
    peer_PV: LogProbs | None


Scores = dict[str, torch.Tensor]  # of one engine and window, per prediction: kl, same, nll


def summary(windows: list[Scores]) -> dict[str, float]:
    """Means over all predictions, and how certain the mean divergence is."""
    kl, same, nll = (torch.cat([w[key] for w in windows]).double() for key in ("kl", "same", "nll"))
    return {
        "tokens": len(kl),
        "mean": kl.mean().item(),
        "standard_error": kl.std().item() / len(kl) ** 0.5,
        "median": kl.median().item(),
        "p99": kl.quantile(0.99).item(),
        "same_choice": same.mean().item(),
        "perplexity": nll.mean().exp().item(),
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
    model: Path, text: str, record: Path, args: argparse.Namespace
) -> Iterator[Recorded]:
    """The same from llama-perplexity, which tokenizes, runs and records."""
    if not record.exists():
        source, partial = record.with_suffix(".txt"), record.with_suffix(".partial")
        source.write_text(text, encoding="utf-8")
        command = [*shlex.split(args.peer), "-m", str(model), "-f", str(source), "-c", str(WINDOW)]
        command += ["--chunks", str(args.windows), "-t", str(args.threads)]
        command += ["--save-all-logits", str(partial)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        partial.rename(record)
    tokenizer = open_model(model).tokenizer()
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
            step, floor = rows[:, :4].copy().view(np.float32).T
            assert (step * 65535 < 16.001).all()
            log_PV = rows[:, 4 : 4 + vocab].astype(np.float32)
            log_PV *= step[:, None]
            log_PV += floor[:, None]
            ids = ids_W.tolist()
            yield Recorded(ids if bos is None else [bos, *ids[1:]], torch.from_numpy(log_PV))


def scores(exact_PV: LogProbs, engine_PV: LogProbs, next_P: torch.Tensor) -> Scores:
    """KL(exact || engine) with the unlikely tokens taken together, whether the first choice is the
    same, and the negative log-likelihood of the text; each [P].
    """
    likely_PV = exact_PV > exact_PV.amax(dim=1, keepdim=True) - RANGE
    chance_PV = exact_PV.exp() * likely_PV
    kl_P = (chance_PV * (exact_PV - engine_PV)).sum(dim=1, dtype=torch.float64)
    rest_P = (1 - chance_PV.sum(dim=1, dtype=torch.float64)).clamp(min=1e-9)
    engine_P = 1 - (engine_PV.exp() * likely_PV).sum(dim=1, dtype=torch.float64)
    return {
        "kl": kl_P + rest_P * (rest_P / engine_P.clamp(min=1e-9)).log(),
        "same": exact_PV.argmax(dim=1) == engine_PV.argmax(dim=1),
        "nll": -engine_PV.gather(1, next_P[:, None])[:, 0],
    }


@torch.inference_mode()
def measure(exact: Llama, llm: CodeLlama, small: CodeLlama, window: Recorded) -> dict[str, Scores]:
    next_P = torch.tensor(window.ids[FIRST + 1 :])
    logits_PV = exact(torch.tensor([window.ids]))[0, FIRST : WINDOW - 1]
    exact_PV = logits_PV.log_softmax(dim=1)
    ours_PV, small_PV = (
        torch.from_numpy(one.logits(window.ids)[FIRST : WINDOW - 1]).log_softmax(dim=1)
        for one in (llm, small)
    )
    engines = {
        "float32": exact_PV,
        "ours": ours_PV,
        "ours, q8_0 cache": small_PV,
        "llama.cpp": window.peer_PV,
    }
    done = {
        name: scores(exact_PV, log_PV, next_P)
        for name, log_PV in engines.items()
        if log_PV is not None
    }
    return done | {"q8_0 from f16": scores(ours_PV, small_PV, next_P)}


def compare(path: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Both engines against the reference on the texts."""
    exact = load_llama(open_model(path), "cpu", torch.float32)
    llm, small = (
        CodeLlama.load(path, device="cpu", context=WINDOW, threads=args.threads, kv_type=kv_type)
        for kv_type in KV_TYPES
    )
    result: dict[str, Any] = {"model": path.name, "isa": getattr(llm.runner, "isa", "")}
    for kind in args.text:
        base = args.work / f"{path.stem}-{kind}"
        if args.peer:
            record = base.with_name(f"{base.name}-{args.windows}.bin")
            source = peer_windows(path, texts()[kind], record, args)
        else:
            source = windows_of(path, texts()[kind], args.windows)
        windows = []
        for index, window in enumerate(source):
            kept = base.with_name(f"{base.name}-{index}.pt")
            if not kept.exists():
                if args.at_most == 0:
                    sys.exit("more windows are to be done: run the same command again")
                args.at_most -= 1
                torch.save(measure(exact, llm, small, window), kept)
            windows.append(torch.load(kept))
            print(f"{path.name}, {kind}: {index + 1} of {args.windows}", file=sys.stderr)
        result[kind] = {name: summary([w[name] for w in windows]) for name in windows[0]}
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
    parser.add_argument("--peer", help="llama.cpp's llama-perplexity [ARGUMENTS]")
    parser.add_argument("--peer-version", default="not given")
    parser.add_argument("--windows", type=int, default=40, help="of 512 tokens, per text")
    parser.add_argument("--text", action="append", choices=TEXTS, help="default both")
    parser.add_argument(
        "--work", type=Path, help="folder for windows done; default a temporary one"
    )
    parser.add_argument("--at-most", type=int, default=-1, help="windows to do before it ends")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--out", type=Path, help="folder for a dated result file")
    args = parser.parse_args()
    from codellama.bench.machine import processor
    from codellama.native import default_threads

    args.threads = args.threads or default_threads()
    args.text = args.text or list(TEXTS)
    with tempfile.TemporaryDirectory() as folder:
        args.work = args.work or Path(folder)
        args.work.mkdir(parents=True, exist_ok=True)
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
