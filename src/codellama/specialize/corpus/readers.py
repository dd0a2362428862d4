"""Sources as documents: a folder (also a Git checkout), a wheel, an sdist, a Debian package, JSON
lines, Parquet.

Nothing of a source is run: wheels and archives are only unpacked, in memory, one member at a time,
with bounds on sizes. What is no text, too long or of no known language is left out and counted by
reason. Raises RequestError in one line for a source that cannot be read.
"""

from __future__ import annotations

import io
import json
import lzma
import subprocess
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from email.parser import HeaderParser
from pathlib import Path, PurePosixPath
from typing import Any

from codellama.errors import RequestError
from codellama.specialize.corpus.licenses import from_metadata, from_text, spdx_line
from codellama.specialize.corpus.record import CHAT, Record, chat_text

__all__ = ["LANGUAGES", "read_source"]

LARGEST = 1 << 20  # bytes of one file: longer ones are data or generated (BigCode: 1 MB)
_MEMBERS = 200_000  # of one archive

LANGUAGES = {
    ".py": "python", ".pyi": "python", ".js": "javascript", ".mjs": "javascript",
    ".jsx": "javascript",
    ".ts": "typescript", ".tsx": "typescript", ".java": "java", ".c": "c", ".h": "c", ".cc": "cpp",
    ".cpp": "cpp", ".hpp": "cpp", ".hh": "cpp", ".go": "go", ".rs": "rust", ".sh": "bash",
    ".php": "php", ".rb": "ruby", ".cs": "csharp", ".lua": "lua", ".pl": "perl", ".sql": "sql",
    ".rst": "rst", ".md": "markdown", ".txt": "text",
}  # fmt: skip
_PROSE = ("rst", "markdown", "text")
_LICENSE_FILES = ("license", "licence", "copying", "notice", "unlicense")

Files = Iterator[tuple[str, bytes]]
_UNREADABLE = (
    OSError, EOFError, RuntimeError, NotImplementedError, zlib.error, lzma.LZMAError,
    zipfile.BadZipFile, tarfile.TarError, subprocess.SubprocessError,
)  # fmt: skip


def read_source(
    path: Path, *, set_name: str | None = None, dropped: Counter[str]
) -> Iterator[Record]:
    """The documents of one source.

    Args:
        set_name: part of the mix; default "python" or "code" by language, "nl_code" for prose.
        dropped: reasons → files left out.
    """
    if not path.exists():
        raise RequestError(f"{path}: no such file or folder")
    kind = _kind(path)
    try:
        if kind in ("jsonl", "parquet"):
            yield from _records(path, kind, set_name, dropped)
            return
        files = {"folder": _folder, "wheel": _zip, "sdist": _tar, "deb": _deb}[kind]
        license = _license_of(path, kind)
        for name, data in files(path):
            record = _document(name, data, path.name, license, set_name, dropped)
            if record is not None:
                yield record
    except _UNREADABLE as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise RequestError(f"{path}: cannot be read: {reason}") from None


def _kind(path: Path) -> str:
    if path.is_dir():
        return "folder"
    name = path.name.lower()
    for kind, endings in {
        "wheel": (".whl", ".zip"), "sdist": (".tar.gz", ".tgz", ".tar.xz", ".tar.bz2", ".tar"),
        "deb": (".deb",), "jsonl": (".jsonl", ".jsonl.gz"), "parquet": (".parquet",),
    }.items():  # fmt: skip
        if name.endswith(endings):
            return kind
    raise RequestError(
        f"{path}: unknown kind of source; known: folders, .whl, .zip, .tar.gz, .deb, .jsonl, "
        ".parquet"
    )


def _document(
    name: str, data: bytes, source: str, license: str, set_name: str | None, dropped: Counter[str]
) -> Record | None:
    language = LANGUAGES.get(PurePosixPath(name).suffix.lower())
    if language is None:
        return None
    if len(data) > LARGEST:
        dropped["larger than 1 MB"] += 1
        return None
    if b"\0" in data:
        dropped["binary"] += 1
        return None
    try:
        text = data.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError:
        dropped["not UTF-8"] += 1
        return None
    default = "nl_code" if language in _PROSE else "python" if language == "python" else "code"
    return Record(text, language, set_name or default, spdx_line(text) or license, source, name)


def _folder(root: Path) -> Files:
    for path in sorted(root.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(root).parts)
        if hidden or path.is_symlink() or not path.is_file():
            continue
        if path.suffix.lower() in LANGUAGES:
            size = path.stat().st_size
            data = path.read_bytes() if size <= LARGEST else bytes(LARGEST + 1)
            yield path.relative_to(root).as_posix(), data


