"""Long context: perplexity by position, key retrieval, completion in long files (paper §3.3 and
appendix F.2, Figures 4 and 8b, Tables 7, 17 and 18)."""

from __future__ import annotations

import random
from collections import defaultdict
from math import exp
from typing import Any

from codellama.evaluate.asks import Ask, Continue, Positions, Raw
from codellama.evaluate.bleu import edit_similarity, sentence_bleu
from codellama.evaluate.corpus import held_out_files
from codellama.evaluate.data import Data
from codellama.evaluate.statistics import bootstrap, mean
from codellama.evaluate.suite import Executor, Outcome, Problem, Suite, average
from codellama.evaluate.verdicts import Verdict

__all__ = ["KeyRetrieval", "LccStyle", "Perplexity"]

OWN = "own held-out split (every tenth file, by a hash of its path), not the paper's data"
POSITIONS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
ANSWER = 8


class LongContext(Suite):
    """What the long-context suites share: lengths up to the model's own."""

    executes = False
    contaminable = False
    parallel = 2
    lengths: tuple[int, ...] = (2048, 4096, 8192)

    def __init__(self, data: Data, *rest: Any) -> None:
        super().__init__(*rest)
        self.data = data
        self._made: list[Problem] | None = None

    def problems(self) -> list[Problem]:
        if self._made is None:
            self._made = self.make()
        return self._made

    def make(self) -> list[Problem]:
        raise NotImplementedError

    def wished(self) -> tuple[int, ...]:
        longest = self.model.context if self.model else 1 << 30
        return tuple(each for each in self.options.lengths or self.lengths if each <= longest)

    def count(self, text: str) -> int:
        """Tokens of a text; without a model (scoring alone) a guess of 3 characters a token."""
        return self.model.count(text) if self.model else len(text) // 3


class Perplexity(LongContext):
    """exp of the mean negative log-likelihood: of files cut to each length (Figure 4a), and by
    position in the longest.
    """

    name = "perplexity"
    title = "Perplexity by position, own split"
    table = "Figure 4a"
    metric = "perplexity"
    most = 16
    buckets = (0, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072)

    def make(self) -> list[Problem]:
        longest = max(self.wished(), default=0)
        found: list[Problem] = []
        for name, text in held_out_files(self.options.corpus):
            head = text[: longest * 8]
            if len(text) > 2 * longest and self.count(head) >= longest:
                found.append(Problem(name, head[:500], {"text": head, "tokens": longest}))
            if len(found) == self.most:
                break
        return found

    def ask(self, problem: Problem) -> Ask:
        return Positions(problem.data["text"], problem.data["tokens"])

    def judge(self, problem: Problem, completion: Any, execute: Executor) -> Outcome:
        losses = list(map(float, completion))
        values = {f"nll@{n}": mean(losses[: n - 1]) for n in self.wished() if n <= len(losses) + 1}
        for low, high in zip(self.buckets, self.buckets[1:], strict=False):
            # Loss i is that of the token at position i + 1.
            if part := losses[max(low - 1, 0) : high - 1]:
                values[f"nll {low}-{high}"] = mean(part)
        return Outcome(Verdict("passed"), values)

    def score(self, problems: Any, outcomes: Any) -> dict[str, Any]:
        keys = {key: None for samples in outcomes.values() for o in samples for key in o.values}
        figures: dict[str, Any] = {}
        for key in keys:
            name = key.replace("nll", "perplexity")
            losses = average(outcomes, key)
            figures[name] = exp(mean(losses))
            figures[f"{name} 95%"] = [exp(each) for each in bootstrap(losses)]
        lengths = [key for key in figures if "@" in key and not key.endswith("%")]
        if lengths:
            longest = lengths[-1]
            interval = figures[f"{longest} 95%"]
            figures = {"perplexity": figures[longest], "perplexity 95%": interval, **figures}
        return figures

    def notes(self) -> list[str]:
        return [OWN]

    def oracle(self, problem: Problem) -> Raw:
        return [0.0] * (problem.data["tokens"] - 1)

    def wrong(self, problem: Problem) -> Raw:
        return [20.0] * (problem.data["tokens"] - 1)


