"""Verbs about model files: pull, list, show, rm, cp, quantize, export."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codellama.cli.output import human_bytes, progress_bar, table
from codellama.errors import RequestError
from codellama.hub.catalogue import DEFAULT_MODEL

if TYPE_CHECKING:
    from codellama.weights.load import ModelFile

__all__ = ["copy", "export", "list_models", "pull", "quantize", "remove", "show"]


def pull(name: str) -> None:
    from codellama import hub

    with progress_bar() as progress:
        hub.pull(name, progress)
    print(f"{name} is ready: codellama run {name}")


def list_models(*, as_json: bool) -> None:
    from codellama import hub

    entries = hub.list_models()
    if as_json:
        fields = ("name", "size", "modified", "format", "where")
        print(json.dumps([{f: getattr(e, f) for f in fields} for e in entries]))
        return
    if not entries:
        print(f"no models here yet: codellama pull {DEFAULT_MODEL}")
        return
    rows = [(e.name, human_bytes(e.size), e.format, e.where, _age(e.modified)) for e in entries]
    print(table(rows, ("NAME", "SIZE", "FORMAT", "WHERE", "MODIFIED")))


def _age(modified: float) -> str:
    days = (time.time() - modified) / 86400
    return "today" if days < 1 else f"{days:.0f} days ago"


def remove(names: list[str]) -> None:
    from codellama import hub

    for name in names:
        hub.remove(name)
        print(f"removed {name}")


def copy(source: str, target: str) -> None:
    from codellama import hub

    hub.copy(source, target)
    print(f"{target} is {source}")


def _open(name: str) -> ModelFile:
    from codellama.api.merged import open_merged
    from codellama.hub import resolve

    return open_merged(resolve(name))


def describe(name: str, contexts: list[int]) -> dict[str, Any]:
    """What `show --json` prints."""
    model = _open(name)
    config = model.config
    tokenizer = model.tokenizer()
    lengths = contexts or sorted(
        {min(2048, config.context), min(4096, config.context), config.context}
    )
    return {
        "name": name,
        "path": str(model.path),
        "format": model.format,
        "architecture": "llama",
        "parameters": config.n_parameters,
        "quantization": model.quantization,
        "context": config.context,
        "dim": config.dim,
        "layers": config.n_layers,
        "heads": config.n_heads,
        "kv_heads": config.n_kv_heads,
        "vocabulary": config.vocab_size,
        "rope_theta": config.rope_theta,
        "infills": tokenizer.infill is not None,
        "chat_template": model.chat_template is not None,
        "license": model.license,
        "weight_bytes": model.weight_bytes,
        "kv_bytes": {str(n): config.kv_bytes(n) for n in lengths},
        "kv_bytes_q8_0": {str(n): config.kv_bytes(n, "q8_0") for n in lengths},
    }


def show(name: str, contexts: list[int], *, as_json: bool) -> None:
    about = describe(name, contexts)
    if as_json:
        print(json.dumps(about))
        return
    rows = [
        ("architecture", f"{about['architecture']}, {about['layers']} layers, dim {about['dim']}"),
        ("parameters", f"{about['parameters']:,}"),
        ("quantization", str(about["quantization"])),
        ("context", f"{about['context']:,} tokens, rope_theta {about['rope_theta']:,.0f}"),
        ("attention", f"{about['heads']} heads, {about['kv_heads']} kv heads"),
        ("vocabulary", f"{about['vocabulary']:,} tokens"),
        ("infilling", "yes" if about["infills"] else "no"),
        ("chat template", "yes" if about["chat_template"] else "no"),
        ("license", about["license"] or "not stated in the file"),
        ("weights", human_bytes(about["weight_bytes"])),
        *(
            (
                f"cache, {int(n):,} tokens",
                f"{human_bytes(size)}; {human_bytes(about['kv_bytes_q8_0'][n])} as q8_0",
            )
            for n, size in about["kv_bytes"].items()
        ),
        ("file", about["path"]),
    ]
    print(table(rows, (name, "")))


def quantize(source: str, target: Path, type: str) -> None:
    from codellama.weights.export import quantize_model

    with progress_bar() as progress:
        quantize_model(_open(source), target, type, lambda done, total: progress(done, total, type))
    print(f"{target}: {human_bytes(target.stat().st_size)}")


def export(form: str, source: str, target: Path) -> None:
    from codellama.weights.export import export_gguf, export_hf

    if form not in ("hf", "gguf"):
        raise RequestError(f"export to {form!r}: it must be hf or gguf")
    write = export_hf if form == "hf" else export_gguf
    with progress_bar() as progress:
        write(_open(source), target, progress=lambda done, total: progress(done, total, form))
    print(f"{target} is written")
