"""Which files of a repository make up the model that was asked for: one quantization of a GGUF
repository, or a folder model.

Pure functions of file names, so that the Hugging Face hub and its cache on this disk choose alike.
The rules for GGUF are those of `ollama run hf.co/…`: the tag is a quantization in any case or a
file name, and Q4_K_M when there is none.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from codellama.errors import NotFoundError
from codellama.hub.names import DEFAULT_TAG

__all__ = ["Selection", "quantizations", "select_files"]

_SPLIT = re.compile(r"-(\d{5})-of-(\d{5})$")
_QUANTIZATION = re.compile(
    r"(?:^|[-._])((?:UD-)?(?:IQ[1-8]_[A-Z]+|TQ[12]_0|Q[2-8](?:_[0-9A-Z]+)*|BF16|FP?16|FP?32|MXFP4(?:_MOE)?))$",
    re.IGNORECASE,
)
_PREFERRED = ("Q4_K_M", "Q4_0", "Q4_K_S", "Q4_1", "Q5_K_M", "Q8_0", "F16")
_NOT_MODELS = (
    "mmproj",
    "imatrix",
    "vocab",
)  # projectors, calibration data, vocabularies without weights
_FOLDER_FILES = re.compile(
    r"[^/]+\.(?:safetensors|json|jinja)|tokenizer\.model|(?:merges|vocab)\.txt|(?:LICENSE|USE_POLICY)[^/]*"
)
_META_FILES = re.compile(
    r"consolidated\.\d\d\.pth|params\.json|tokenizer\.model|(?:LICENSE|USE_POLICY)[^/]*"
)


@dataclass(frozen=True, slots=True)
class Selection:
    """What to take. `files` are paths inside the repository; `label` is the quantization's own
    spelling, or "latest".
    """

    files: tuple[str, ...]
    format: str
    label: str


def quantizations(files: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """The GGUF models of a repository by quantization, split ones in order; incomplete splits are
    left out.

    >>> quantizations(["m.Q4_0.gguf", "x/m-Q8_0-00002-of-00002.gguf",
    "x/m-Q8_0-00001-of-00002.gguf"]) {'Q4_0': ('m.Q4_0.gguf',), 'Q8_0':
    ('x/m-Q8_0-00001-of-00002.gguf', 'x/m-Q8_0-00002-of-00002.gguf')}
    """
    groups: dict[str, list[str]] = {}
    for file in sorted(files):
        stem, dot, suffix = file.rpartition(".")
        base = stem.rpartition("/")[2].lower()
        if dot and suffix.lower() == "gguf" and not any(word in base for word in _NOT_MODELS):
            groups.setdefault(_SPLIT.sub("", stem), []).append(file)
    found: dict[str, tuple[str, ...]] = {}
    for stem, members in groups.items():
        if not _is_complete(members):
            continue
        base = stem.rpartition("/")[2]
        match = _QUANTIZATION.search(base)
        found.setdefault(match[1].upper() if match else base, tuple(members))
    return found


def select_files(files: Iterable[str], tag: str, repository: str) -> Selection:
    """Choose by tag. `repository` is for the message only. Raises NotFoundError that lists what
    there is.
    """
    names = list(files)
    models = quantizations(names)
    if models:
        label = _match(models, tag)
        if label is None:
            offered = ", ".join(sorted(models)[:12])
            raise NotFoundError(f"{repository} has no quantization {tag!r}: it has {offered}")
        return Selection(models[label], "gguf", DEFAULT_TAG if tag == DEFAULT_TAG else label)
    if tag != DEFAULT_TAG:
        raise NotFoundError(
            f"{repository} has no complete GGUF file, so no {tag!r}: leave the tag away"
        )
    return _select_folder(names, repository)


def _select_folder(names: list[str], repository: str) -> Selection:
    safetensors = [name for name in names if "/" not in name and name.endswith(".safetensors")]
    if safetensors and "config.json" in names:
        # Some hold the weights twice, the second time under the training code's own names.
        twice = any(not name.startswith("consolidated") for name in safetensors)
        chosen = [
            name
            for name in names
            if _FOLDER_FILES.fullmatch(name) and not (twice and name.startswith("consolidated"))
        ]
        return Selection(tuple(sorted(chosen)), "safetensors", DEFAULT_TAG)
    if "params.json" in names and "consolidated.00.pth" in names:
        return Selection(tuple(sorted(filter(_META_FILES.fullmatch, names))), "meta", DEFAULT_TAG)
    raise NotFoundError(
        f"{repository} holds no model that can be read here: no GGUF, no config.json with "
        "safetensors, no params.json with consolidated.00.pth"
    )


def _match(models: dict[str, tuple[str, ...]], tag: str) -> str | None:
    if tag == DEFAULT_TAG:
        return next((label for label in _PREFERRED if label in models), next(iter(models)))
    wanted = tag.upper()
    for label, files in models.items():
        spellings = {
            label.upper(),
            label.upper().replace("FP16", "F16"),
            label.upper().replace("FP32", "F32"),
        }
        base = files[0].rpartition("/")[2].upper()
        spellings |= {base, base.removesuffix(".GGUF")}
        if wanted in spellings or wanted.replace("FP", "F") in spellings:
            return label
    return None


def _is_complete(members: list[str]) -> bool:
    """Whether a group is one whole file, or parts 1 to N of N."""
    matches = [_SPLIT.search(member.rpartition(".")[0]) for member in members]
    if len(members) == 1 and matches[0] is None:
        return True
    parts = [(int(match[1]), int(match[2])) for match in matches if match]
    return parts == [(part, len(members)) for part in range(1, len(members) + 1)]
