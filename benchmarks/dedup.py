"""MinHash near-deduplication: ours beside datasketch and bare rensa, one core each.

    python benchmarks/dedup.py FOLDER [--documents 2000]

The documents are the text files of a folder (the standard library, say), each once as it is and
once with a share of its words replaced. All three use 5-grams of words, 126 permutations, 21 bands
of 6; ours verifies candidates besides. Recall is against the pairs (original, copy) whose exact
Jaccard similarity is 0.7 or more; of what is found, precision is the share that truly is.
"""

from __future__ import annotations

import argparse
import random
import time
from collections import defaultdict
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

from codellama.specialize.corpus.dedup import BANDS, ROWS, SIMILAR, jaccard, near_pairs, shingles

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


def with_ours(texts: list[str]) -> Pairs:
    return set(near_pairs(texts))


def with_rensa(texts: list[str]) -> Pairs:
    from rensa import RMinHash

    buckets: defaultdict[tuple[int, ...], list[int]] = defaultdict(list)
    for index, text in enumerate(texts):
        sketch = RMinHash(BANDS * ROWS, 42)
        sketch.update(list(shingles(text)))
        digest = sketch.digest()
        for band in range(BANDS):
            buckets[(band, *digest[band * ROWS : (band + 1) * ROWS])].append(index)
    return {pair for members in buckets.values() for pair in combinations(members, 2)}


def with_datasketch(texts: list[str]) -> Pairs:
    from datasketch import MinHash, MinHashLSH

    index = MinHashLSH(params=(BANDS, ROWS), num_perm=BANDS * ROWS)
    found: Pairs = set()
    for number, text in enumerate(texts):
        sketch = MinHash(num_perm=BANDS * ROWS)
        sketch.update_batch([s.encode() for s in shingles(text)])
        found.update((int(other), number) for other in index.query(sketch))
        index.insert(str(number), sketch)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--documents", type=int, default=600)
    options = parser.parse_args()
    texts = texts_of(options.folder, options.documents)
    size = sum(map(len, texts)) / 1e6
    sets = [shingles(text) for text in texts]
    made = [(i, i + 1) for i in range(0, len(texts), 2)]
    truth = {pair for pair in made if jaccard(sets[pair[0]], sets[pair[1]]) >= SIMILAR}
    print(f"{len(texts)} documents, {size:.1f} MB, {len(truth)} true pairs")
    contestants: dict[str, Callable[[list[str]], Pairs]] = {
        "ours": with_ours, "rensa": with_rensa, "datasketch": with_datasketch,
    }  # fmt: skip
    for name, run in contestants.items():
        run(texts[:4])
        began = time.perf_counter()
        found = run(texts)
        seconds = time.perf_counter() - began
        right = sum(jaccard(sets[a], sets[b]) >= SIMILAR for a, b in found)
        recall = len(truth & found) / max(1, len(truth))
        precision = right / max(1, len(found))
        speed = f"{size / seconds:6.2f} MB/s"
        print(f"{name:11} {speed}   recall {recall:.3f}   precision {precision:.3f}")


if __name__ == "__main__":
    main()
