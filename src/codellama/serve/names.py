"""Which model a request means: the name as given, or, for `codellama` where nobody has that name,
the best local one, with a notice.

Only names are taken here, never paths. Knows the hub, loads nothing.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from codellama.errors import NotFoundError, RequestError
from codellama.hub import ModelInfo, info, list_models
from codellama.hub.catalogue import RESERVED
from codellama.hub.lookup import is_loose
from codellama.hub.names import looks_like_path, parse_name

if TYPE_CHECKING:
    from codellama.hub import ModelEntry

__all__ = ["Names", "Resolved", "shown_name"]

TTL_S = 2.0  # a keystroke should not read manifests; a `codellama cp` beside us should be seen


@dataclass(frozen=True, slots=True)
class Resolved:
    """A model of this machine.

    Attributes:
        name: as the client wrote it, with its tag.
        info: what the hub knows of the model that answers.
        notice: what to tell people when that is another one; "" otherwise.
    """

    name: str
    info: ModelInfo
    notice: str = ""


class Names:
    """Resolves names, and remembers for a moment.

    Args:
        default: the model for requests without a name and for `codellama` where nobody has it; a
            name or a path, which the operator gave.
    """

    def __init__(self, default: str | None = None) -> None:
        self.default = default
        self._known: dict[str, tuple[float, Resolved]] = {}
        self._lock = threading.Lock()

    def resolve(self, name: str | None) -> Resolved:
        """Raises NotFoundError, RequestError (no name), ModelFileError."""
        key = name or ""
        with self._lock:
            at, found = self._known.get(key, (0.0, None))
            if found is not None and time.monotonic() - at < TTL_S:
                return found
        found = self._resolve(name)
        with self._lock:
            if len(self._known) > 256:
                self._known.clear()
            self._known[key] = time.monotonic(), found
        return found

    def forget(self) -> None:
        """Look again: the store has changed."""
        with self._lock:
            self._known.clear()

    def fallback(self) -> Resolved | None:
        """What `codellama` means when nobody has that name; None where nothing is here."""
        try:
            return self.resolve("codellama")
        except NotFoundError:
            return None

    def _resolve(self, name: str | None) -> Resolved:
        if not name:
            if self.default is not None:
                return Resolved(shown_name(self.default), info(self.default))
            return replace(self.resolve("codellama"), notice="")
        if is_loose(name):  # a GGUF file that a user put into the store
            found = info(name)
            if found.where == "path":
                raise NotFoundError(f"model '{name[:100]}' not found")
            return Resolved(name, found)
        if looks_like_path(name):
            raise NotFoundError(f"model '{name[:100]}' not found")
        try:
            parsed = parse_name(name)
        except RequestError:
            raise NotFoundError(f"model '{name[:100]}' not found") from None
        try:
            found = info(name)
            if found.where != "path":  # a folder of that name where the server was started
                return Resolved(str(parsed), found)
        except NotFoundError:
            pass
        family = parsed.is_library and parsed.model.lower().startswith("codellama")
        best = self._best() if family else None
        if best is None:
            raise NotFoundError(f"model '{name}' not found")
        told = f"{name} is not on this machine: {best.name} answers (codellama cp, --model)"
        return Resolved(str(parsed), best, told)

    def _best(self) -> ModelInfo | None:
        """The operator's default; else a Code Llama, else a model for code, else any."""
        if self.default is not None:
            return info(self.default)
        entries = [e for e in list_models() if e.format]
        if not entries:
            return None
        return info(max(entries, key=_suits).name)


def shown_name(text: str) -> str:
    """A path is shown by its last component alone."""
    return text.replace("\\", "/").rstrip("/").rpartition("/")[2] if looks_like_path(text) else text


def _suits(entry: ModelEntry) -> tuple[int, float]:
    name = entry.name.lower()
    rank = 3 if "codellama" in name or "code-llama" in name else 2 if "code" in name else 0
    return 1 if name in RESERVED else rank, entry.modified
