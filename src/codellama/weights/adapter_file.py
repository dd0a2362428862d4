"""Our adapter files: reading, writing, and what one says.

Safetensors: per matrix `NAME.a` [rank, in] and `NAME.b` [out, rank] in float16, `rows` [R, dim] for
new rows of the embeddings, and one JSON text in the header's metadata that says what they are. Does
not know the base: whether an adapter fits one is adapter.py's to check. Needs no PyTorch.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from codellama.errors import ModelFileError

__all__ = [
    "ADAPTER_TYPE", "Adapter", "Array", "base_of", "pack_adapter", "read_own_adapter", "stacked",
    "write_adapter",
]  # fmt: skip

ADAPTER_TYPE = np.float16
_KEY = "codellama"

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Adapter:
    """What an adapter file says.

    Attributes:
        arrays: `NAME.a`, `NAME.b` by Meta's names and in Meta's row order, and `rows`.
        scale: of every product b·a.
        name, rope_theta: of the adapted model; None keeps the base's.
        base: the name of the base, where it tells one.
        rows, pieces: ids of the new rows, and the text of each.
        infill: the sentinels' ids, () for a model without; None keeps the base's.
    """

    arrays: Mapping[str, Array]
    scale: float = 1.0
    name: str | None = None
    rope_theta: float | None = None
    base: str | None = None
    rows: tuple[int, ...] = ()
    pieces: tuple[str, ...] = ()
    infill: tuple[int, ...] | None = None

    def data(self) -> Iterator[bytes]:
        """The numbers of all arrays, by name: what tells adapters apart."""
        for _, array in sorted(self.arrays.items()):
            yield np.ascontiguousarray(array).tobytes()


def write_adapter(path: Path, arrays: Mapping[str, Array], about: Mapping[str, Any]) -> None:
    """Write an adapter whole or not at all."""
    from codellama.weights.files import atomic_file

    atomic_file(path, pack_adapter(arrays, about))


def pack_adapter(arrays: Mapping[str, Array], about: Mapping[str, Any]) -> bytes:
    """The bytes of an adapter file."""
    from safetensors.numpy import save

    return save(dict(arrays), metadata={_KEY: json.dumps(dict(about))})


def stacked(first: Adapter, second: Adapter) -> tuple[dict[str, Array], dict[str, Any]]:
    """One adapter that does what `first` and then `second` do: arrays and header, for
    `write_adapter`. Ranks add up: b·a + d·c = [b d]·[a; c].

    Args:
        second: of the model that `first` makes of its base.
    """
    arrays = dict(first.arrays)
    ratio = second.scale / first.scale
    for name in {key[:-2] for key in second.arrays if key.endswith((".a", ".b"))}:
        a, b = second.arrays[f"{name}.a"], second.arrays[f"{name}.b"] * np.float32(ratio)
        if f"{name}.a" in arrays:
            a = np.concatenate([arrays[f"{name}.a"], a], axis=0)
            b = np.concatenate([arrays[f"{name}.b"], b], axis=1)
        arrays[f"{name}.a"], arrays[f"{name}.b"] = a.astype(ADAPTER_TYPE), b.astype(ADAPTER_TYPE)
    rows, pieces = _stacked_rows(first, second, arrays)
    theta = first.rope_theta if second.rope_theta is None else second.rope_theta
    infill = first.infill if second.infill is None else second.infill
    return arrays, {
        "name": first.name if second.name is None else second.name,
        "base": first.base,
        "scale": first.scale,
        "rows": rows,
        "pieces": pieces,
        "infill": None if infill is None else list(infill),
        "rope_theta": theta,
    }


def _stacked_rows(
    first: Adapter, second: Adapter, arrays: dict[str, Array]
) -> tuple[list[int], list[str]]:
    """Ids and pieces of both; a row of the second stands in for the first's."""
    found: dict[int, tuple[str, Array]] = {}
    for adapter in (first, second):
        for place, (id, piece) in enumerate(zip(adapter.rows, adapter.pieces, strict=True)):
            found[id] = piece, adapter.arrays["rows"][place]
    if found:
        arrays["rows"] = np.stack([row for _, row in found.values()]).astype(ADAPTER_TYPE)
    return list(found), [piece for piece, _ in found.values()]


def base_of(path: Path) -> str | None:
    """The name of the model that an adapter of ours changes, from the file's header alone; None
    for another file, or where it does not tell.
    """
    from safetensors import SafetensorError, safe_open

    if path.suffix != ".safetensors" or not path.is_file():
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            about = _about(file)
    except (OSError, SafetensorError, ValueError):
        return None
    base = about.get("base") if isinstance(about, dict) else None
    return base if isinstance(base, str) else None


def read_own_adapter(path: Path) -> Adapter:
    """Raises ModelFileError for a file that is no adapter of ours."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            about = _about(file)
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError) as error:
        raise ModelFileError(f"{path}: is no adapter: {error}") from None
    if not isinstance(about, dict) or not _says_what_it_is(about):
        raise ModelFileError(f"{path}: is no adapter: its header does not say what it holds")
    base, theta, infill = about.get("base"), about.get("rope_theta"), about["infill"]
    return Adapter(
        arrays,
        scale=about["scale"],
        name=about["name"],
        rope_theta=None if theta is None else float(theta),
        base=base if isinstance(base, str) else None,
        rows=tuple(about["rows"]),
        pieces=tuple(about["pieces"]),
        infill=None if infill is None else tuple(infill),
    )


def _about(file: Any) -> Any:
    """What an open file's header says of the adapter; None in another safetensors file."""
    return json.loads((file.metadata() or {}).get(_KEY, "null"))


def _says_what_it_is(about: Mapping[str, Any]) -> bool:
    wanted = {
        "name": str | None,
        "scale": float,
        "rows": list,
        "pieces": list,
        "infill": list | None,
    }
    if any(key not in about or not isinstance(about[key], type) for key, type in wanted.items()):
        return False
    theta = about.get("rope_theta", 1.0)
    return (
        len(about["pieces"]) == len(about["rows"])
        and all(isinstance(piece, str) for piece in about["pieces"])
        and len(about["infill"] or ()) in (0, 4)
        and isfinite(about["scale"])
        and (theta is None or (isinstance(theta, int | float) and 0 < theta < 1e12))
    )
