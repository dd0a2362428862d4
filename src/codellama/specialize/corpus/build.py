"""A corpus folder from sources, one step after the other, kept under the hash of what went in.

    CORPUS/
    ├── shards/SET-SOURCE-HASH.jsonl.gz    cleaned documents of one source
    ├── kept.jsonl.gz                      after deduplication over all sources
    └── manifest.json                      sources, counts by reason, licenses, tokens' bytes

Each source becomes a shard by a pure function of its bytes and the options, and is read again only
when either changes, by as many processes as wanted; so is the join over all of them. Raises
RequestError when nothing is left.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from codellama.errors import RequestError
from codellama.specialize.corpus import filters
from codellama.specialize.corpus.cleaning import contamination, redacted
from codellama.specialize.corpus.decontaminate import Decontaminator
from codellama.specialize.corpus.dedup import keep_one
from codellama.specialize.corpus.readers import read_source
from codellama.specialize.corpus.record import Record, read_shard, write_shard
from codellama.specialize.corpus.units import UNITS
from codellama.weights.files import atomic_file, read_json

__all__ = ["CorpusOptions", "build_corpus", "load_corpus"]

VERSION = 2
"""Changes when the steps do, so that old shards are not taken for new ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusOptions:
    """What is kept.

    Attributes:
        permissive_only: only licenses of licenses.PERMISSIVE.
        unit: "file"; or of Python, "definition": functions one by one; "standalone": those that
            need little but the language. Other languages stay whole files.
        redact: replace secrets, e-mail and public IP addresses.
    """

    permissive_only: bool = True
    unit: str = "file"
    redact: bool = True

    def __post_init__(self) -> None:
        if self.unit != "file" and self.unit not in UNITS:
            raise RequestError(f"unit is {self.unit!r}: it must be file, {' or '.join(UNITS)}")


def build_corpus(
    sources: Sequence[tuple[str | None, Path]],
    folder: Path,
    options: CorpusOptions = CorpusOptions(),
    *,
    against: Iterable[str] = (),
    jobs: int = 1,
    progress: Callable[[int, int, str], None] | None = None,
) -> dict[str, Any]:
    """Build or bring up to date; returns the manifest.

    Args:
        sources: (set or None, path).
        against: texts of evaluation suites.
        jobs: processes that read sources, each with the evaluations in memory.
        progress: called with (sources done, sources in all, what).
    """
    if not sources:
        raise RequestError("a corpus needs at least one source")
    told = progress or (lambda done, total, what: None)
    texts = sorted(against)
    evaluations = hashlib.sha256("\0".join(texts).encode("utf-8", "surrogatepass")).hexdigest()[:16]
    shards = folder / "shards"
    marks = [_mark(path, set_name, options, evaluations) for set_name, path in sources]
    missing = {
        mark: _Source(path, set_name, options, shards / mark)
        for mark, (set_name, path) in zip(marks, sources, strict=True)
        if not (shards / f"{mark}.json").is_file()
    }
    done = len(sources) - len(missing)
    if missing:
        waiting = [source.path.name for source in missing.values()]
        told(done, len(sources), f"reading {', '.join(waiting[:2])}{', …' * (len(waiting) > 2)}")
    for name in _read_all(list(missing.values()), texts, jobs):
        done += 1
        told(done, len(sources), f"read {name}")
    told(len(sources), len(sources), "removing duplicates")
    names = [shards / f"{mark}.jsonl.gz" for mark in marks]
    reports = [read_json(shards / f"{mark}.json") for mark in marks]
    return _join(folder, names, reports, {**asdict(options), "evaluations": evaluations})


class _Source(NamedTuple):
    """One to be read. `shard` is the path of what it becomes, without an ending."""

    path: Path
    set: str | None
    options: CorpusOptions
    shard: Path


def _read_all(sources: list[_Source], evaluations: list[str], jobs: int) -> Iterator[str]:
    """Make every source's shard; yields their names as they are done, the large ones begun first.

    Raises what a reader raises, and RequestError where one was killed.
    """
    if not sources:
        return
    if jobs < 2 or len(sources) < 2:
        guard = Decontaminator(evaluations)
        for source in sources:
            _build_shard(source, guard)
            yield source.path.name
        return
    sources = sorted(sources, key=lambda source: -_size(source.path))
    context = multiprocessing.get_context("spawn")  # threads of this process do not survive a fork
    with ProcessPoolExecutor(
        min(jobs, len(sources)), context, _start_reader, (evaluations,)
    ) as pool:
        begun = {pool.submit(_read_one, source): source for source in sources}
        try:
            for future in as_completed(begun):
                future.result()
                yield begun[future].path.name
        except BrokenProcessPool:
            raise RequestError(
                "a process that read sources was killed, for want of memory perhaps: what is done "
                "is kept; `--jobs 1` needs least"
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)


_reader: list[Decontaminator] = []  # of a reading process: what it was started with


