"""What went wrong, as HTTP status and public words; each dialect shapes the body itself.

Messages of our own errors may name files of this machine: what leaves the server has only their
last component.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

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
from codellama.serve.worker import BusyError

__all__ = ["Problem", "StatusError", "problem_of", "public_text"]

_PATH = re.compile(r"(?<![\w:/.])(?:~|[A-Za-z]:)?[\\/](?:[^\s'\"\\/:]+[\\/])+([^\s'\"\\/:]*)")
RETRY_S = 1


class StatusError(CodeLlamaError):
    """An answer that is an error, with its status: what routes raise about HTTP itself."""

    def __init__(self, status: int, message: str, kind: str = "invalid_request_error") -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind


@dataclass(frozen=True, slots=True)
class Problem:
    """An error ready to be shaped.

    `kind` is OpenAI's error type; `code` its code, None for none; `counts` are token counts of an
    overflow (prompt, context).
    """

    status: int
    message: str
    kind: str
    code: str | None = None
    counts: tuple[int, int] | None = None
    headers: dict[str, str] = field(default_factory=dict)


def problem_of(error: CodeLlamaError) -> Problem:
    text = public_text(str(error))
    if isinstance(error, StatusError):
        return Problem(error.status, text, error.kind)
    if isinstance(error, ContextOverflowError):
        counts = error.prompt_tokens, error.context
        return Problem(400, text, "exceed_context_size_error", "context_length_exceeded", counts)
    if isinstance(error, BusyError):
        retry = {"Retry-After": str(RETRY_S)}
        return Problem(503, text, "unavailable_error", "server_busy", headers=retry)
    if isinstance(error, NotFoundError):
        return Problem(404, text, "not_found_error", "model_not_found")
    if isinstance(error, InfillingUnsupportedError):
        return Problem(400, text, "not_supported_error")
    if isinstance(error, RequestError):
        return Problem(400, text, "invalid_request_error")
    if isinstance(error, ModelTooLargeError):
        return Problem(503, text, "unavailable_error", "insufficient_memory")
    if isinstance(error, DownloadError):
        return Problem(502, text, "api_error", "download_failed")
    assert isinstance(error, ModelFileError | CodeLlamaError)
    return Problem(500, text, "api_error")


def public_text(text: str) -> str:
    """The message with every path cut down to its last component.

    >>> public_text("cannot write in /home/me/.cache/codellama: disk full")
    'cannot write in codellama: disk full'
    """
    return _PATH.sub(lambda match: match[1] or "the store", text)
