"""Code Llama as one tool: `from codellama import CodeLlama, SamplingParams`.

This is the whole public surface; every other name may move. Each is loaded when it is first asked
for, so that `import codellama` costs nothing and the command line starts at once.

>>> from codellama import CodeLlama                               # doctest: +SKIP
>>> llm = CodeLlama.load("smollm2:135m")                          # doctest: +SKIP
>>> llm.complete("def fib(n):", max_tokens=64).text               # doctest: +SKIP
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from codellama.api import CodeLlama, Completion, TextIterator, Usage
    from codellama.engine.params import SamplingParams
    from codellama.engine.request import TokenLogprob
    from codellama.errors import (
        CodeLlamaError,
        ContextOverflowError,
        DownloadError,
        InfillingUnsupportedError,
        ModelFileError,
        ModelTooLargeError,
        NotFoundError,
        RequestError,
    )

__all__ = [
    "CodeLlama",
    "CodeLlamaError",
    "Completion",
    "ContextOverflowError",
    "DownloadError",
    "InfillingUnsupportedError",
    "ModelFileError",
    "ModelTooLargeError",
    "NotFoundError",
    "RequestError",
    "SamplingParams",
    "TextIterator",
    "TokenLogprob",
    "Usage",
    "__version__",
]

_HOMES = {
    "CodeLlama": "codellama.api",
    "Completion": "codellama.api",
    "TextIterator": "codellama.api",
    "Usage": "codellama.api",
    "SamplingParams": "codellama.engine.params",
    "TokenLogprob": "codellama.engine.request",
}


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import version

        return version("codellama")
    if name not in __all__:
        raise AttributeError(f"module 'codellama' has no attribute {name!r}")
    value: object = getattr(import_module(_HOMES.get(name, "codellama.errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
