"""What a model is, as Ollama's API tells it: for lists, for `show`, and its capabilities.

From the hub (files, Modelfile) and from the model file's own header, which is read once per file.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec

from codellama import hub
from codellama.errors import CodeLlamaError
from codellama.model.config import KvType, ModelConfig
from codellama.serve.clock import rfc3339
from codellama.serve.context import State
from codellama.serve.defaults import Defaults
from codellama.serve.names import Resolved
from codellama.serve.ollama_types import ShowRequest

__all__ = ["capabilities", "described", "shown", "summaries", "summary"]


def summaries(state: State) -> list[dict[str, Any]]:
    """Every local model, newest first, and `codellama` where a fallback answers to it."""
    models = []
    for entry in hub.list_models():
        try:
            resolved = state.models.names.resolve(entry.name)
        except CodeLlamaError:
            continue  # gone or damaged meanwhile
        models.append(summary(resolved, entry.name))
    if state.models.names.default is not None or models:
        fallback = state.models.names.fallback()
        if fallback is not None and fallback.notice:
            alias = summary(fallback, fallback.name)
            alias["details"]["parent_model"] = fallback.info.name
            models.append(alias)
    return models


def summary(resolved: Resolved, name: str) -> dict[str, Any]:
    """One model of a list."""
    info = resolved.info
    config, quantization = described(info.path)
    return {
        "name": name,
        "model": name,
        "modified_at": rfc3339(int(info.modified * 1e9)),
        "size": info.size,
        "digest": _digest(info.digest),
        "details": _details(resolved, config, quantization),
        "capabilities": capabilities(resolved),
    }


def _details(resolved: Resolved, config: ModelConfig | None, quantization: str) -> dict[str, Any]:
    info = resolved.info
    family = str(info.config.get("model_family") or "llama")
    details: dict[str, Any] = {
        "parent_model": "",
        "format": info.format,
        "family": family,
        "families": [family],
        "parameter_size": _billions(config.n_parameters) if config else "",
        "quantization_level": str(info.config.get("file_type") or quantization),
    }
    if config is not None:
        details |= {"context_length": config.context, "embedding_length": config.dim}
    return details


def shown(resolved: Resolved, body: ShowRequest, kv_type: KvType) -> dict[str, Any]:
    """The reply of /api/show."""
    from codellama.weights.load import open_model

    info, defaults = resolved.info, Defaults.of(resolved.info)
    model_file = open_model(info.path)
    config = model_file.config
    able = capabilities(resolved)
    template = defaults.template or model_file.chat_template or "{{ .Prompt }}"
    if "insert" in able and ".Suffix" not in template:
        # Continue looks for these words to decide whether to send a suffix.
        gap = "<PRE> {{ .Prompt }} <SUF>{{ .Suffix }} <MID>"
        template = "{{- if .Suffix }}" + gap + "{{- else }}" + template + "{{- end }}"
    reply: dict[str, Any] = {
        "license": "\n".join(defaults.licenses) or model_file.license or "",
        "modelfile": _modelfile(resolved, defaults),
        "parameters": _parameters(defaults),
        "template": body.template or template,
        "system": body.system or defaults.system,
        "details": _details(resolved, config, model_file.quantization),
        "messages": list(defaults.messages),
        "model_info": _model_info(config, info.name, model_file.metadata)
        | {"codellama.kv_bytes_per_token": config.kv_bytes(1, kv_type)},
        "capabilities": able,
        "modified_at": rfc3339(int(info.modified * 1e9)),
    }
    if body.verbose:
        reply["tensors"] = [
            {"name": name, "type": layout.type.name, "shape": list(layout.shape)}
            for name in model_file.names
            for layout in [model_file.layout(name)]
        ]
    return reply


def _model_info(config: ModelConfig, name: str, metadata: dict[str, Any]) -> dict[str, Any]:
    """GGUF's keys; those of the vocabulary are too long for a reply."""
    known = {
        "general.architecture": "llama",
        "general.basename": name.partition(":")[0],
        "general.parameter_count": config.n_parameters,
        "llama.context_length": config.context,
        "llama.embedding_length": config.dim,
        "llama.block_count": config.n_layers,
        "llama.feed_forward_length": config.ffn_dim,
        "llama.attention.head_count": config.n_heads,
        "llama.attention.head_count_kv": config.n_kv_heads,
        "llama.attention.layer_norm_rms_epsilon": config.norm_eps,
        "llama.rope.freq_base": config.rope_theta,
        "llama.vocab_size": config.vocab_size,
    }
    short = {
        key: value
        for key, value in metadata.items()
        if isinstance(value, str | int | float | bool) and len(str(value)) < 4096
    }
    return short | known


def _modelfile(resolved: Resolved, defaults: Defaults) -> str:
    lines = [f"# Modelfile of {resolved.name}", f"FROM {resolved.info.name}"]
    if defaults.template:
        lines.append(f'TEMPLATE """{defaults.template}"""')
    if defaults.system:
        lines.append(f'SYSTEM """{defaults.system}"""')
    for name, value in defaults.parameters.items():
        values = value if isinstance(value, list) else [value]
        lines += [f"PARAMETER {name} {_quoted(each)}" for each in values]
    lines += [f"MESSAGE {m['role']} {m['content']}" for m in defaults.messages]
    return "\n".join(lines) + "\n"


def _parameters(defaults: Defaults) -> str:
    """One line per value; Continue reads num_ctx and stop out of them."""
    lines = []
    for name, value in defaults.parameters.items():
        for each in value if isinstance(value, list) else [value]:
            lines.append(f"{name:<30} {_quoted(each)}")
    return "\n".join(lines)


def _quoted(value: Any) -> str:
    return msgspec.json.encode(value).decode() if isinstance(value, str) else str(value)


def capabilities(resolved: Resolved) -> list[str]:
    config, _quantization = described(resolved.info.path)
    able = ["completion", "tools"]
    if config is not None and config.infills:
        able.append("insert")
    return able


def described(path: Path) -> tuple[ModelConfig | None, str]:
    """Shape and storage of a model file, read once; (None, "") where it cannot be read."""
    try:
        return _described(path, path.stat().st_mtime_ns)
    except OSError:
        return None, ""


@lru_cache(maxsize=256)
def _described(path: Path, _changed: int) -> tuple[ModelConfig | None, str]:
    from codellama.weights.load import open_model

    try:
        model_file = open_model(path)
        return model_file.config, model_file.quantization
    except CodeLlamaError:
        return None, ""


def _digest(digest: str) -> str:
    return digest.removeprefix("sha256:")


def _billions(n: int) -> str:
    return f"{n / 1e9:.1f}B" if n >= 1e9 else f"{n / 1e6:.2f}M"
