"""MinHash near-deduplication: ours beside datasketch and bare rensa, one core each.

    python benchmarks/dedup.py FOLDER [--documents 600] [--rounds 3] [--out benchmarks/results]

The documents are the text files of a folder (the standard library, say), each once as it is and
once with a share of its words replaced. All three use 5-grams of words, 126 permutations, 21 bands
of 6; ours verifies candidates besides. Peers get shingles as Python strings, as their manuals have
it; what they need after that is given apart, since our signatures are rensa's own and what differs
is the way to them. Recall is against the pairs (original, copy) whose exact Jaccard similarity is
0.7 or more, found if joined, directly or through others (ours compares no two that are joined); of
the pairs found, precision is the share that truly is. `expected` is what 21 bands of 6 find on
average: a run is one draw of the permutations.

Time is CPU time of all threads, so that a busy machine changes little; rounds take the three in
turn, figures are medians.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import combinations
from pathlib import Path
from statistics import mean, median
from typing import Any

from codellama.specialize.corpus.dedup import BANDS, ROWS, SIMILAR, clusters, near_pairs
from codellama.specialize.corpus.shingles import jaccard, shingles

Pairs = set[tuple[int, int]]


def texts_of(folder: Path, limit: int) -> list[str]:
    numbers, texts = random.Random(0), []
    for path in sorted(folder.rglob("*.py")):
        text = path.read_text(encoding="utf-8", errors="replace")
        if 500 < len(text) < 40_000:
            share = numbers.choice((0.005, 0.01, 0.02, 0.03, 0.05))
            words = text.split(" ")
            copy = " ".join("zz" if numbers.random() < share else w for w in words)
            texts += [text, copy]
        if len(texts) >= limit:
            break
    return texts


def with_ours(texts: Sequence[str]) -> Pairs:
    return set(near_pairs(texts))


def with_rensa(texts: Sequence[str]) -> Pairs:
    return rensa_pairs([list(shingles(text)) for text in texts])


def with_datasketch(texts: Sequence[str]) -> Pairs:
    return datasketch_pairs([list(shingles(text)) for text in texts])


def rensa_pairs(sets: list[list[str]]) -> Pairs:
    from rensa import RMinHash

    buckets: defaultdict[tuple[int, ...], list[int]] = defaultdict(list)
    for index, each in enumerate(sets):
        sketch = RMinHash(BANDS * ROWS, 42)
        sketch.update(each)
        digest = sketch.digest()
        for band in range(BANDS):
            buckets[(band, *digest[band * ROWS : (band + 1) * ROWS])].append(index)
    return {pair for members in buckets.values() for pair in combinations(members, 2)}


def datasketch_pairs(sets: list[list[str]]) -> Pairs:
    from datasketch import MinHash, MinHashLSH

    index = MinHashLSH(params=(BANDS, ROWS), num_perm=BANDS * ROWS)
    found: Pairs = set()
    for number, each in enumerate(sets):
        sketch = MinHash(num_perm=BANDS * ROWS)
        sketch.update_batch([s.encode() for s in each])
        found.update((int(other), number) for other in index.query(sketch))
        index.insert(str(number), sketch)
    return found


def cpu_seconds(run: Callable[[], Pairs]) -> tuple[float, Pairs]:
    began = time.process_time()
    found = run()
    return time.process_time() - began, found


def measure(texts: list[str], rounds: int) -> list[dict[str, Any]]:
    """A row for each contestant."""
    sets = [shingles(text) for text in texts]
    made = [(i, i + 1) for i in range(0, len(texts), 2)]
    alike = {pair: jaccard(sets[pair[0]], sets[pair[1]]) for pair in made}
    truth = {pair for pair, similarity in alike.items() if similarity >= SIMILAR}
    expected = mean(1 - (1 - alike[pair] ** ROWS) ** BANDS for pair in truth)
    lists = [list(each) for each in sets]
    contestants: dict[str, Callable[[], Pairs]] = {
        "ours": lambda: with_ours(texts),
        "rensa": lambda: with_rensa(texts),
        "datasketch": lambda: with_datasketch(texts),
        "rensa, shingles given": lambda: rensa_pairs(lists),
        "datasketch, shingles given": lambda: datasketch_pairs(lists),
    }
    with_ours(texts[:4])
    seconds: defaultdict[str, list[float]] = defaultdict(list)
    pairs: dict[str, Pairs] = {}
    for _ in range(rounds):
        for name, run in contestants.items():
            taken, pairs[name] = cpu_seconds(run)
            seconds[name].append(taken)
    size = sum(map(len, texts)) / 1e6
    rows = []
    for name, found in pairs.items():
        right = sum(jaccard(sets[a], sets[b]) >= SIMILAR for a, b in found)
        each = median(seconds[name])
        rows.append({
            "name": name, "seconds": round(each, 4), "mb_per_s": round(size / each, 2),
            "all seconds": [round(s, 4) for s in seconds[name]],
            "recall": round(joined(truth, found, len(texts)) / max(1, len(truth)), 4),
            "expected": round(expected, 4), "true pairs": len(truth),
            "precision": round(right / max(1, len(found)), 4),
        })  # fmt: skip
    return rows


def joined(truth: Pairs, found: Pairs, count: int) -> int:
    """True pairs that are in one cluster of what was found."""
    cluster_of = {index: i for i, each in enumerate(clusters(count, found)) for index in each}
    return sum(cluster_of[a] == cluster_of[b] for a, b in truth)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--documents", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="Folder of a dated result file.")
    options = parser.parse_args()
    texts = texts_of(options.folder, options.documents)
    size = sum(map(len, texts)) / 1e6
    print(f"{len(texts)} documents, {size:.1f} MB")
    rows = measure(texts, options.rounds)
    for row in rows:
        print(
            f"{row['name']:27} {row['mb_per_s']:7.2f} MB/s   recall {row['recall']:.3f}   "
            f"of {row['expected']:.3f}   precision {row['precision']:.3f}"
        )
    if options.out is None:
        return
    today = datetime.now(UTC).date().isoformat()
    record = {
        "date": today, "machine": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("numpy", "rensa", "datasketch")},
        "documents": len(texts), "megabytes": round(size, 2), "rounds": options.rounds,
        "time": "CPU seconds of all threads, median of the rounds", "rows": rows,
    }  # fmt: skip
    path = options.out / f"{today}-dedup.json"
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(path)


if __name__ == "__main__":
    main()
