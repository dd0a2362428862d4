"""What training for code cost in English: bits per byte of texts that no stage had, left to right.

    python benchmarks/english.py smollm2:135m codellama-smol:135m --data DATA --out NAME

DATA holds bold/ (Dhamala et al. 2021) and truthfulqa/ (Lin et al. 2022). Three sets, drawn by a
fixed seed: sentences of Wikipedia (BOLD), questions each with all of its answers, right and wrong,
and questions each with its best answer. The first model is the one that others are compared with.
The first token of a text is given. Intervals are of a bootstrap over texts. Does not measure what
the models know, or answers.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import math
import random
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt

from codellama import CodeLlama, __version__
from codellama.bench.machine import processor
from codellama.cli.output import count_bar
from codellama.evaluate.statistics import bootstrap
from codellama.hub import resolve

RESULTS = Path(__file__).parent / "results"

Sets = dict[str, list[str]]

SENTENCES, QUESTIONS, BEST = 400, 150, 400


def texts_of(data: Path) -> Sets:
    """Set → texts. The questions of the second set are not in the third."""
    sentences = []
    for path in sorted((data / "bold" / "wikipedia").glob("*.json.gz")):
        groups = json.loads(gzip.decompress(path.read_bytes()))
        for entities in groups.values():
            sentences += [text for found in entities.values() for text in found]
    with (data / "truthfulqa" / "TruthfulQA_v1.csv").open(encoding="utf-8-sig") as opened:
        rows = list(csv.DictReader(opened))
    numbers = random.Random(0)
    sentences = numbers.sample(sorted(set(sentences)), SENTENCES)
    numbers.shuffle(rows)
    answers = [
        f"{row['Question']} {answer.strip()}"
        for row in rows[:QUESTIONS]
        for answer in (row["Correct Answers"] + ";" + row["Incorrect Answers"]).split(";")
        if answer.strip()
    ]
    best = [f"{r['Question']} {r['Best Answer']}" for r in rows[QUESTIONS : QUESTIONS + BEST]]
    return {"BOLD, Wikipedia": sentences, "TruthfulQA, all answers": answers, "… best": best}


def bits(llm: CodeLlama, texts: list[str], name: str) -> tuple[npt.NDArray[np.float64], int]:
    """Bits of each text without its first token, and the bytes of all that were predicted."""
    found, count = [], 0
    with count_bar() as bar:
        for done, text in enumerate(texts):
            bar(done, len(texts), name)
            ids = llm.tokenizer.encode(text)
            found.append(-float(np.sum(llm.engine.logprobs(ids))) / math.log(2))
            count += sum(len(llm.tokenizer.piece(id)) for id in ids[1:])
    return np.array(found), count


def change(
    before: npt.NDArray[np.float64], after: npt.NDArray[np.float64]
) -> tuple[float, float, float]:
    """Relative change of the sum, and its 95% interval over texts, paired."""

    def ratio(places: npt.NDArray[np.float64]) -> float:
        drawn = places.astype(np.int64)
        return float(after[drawn].sum() / before[drawn].sum() - 1)

    every = np.arange(len(before), dtype=np.float64)
    return ratio(every), *bootstrap([*every], ratio)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("models", nargs="+", help="the first is what others are compared with")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", default="", help="name of the result files; none: print only")
    wish = parser.parse_args()
    sets = texts_of(wish.data)
    rows = []
    first: dict[str, npt.NDArray[np.float64]] = {}
    for model in wish.models:
        llm = CodeLlama.load(resolve(model))
        for name, texts in sets.items():
            found, size = bits(llm, texts, f"{model}: {name}")
            first.setdefault(name, found)
            row = {
                "model": model,
                "set": name,
                "texts": len(texts),
                "bytes": size,
                "bits per byte": float(found.sum()) / size,
                "change": change(first[name], found),
            }
            rows.append(row)
    lines = ["| model | text | bits per byte | change |", "|---|---|---:|---:|"]
    for row in rows:
        ratio, low, high = row["change"]
        lines.append(
            f"| {row['model']} | {row['set']}, {row['texts']} | {row['bits per byte']:.4f} | "
            f"{ratio:+.1%} ({low:+.1%} to {high:+.1%}) |"
        )
    text = "\n".join(lines) + "\n"
    print(text, end="")
    if wish.out:
        about = {
            "date": datetime.now(UTC).date().isoformat(),
            "machine": processor(),
            "codellama": __version__,
            "rows": rows,
        }
        path = RESULTS / f"{about['date']}-{wish.out}"
        path.with_suffix(".json").write_text(json.dumps(about, indent=1) + "\n")
        path.with_suffix(".md").write_text(text)


if __name__ == "__main__":
    main()
