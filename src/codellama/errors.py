"""Every error a user can cause, as one tree: one clear line each, no traceback needed to act on it.

CodeLlamaError
├── NotFoundError           a model name or path that leads nowhere
├── ModelFileError          a file that is damaged, hostile, incomplete or of an unknown kind
├── ModelTooLargeError      weights or KV cache that do not fit in memory (says by how much)
├── ContextOverflowError    a prompt longer than the context (says both counts)
├── RequestError            a parameter out of range, or a request that this model cannot serve
│   └── InfillingUnsupportedError   the model has no infilling tokens
└── DownloadError           the network or the registry failed, or the bytes are not those promised

Programming mistakes inside the project are assertions, not members of this tree. Leaf module:
imports nothing of ours.
"""

from __future__ import annotations

__all__ = [
    "CodeLlamaError",
    "ContextOverflowError",
    "DownloadError",
    "InfillingUnsupportedError",
    "ModelFileError",
    "ModelTooLargeError",
    "NotFoundError",
    "RequestError",
]


class CodeLlamaError(Exception):
    """Base of every error meant for a user; its text is one line: what is wrong, what to do."""


class NotFoundError(CodeLlamaError):
    """No model of this name or path."""


class ModelFileError(CodeLlamaError):
    """A model file cannot be used: truncated, hostile, of an unknown format or architecture."""


class ModelTooLargeError(CodeLlamaError):
    """The model or the requested context needs more memory than there is."""


class ContextOverflowError(CodeLlamaError):
    """The prompt does not fit. Both counts are attributes, for every dialect to report."""

    def __init__(self, prompt_tokens: int, context: int, *, reserved: int = 0) -> None:
        self.prompt_tokens = prompt_tokens
        self.context = context
        self.reserved = reserved
        tail = f" with {reserved} kept for the answer" if reserved else ""
        super().__init__(
            f"the prompt has {prompt_tokens} tokens, the context holds {context}{tail}: "
            "shorten the prompt or load the model with a longer context"
        )


class RequestError(CodeLlamaError):
    """A request this model or engine cannot serve; the message names the field and its range."""


class InfillingUnsupportedError(RequestError):
    """The vocabulary has no infilling tokens (Python and 34B variants, general Llamas)."""


class DownloadError(CodeLlamaError):
    """A download failed or its bytes are not those promised; nothing half written remains."""
