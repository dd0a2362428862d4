"""Model names: `[host/][namespace/]model[:tag]` as Ollama writes them, and
`hf.co/ORG/REPO[:quantization]`.

A `Name` is valid by construction: every part is one plain path component (no separators, no `..`,
no control characters, bounded length), so that it may become part of a path or a URL as it is. Case
is kept for display and ignored when names are compared.

Does not know which names exist (catalogue.py, store.py) and never touches the disk or the network.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from codellama.errors import RequestError

__all__ = ["DEFAULT_HOST", "HUGGING_FACE", "Name", "is_name", "looks_like_path", "parse_name"]

DEFAULT_HOST = "registry.ollama.ai"
DEFAULT_NAMESPACE = "library"
DEFAULT_TAG = "latest"
HUGGING_FACE = "hf.co"

MAX_NAME = 512  # the whole text; longer is refused before any pattern sees it
# Ollama's types/model/name.go, with Hugging Face's 96 characters for namespace, model and tag.
_HOST = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]|\.(?!\.)){0,252}(?::[0-9]{1,5})?")
_PART = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]|\.(?!\.)){0,95}")
_DRIVE = re.compile(r"[A-Za-z]:[\\/]")


@dataclass(frozen=True, slots=True)
class Name:
    """A complete model name. `parse_name` makes it, which validates and fills in defaults."""

    host: str
    namespace: str
    model: str
    tag: str

    def __str__(self) -> str:
        """The shortest text that parses back to this name, always with its tag
        (`codellama:latest`).
        """
        if self.host != DEFAULT_HOST:
            return f"{self.host}/{self.namespace}/{self.model}:{self.tag}"
        if self.namespace != DEFAULT_NAMESPACE:
            return f"{self.namespace}/{self.model}:{self.tag}"
        return f"{self.model}:{self.tag}"

    @property
    def typed(self) -> str:
        """The name as a person would type it: like `str`, without the default tag."""
        return str(self).removesuffix(f":{DEFAULT_TAG}")

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What two names are compared by: Ollama and Hugging Face both ignore case."""
        return (self.host.lower(), self.namespace.lower(), self.model.lower(), self.tag.lower())

    @property
    def is_hugging_face(self) -> bool:
        return self.host == HUGGING_FACE

    @property
    def is_library(self) -> bool:
        """Whether this is a plain name such as `codellama:7b`, as the catalogue lists them."""
        return self.host == DEFAULT_HOST and self.namespace.lower() == DEFAULT_NAMESPACE

    def with_tag(self, tag: str) -> Name:
        return replace(self, tag=_part("tag", tag, tag))


def parse_name(text: str) -> Name:
    """Parse and complete a name.

    >>> str(parse_name("codellama"))
    'codellama:latest'
    >>> str(parse_name("https://huggingface.co/TheBloke/CodeLlama-7B-GGUF:Q4_0"))
    'hf.co/TheBloke/CodeLlama-7B-GGUF:Q4_0'

    Raises RequestError naming the part that is wrong.
    """
    if not text or len(text) > MAX_NAME:
        raise RequestError(f"a model name has 1 to {MAX_NAME} characters, this one has {len(text)}")
    bare = text.removeprefix("https://").removeprefix("http://")
    head, slash, last = bare.rpartition("/")
    model, colon, tag = last.partition(":")
    parts = head.split("/") if slash else []
    if len(parts) > 2:
        raise RequestError(f"{text!r} is not a model name: it has more than host/namespace/model")
    host = parts[0] if len(parts) == 2 else DEFAULT_HOST
    namespace = parts[-1] if parts else DEFAULT_NAMESPACE
    if host.lower() in ("huggingface.co", "www.huggingface.co", HUGGING_FACE):
        host = HUGGING_FACE
    elif namespace.lower() in ("huggingface.co", HUGGING_FACE):
        raise RequestError(f"{text!r} lacks the repository: write hf.co/ORG/REPO")
    if not _HOST.fullmatch(host):
        raise RequestError(f"{text!r} is not a model name: its host {host!r} is not one")
    return Name(
        host=DEFAULT_HOST if host.lower() == DEFAULT_HOST else host,
        namespace=_part("namespace", namespace, text),
        model=_part("model", model, text),
        tag=_part("tag", tag, text) if colon else DEFAULT_TAG,
    )


def is_name(text: str) -> bool:
    """Whether `parse_name` takes it."""
    try:
        parse_name(text)
    except RequestError:
        return False
    return True


def looks_like_path(text: str) -> bool:
    """Whether `text` is written as a path, so that it is never looked up as a name.

    >>> [looks_like_path(t) for t in ("./m", "/m", "~/m", "m.gguf", "codellama:7b", "org/model")]
    [True, True, True, True, False, False]
    """
    return (
        text.startswith(("/", "./", "../", "~", ".\\", "..\\"))
        or text in (".", "..")
        or "\\" in text
        or _DRIVE.match(text) is not None
        or (text.lower().endswith((".gguf", ".safetensors", ".pth")) and ":" not in text)
    )


def _part(kind: str, value: str, text: str) -> str:
    if not _PART.fullmatch(value):
        raise RequestError(
            f"{text!r} is not a model name: its {kind} {value!r} must be 1 to 96 letters, digits, "
            "'-', '_' or single dots, starting with a letter or digit"
        )
    return value
