"""The layers of docs/ARCHITECTURE.md, held by parsing every import; and no cycles."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "codellama"

# Layer → the layers it may import. Errors is a leaf that everyone may import.
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "native": set(),
    "model": {"errors"},
    "weights": {"errors", "model"},
    "hub": {"errors"},
    "specialize": {"errors", "model", "weights"},
    "engine": {"errors", "model", "weights", "native"},
    "api": {"errors", "model", "weights", "native", "engine", "hub"},
    "serve": {"errors", "model", "weights", "engine", "hub", "api"},
    "evaluate": {"errors"},
    "bench": {"errors", "model", "weights", "native", "engine", "api"},
    "repl": {"errors", "model", "weights", "engine", "hub", "api", "cli"},
    "demo": {"errors", "hub", "api"},
    "cli": {
        "errors",
        "model",
        "weights",
        "native",
        "engine",
        "hub",
        "api",
        "serve",
        "bench",
        "repl",
        "demo",
        "evaluate",
        "specialize",
    },
    "__init__": {"errors", "engine", "api"},
    "__main__": {"cli"},
}
HEAVY = (
    "torch",
    "transformers",
    "huggingface_hub",
    "sentencepiece",
    "tokenizers",
    "starlette",
    "uvicorn",
    "msgspec",
    "llguidance",
    "prometheus_client",
)


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def dotted(path: Path) -> str:
    parts = list(path.relative_to(PACKAGE.parent).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 2 else parts)


def layer(module: str) -> str:
    """codellama.model.config → model; codellama itself → __init__."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def imports(path: Path) -> Iterator[str]:
    """Every module of ours that a file imports, at the top or inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: relative import"
            assert node.module is not None
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            submodules = [name for name in names if is_module(name)]
            yield from submodules
            if len(submodules) < len(names):
                yield node.module


def is_module(name: str) -> bool:
    target = PACKAGE.parent / Path(*name.split("."))
    return target.with_suffix(".py").exists() or (target / "__init__.py").exists()


@pytest.mark.parametrize("path", modules(), ids=dotted)
def test_imports_follow_the_layers(path: Path) -> None:
    own = layer(dotted(path))
    assert own in ALLOWED, f"{own} has no place in the layers: add it here and in ARCHITECTURE.md"
    for name in imports(path):
        if name.split(".")[0] == "codellama" and name != "codellama":
            other = layer(name)
            assert other == own or other in ALLOWED[own], f"{dotted(path)} may not import {name}"


def test_no_cycles_between_modules() -> None:
    graph = {
        dotted(path): {name for name in imports(path) if name.startswith("codellama.")}
        for path in modules()
    }
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " → ".join((*trail[trail.index(module) :], module))
        if module in done or module not in graph:
            return
        for other in sorted(graph[module] - {module}):
            visit(other, (*trail, module))
        done.add(module)

    for module in sorted(graph):
        visit(module, ())


@pytest.mark.parametrize("path", modules(), ids=dotted)
def test_files_open_with_their_contract_and_stay_small(path: Path) -> None:
    source = path.read_text()
    lines = source.count("\n")
    assert lines <= 400, f"{dotted(path)} has {lines} lines: split it by meaning"
    if source.strip():
        assert ast.get_docstring(ast.parse(source)), f"{dotted(path)} does not say what it is"


def test_the_command_line_loads_no_heavy_library() -> None:
    code = f"import codellama.cli, sys; print([m for m in {HEAVY!r} if m in sys.modules])"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert loaded.stdout.strip() == "[]"