class KeyRetrieval(LongContext):
    """A function that returns a number, somewhere in a long file, is called at its end: which
    number? Filler is MBPP's solutions; the paper's was CodeContests'.
    """

    name = "key-retrieval"
    title = "Key retrieval"
    table = "Table 17"
    metric = "accuracy"
    repeats = 4

    def make(self) -> list[Problem]:
        solutions = [
            each["code"].replace("\r\n", "\n") for each in self.data.lines("mbpp/mbpp.jsonl")
        ]
        found = []
        for i in range(self.repeats):  # outermost: a part of the problems has every cell
            for length in self.wished():
                for position in POSITIONS:
                    found.append(self._problem(length, position, i, solutions))
        return found

    def _problem(self, length: int, position: float, i: int, solutions: list[str]) -> Problem:
        generator = random.Random(f"{length}/{position}/{i}")
        value = generator.randrange(10, 100)
        key = (
            "def my_function() -> int:\n"
            '    """Note that this function is used at the end\n    """\n'
            f"    return {value}"
        )
        end = "assert my_function() == "
        room = length - ANSWER - self.count(f"{key}\n\n{end}") - 4
        filler = self._filler(room, generator, solutions)
        place = round(position * len(filler))
        text = "\n\n".join([*filler[:place], key, *filler[place:], end])
        task_id = f"{length}/{position:g}/{i}"
        return Problem(task_id, text, {"value": value, "length": length, "position": position})

    def _filler(self, room: int, generator: random.Random, solutions: list[str]) -> list[str]:
        """Whole functions, as many as fit."""
        filler: list[str] = []
        used = 0
        while used < room:
            each = generator.choice(solutions)
            used += self.count(f"{each}\n\n") + 1
            if used < room:
                filler.append(each)
        return filler

    def ask(self, problem: Problem) -> Ask:
        return Continue(problem.prompt, ("\n",), ANSWER)

    def judge(self, problem: Problem, completion: Any, execute: Executor) -> Outcome:
        right = str(completion).strip().split("#")[0].strip() == str(problem.data["value"])
        cell = f"{problem.data['length']} @ {problem.data['position']:g}"
        return Outcome(Verdict("passed" if right else "failed"), {cell: float(right)})

    def score(self, problems: Any, outcomes: Any) -> dict[str, Any]:
        cells: dict[str, list[float]] = defaultdict(list)
        for samples in outcomes.values():
            for each in samples:
                for cell, right in each.values.items():
                    cells[cell].append(right)
        every = [right for values in cells.values() for right in values]
        figures: dict[str, Any] = {"accuracy": mean(every), "accuracy 95%": list(bootstrap(every))}
        return figures | {cell: mean(values) for cell, values in cells.items()}

    def notes(self) -> list[str]:
        return [f"at most {self.repeats} examples a cell; filler from MBPP's solutions"]

    def oracle(self, problem: Problem) -> Raw:
        return str(problem.data["value"])

    def wrong(self, problem: Problem) -> Raw:
        return "7"


class LccStyle(LongContext):
    """The next line in a long file: exact match and BLEU, by the file's length so far."""

    name = "lcc-style"
    title = "Completion in long files, lcc-style, own split"
    table = "Table 7"
    metric = "exact match"
    lengths = (1024, 2048, 4096, 7936)
    per_length = 16

    def make(self) -> list[Problem]:
        wanted = {length: self.per_length for length in self.wished()}
        found: list[Problem] = []
        for name, text in held_out_files(self.options.corpus):
            length = max(wanted, key=lambda each: (wanted[each], each), default=0)
            if not length or not wanted[length]:
                break
            problem = self._problem(name, text, length)
            if problem is not None:
                wanted[length] -= 1
                found.append(problem)
        return found

    def _problem(self, name: str, text: str, length: int) -> Problem | None:
        """A cut before a line of some substance, with about `length` tokens in front."""
        lines = text.splitlines(keepends=True)
        used = 0
        for i, line in enumerate(lines):
            if (
                used > 0.7 * length
                and len(line.strip()) >= 10
                and not line.lstrip().startswith("#")
            ):
                record = {"line": line.strip(), "length": length}
                return Problem(f"{name}:{i + 1}", "".join(lines[:i]), record)
            used += self.count(line)
            if used > length - 200:
                return None
        return None

    def ask(self, problem: Problem) -> Ask:
        return Continue(problem.prompt, (), 64)

    def extract(self, problem: Problem, raw: Raw) -> str:
        assert isinstance(raw, str)
        return next((line.strip() for line in raw.splitlines() if line.strip()), "")

    def judge(self, problem: Problem, completion: Any, execute: Executor) -> Outcome:
        wanted = problem.data["line"]
        right = completion == wanted
        values = {
            "exact match": float(right),
            "BLEU-4": sentence_bleu(completion, wanted),
            "edit similarity": edit_similarity(completion, wanted),
            f"exact match @{problem.data['length']}": float(right),
        }
        return Outcome(Verdict("passed" if right else "failed"), values)

    def score(self, problems: Any, outcomes: Any) -> dict[str, Any]:
        keys = {key: None for samples in outcomes.values() for o in samples for key in o.values}
        figures: dict[str, Any] = {key: mean(average(outcomes, key)) for key in keys}
        figures["exact match 95%"] = list(bootstrap(average(outcomes, "exact match")))
        return figures

    def notes(self) -> list[str]:
        return [f"lcc-style: {OWN}"]

    def oracle(self, problem: Problem) -> Raw:
        return f"    {problem.data['line']}\n"
