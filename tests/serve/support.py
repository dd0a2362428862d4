"""A store with models for the server's tests, and small helpers."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path

from codellama.hub.manifest import Layer, build_manifest
from codellama.hub.names import parse_name
from codellama.hub.store import Store
from codellama.model.config import ModelConfig
from codellama.weights.export import export_gguf
from codellama.weights.load import open_model
from tiny_checkpoints import TINY, random_weights, write_meta, write_sentencepiece

TALKS = "smollm2:135m"
INFILLS = "tiny-code:latest"
VOCAB = 512


def make_store(root: Path, smollm2: Path) -> Path:
    (root / smollm2.name).symlink_to(smollm2)
    path = tiny_infiller(root.parent)
    add_model(root, INFILLS, path)
    return root


def tiny_infiller(folder: Path) -> Path:
    """A random Llama whose vocabulary has Code Llama's sentinels, as GGUF."""
    made = folder / "tiny.gguf"
    if not made.exists():
        config: ModelConfig = replace(TINY, vocab_size=VOCAB, context=4096)
        source = folder / "tiny-meta"
        write_meta(source, random_weights(config), params={
            "dim": config.dim, "n_layers": config.n_layers, "n_heads": config.n_heads,
            "multiple_of": 256, "norm_eps": 1e-5, "rope_theta": 1e6, "vocab_size": VOCAB,
        })  # fmt: skip
        write_sentencepiece(source, VOCAB, infills=True)
        export_gguf(open_model(source), made)
    return made


def add_model(root: Path, name: str, path: Path, texts: dict[str, str] | None = None) -> None:
    """Put a GGUF file into a store under a name, without copying it."""
    store = Store(root)
    data = path.read_bytes()
    layer = Layer("model", f"sha256:{hashlib.sha256(data).hexdigest()}", len(data))
    assert store.has(layer) or store.link_blob(layer, path, verify=False)
    layers = [layer, *(store.add_bytes(k, t.encode()) for k, t in (texts or {}).items())]
    config = store.add_bytes("config", json.dumps({"model_family": "llama"}).encode())
    assert store.commit(parse_name(name), build_manifest(layers, config, {})) == []


def open_files(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def resident_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmRSS")