def _zip(path: Path) -> Files:
    with zipfile.ZipFile(path) as archive:
        for member in sorted(archive.infolist(), key=lambda m: m.filename)[:_MEMBERS]:
            if PurePosixPath(member.filename).suffix.lower() in LANGUAGES:
                with archive.open(member) as file:
                    yield member.filename, file.read(LARGEST + 1)


def _tar(path: Path) -> Files:
    with tarfile.open(path) as archive:
        yield from _members(archive)


def _deb(path: Path) -> Files:
    """The files of a Debian package, unpacked by dpkg-deb, which runs none of its scripts."""
    done = subprocess.run(
        ["dpkg-deb", "--fsys-tarfile", str(path)], capture_output=True, check=True, timeout=300
    )
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        yield from _members(archive)


def _members(archive: tarfile.TarFile) -> Files:
    for count, member in enumerate(archive):
        if count >= _MEMBERS:
            return
        if member.isfile() and PurePosixPath(member.name).suffix.lower() in LANGUAGES:
            file = archive.extractfile(member)
            if file is not None:
                yield member.name, file.read(LARGEST + 1)


def _license_of(path: Path, kind: str) -> str:
    """Of the whole source: a wheel's metadata, else its license file."""
    texts: list[bytes] = []
    if kind == "folder":
        for file in sorted(path.iterdir()):
            if file.is_file() and file.name.lower().startswith(_LICENSE_FILES):
                texts.append(file.read_bytes()[:LARGEST])
    elif kind == "wheel":
        with zipfile.ZipFile(path) as archive:
            names = sorted(archive.namelist())
            for name in names:
                if name.endswith(".dist-info/METADATA"):
                    headers = HeaderParser().parsestr(archive.read(name).decode("utf-8", "replace"))
                    found = from_metadata(headers.items())
                    if found != "unknown":
                        return found
            texts += [archive.read(n)[:LARGEST] for n in names if _is_license(n)]
    else:
        tar = subprocess.run(
            ["dpkg-deb", "--fsys-tarfile", str(path)], capture_output=True, check=True, timeout=300
        ).stdout if kind == "deb" else path.read_bytes()  # fmt: skip
        with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
            for member in archive:
                if member.isfile() and _is_license(member.name):
                    opened = archive.extractfile(member)
                    texts += [opened.read(LARGEST)] if opened else []
    licenses = [from_text(text.decode("utf-8", "replace")) for text in texts]
    return next((name for name in licenses if name != "unknown"), "unknown")


def _is_license(name: str) -> bool:
    last = PurePosixPath(name).name.lower()
    return last.startswith(_LICENSE_FILES) or last == "copyright"


def _records(
    path: Path, kind: str, set_name: str | None, dropped: Counter[str]
) -> Iterator[Record]:
    """Rows with `text`, `content` or `messages`; language, license and path as far as given."""
    for number, row in enumerate(_rows(path, kind), 1):
        text = _text_of(row) if isinstance(row, dict) else None
        if not isinstance(text, str) or not text:
            dropped["no text in the row"] += 1
            continue
        language = str(row.get("language", "text")).lower()
        license = row.get("license", "unknown")
        license = " OR ".join(map(str, license)) if isinstance(license, list) else str(license)
        where = str(row.get("path", f"{path.name}:{number}"))
        if "messages" in row:
            language, default = CHAT, "instruct"
        else:
            default = "python" if language == "python" else "code"
        name = set_name or str(row.get("set", default))
        yield Record(text, language, name, license, path.name, where)


def _text_of(row: dict[str, Any]) -> str | None:
    """A row's text; of a conversation [{"role", "content"}, …] its JSON."""
    if "messages" not in row:
        text = row.get("text", row.get("content"))
        return text if isinstance(text, str) else None
    messages = row["messages"]
    if not isinstance(messages, list) or not messages:
        return None
    pairs = [(m.get("role"), m.get("content")) for m in messages if isinstance(m, dict)]
    if len(pairs) < len(messages) or not all(isinstance(t, str) for pair in pairs for t in pair):
        return None
    return chat_text([(str(role), str(content)) for role, content in pairs])


def _rows(path: Path, kind: str) -> Iterator[Any]:
    if kind == "parquet":
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile

        try:
            for batch in ParquetFile(path).iter_batches(1024):
                yield from batch.to_pylist()
        except ArrowException as error:
            raise RequestError(f"{path}: is no Parquet file: {error}") from None
        return
    import gzip

    with gzip.open(path) if path.name.endswith(".gz") else path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                yield json.loads(line)
            except ValueError:
                raise RequestError(f"{path}, line {number}: is not JSON") from None