def _start_reader(evaluations: list[str]) -> None:
    _reader.append(Decontaminator(evaluations))


def _read_one(source: _Source) -> None:
    _build_shard(source, _reader[0])


def _size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else (path,)
    return sum(file.stat().st_size for file in files if file.is_file())


def _mark(path: Path, set_name: str | None, options: CorpusOptions, evaluations: str) -> str:
    """Changes with the source's bytes (a folder's by names, sizes and times) and all options."""
    digest = hashlib.sha256(f"{VERSION}\0{set_name}\0{options}\0{evaluations}\0".encode())
    if path.is_dir():
        for file in sorted(path.rglob("*")):
            if file.is_file():
                stat = file.stat()
                digest.update(f"{file}\0{stat.st_size}\0{stat.st_mtime_ns}\0".encode())
    elif path.is_file():
        with path.open("rb") as opened:
            while block := opened.read(1 << 20):
                digest.update(block)
    else:
        raise RequestError(f"{path}: no such file or folder")
    return digest.hexdigest()[:20]


def _build_shard(source: _Source, guard: Decontaminator) -> None:
    path, set_name, options, shard = source
    dropped: Counter[str] = Counter()
    secrets: Counter[str] = Counter()
    kept: list[Record] = []
    for record in read_source(path, set_name=set_name, dropped=dropped):
        why = filters.reason(record, permissive_only=options.permissive_only)
        if why is not None:
            dropped[why] += 1
            continue
        if options.redact:
            record, found = redacted(record)
            secrets += found
        units = _units(record, options)
        for unit in units:
            why = contamination(unit, guard) if len(guard) else None
            if why is None:
                kept.append(unit)
            else:
                dropped[why] += 1
    shard.parent.mkdir(parents=True, exist_ok=True)
    draft = shard.with_suffix(".partial")
    count = write_shard(draft, kept)
    draft.replace(shard.with_suffix(".jsonl.gz"))
    about = {
        "source": path.name, "documents": count, "characters": sum(len(r.text) for r in kept),
        "dropped": dict(dropped.most_common()), "redacted": dict(secrets),
    }  # fmt: skip
    atomic_file(shard.with_suffix(".json"), json.dumps(about).encode())


def _units(record: Record, options: CorpusOptions) -> list[Record]:
    if options.unit == "file" or record.language != "python":
        return [record]
    return [record.with_text(unit) for unit in UNITS[options.unit](record.text)]


def _join(
    folder: Path, shards: list[Path], reports: list[dict[str, Any]], options: dict[str, Any]
) -> dict[str, Any]:
    """Deduplicate over all shards and write the result and its manifest."""
    key = hashlib.sha256("\0".join(s.name for s in shards).encode()).hexdigest()[:20]
    target = folder / "manifest.json"
    if target.is_file() and (known := read_json(target)).get("key") == key:
        return known
    records = [record for shard in shards for record in read_shard(shard)]
    kept = keep_one(records) if records else []
    dropped: Counter[str] = Counter()
    redacted: Counter[str] = Counter()
    for report in reports:
        dropped.update(report["dropped"])
        redacted.update(report["redacted"])
    dropped["duplicate"] = len(records) - len(kept)
    if not kept:
        reasons = ", ".join(f"{count} {why}" for why, count in dropped.most_common(4) if count)
        raise RequestError(f"no document is left of these sources: {reasons or 'they are empty'}")
    draft = folder / "kept.partial"
    write_shard(draft, kept)
    draft.replace(folder / "kept.jsonl.gz")
    manifest = {
        "key": key,
        "options": options,
        "sources": reports,
        "dropped": dict(dropped.most_common()),
        "redacted": dict(redacted),
        "sets": _tally(kept, lambda r: r.set),
        "languages": _tally(kept, lambda r: r.language),
        "licenses": _tally(kept, lambda r: r.license),
        "attribution": sorted({f"{r.source}: {r.license}" for r in kept}),
    }
    atomic_file(target, json.dumps(manifest, indent=1).encode())
    return manifest


def _tally(records: list[Record], of: Callable[[Record], str]) -> dict[str, dict[str, int]]:
    documents: Counter[str] = Counter()
    characters: Counter[str] = Counter()
    for record in records:
        documents[of(record)] += 1
        characters[of(record)] += len(record.text)
    return {
        name: {"documents": count, "characters": characters[name]}
        for name, count in documents.most_common()
    }


def load_corpus(folder: Path) -> dict[str, list[Record]]:
    """Set → documents of a folder that `build_corpus` made.

    Raises RequestError when it is none.
    """
    path = folder / "kept.jsonl.gz"
    if not path.is_file():
        raise RequestError(
            f"{folder}: holds no corpus: run `codellama corpus build {folder} SOURCE…`"
        )
    sets: dict[str, list[Record]] = {}
    for record in read_shard(path):
        sets.setdefault(record.set, []).append(record)
    return sets
