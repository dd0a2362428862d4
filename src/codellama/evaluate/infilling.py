"""Infilling: HumanEval's gaps by tests, SantaCoder's lines by exact match, docstrings by BLEU
(paper §3.2 and appendix D, Tables 6, 13 and 14)."""

from __future__ import annotations

import ast
from typing import Any

from codellama.evaluate.asks import Ask, Continue, Fill, Raw
from codellama.evaluate.bleu import sentence_bleu
from codellama.evaluate.corpus import held_out_files
from codellama.evaluate.data import Data
from codellama.evaluate.programs import humaneval_tests
from codellama.evaluate.statistics import bootstrap, mean
from codellama.evaluate.suite import Executor, Outcome, Problem, Suite, average
from codellama.evaluate.verdicts import Verdict

__all__ = ["DocstringInfilling", "HumanEvalInfilling", "SantacoderFim"]


class Infilling(Suite):
    """What the infilling suites share: a middle is asked for, in the order wished; of a model that
    cannot infill, the continuation of the prefix alone, which the notes call the baseline.
    """

    stop: tuple[str, ...] = ()

    def __init__(self, data: Data, *rest: Any) -> None:
        super().__init__(*rest)
        self.data = data

    @property
    def baseline(self) -> bool:
        return not self.infills

    def gap(self, prefix: str, suffix: str, lines: int) -> Ask:
        """A question for `lines` lines between two texts."""
        longest = self.options.max_tokens or 512
        if self.baseline:
            return Continue(prefix, self.stop or ("\n" * 3,), min(longest, 64 * max(lines, 1)))
        options = self.options
        return Fill(
            prefix,
            suffix,
            options.order or "spm",
            stop=self.stop,
            max_tokens=longest,
            heal=options.heal,
            until_suffix=options.until_suffix,
            nonempty=options.nonempty,
            dry=options.dry,
        )

    def extract(self, problem: Problem, raw: Raw) -> str:
        """Of the baseline, as many lines as the gap has: it knows no end."""
        assert isinstance(raw, str)
        if not self.baseline:
            return raw
        kept = raw.splitlines(keepends=True)[: self.lines(problem)]
        return "".join(kept).removesuffix("\n") + self.ending(problem)

    def lines(self, problem: Problem) -> int:
        return max(1, len(problem.data["canonical_solution"].splitlines()))

    def ending(self, problem: Problem) -> str:
        return "\n" if problem.data["canonical_solution"].endswith("\n") else ""

    def notes(self) -> list[str]:
        if self.baseline:
            return [
                "this model cannot infill: the prefix alone was continued, cut to the gap's number "
                "of lines (the prefix-only baseline)"
            ]
        order = (self.options.order or "spm").upper()
        healed = "with" if self.options.heal else "no"
        notes = [f"prompts in {order} order, {healed} token healing"]
        if self.options.until_suffix:
            notes.append("answers end where they begin to repeat the suffix")
        if self.options.dry:
            notes.append(f"repeats within an answer are penalized (DRY, {self.options.dry:g})")
        if self.options.nonempty:
            notes.append("answers are more than white space: that something is missing is given")
        return notes

    def oracle(self, problem: Problem) -> Raw:
        middle: str = problem.data["canonical_solution"]
        return middle

    def wrong(self, problem: Problem) -> Raw:
        return "    raise SystemExit\n"


class HumanEvalInfilling(Infilling):
    """HumanEval's solutions with a gap, judged by their tests (Bavarian et al. 2022)."""

    table = "Table 14"
    file: str

    def __init_subclass__(cls, kind: str, file: str) -> None:
        cls.name = f"humaneval-infilling-{kind}"
        cls.title = f"HumanEval infilling, {kind.replace('-', ' ')}"
        cls.file = f"humaneval_infilling/HumanEval-{file}.jsonl"

    def problems(self) -> list[Problem]:
        return [
            Problem(each["task_id"], each["prompt"], each) for each in self.data.lines(self.file)
        ]

    def ask(self, problem: Problem) -> Ask:
        return self.gap(problem.prompt, problem.data["suffix"], self.lines(problem))

    def judge(self, problem: Problem, completion: Any, execute: Executor) -> Outcome:
        record = dict(problem.data)
        code = problem.prompt + str(completion) + record["suffix"]
        reference = problem.prompt + record["canonical_solution"] + record["suffix"]
        exact = str(completion).strip() == record["canonical_solution"].strip()
        verdict = execute.python(humaneval_tests(record, code, reference))
        return Outcome(verdict, {"exact match": float(exact)})

    def score(self, problems: Any, outcomes: Any) -> dict[str, Any]:
        figures: dict[str, Any] = super().score(problems, outcomes)
        figures["exact match"] = mean(average(outcomes, "exact match"))
        return figures


class SingleLine(HumanEvalInfilling, kind="single-line", file="SingleLineInfilling"):
    """1,033 single lines."""


class MultiLine(HumanEvalInfilling, kind="multi-line", file="MultiLineInfilling"):
    """5,815 blocks of lines."""


class RandomSpan(HumanEvalInfilling, kind="random-span", file="RandomSpanInfilling"):
    """1,640 spans between any two characters."""


class RandomSpanLight(
    HumanEvalInfilling, kind="random-span-light", file="RandomSpanInfillingLight"
):
    """One span for each problem."""


class Exact(Infilling):
    """Judged without running anything."""

    executes = False
    metric = "exact match"

    def score(self, problems: Any, outcomes: Any) -> dict[str, Any]:
        values = average(outcomes, self.metric)
        return {self.metric: mean(values), f"{self.metric} 95%": list(bootstrap(values))}


class SantacoderFim(Exact):
    """One masked line, exact match after stripping (Allal et al. 2023)."""

    table = "Table 6"
    stop = ("\n",)
    language: str

    def __init_subclass__(cls, language: str, title: str) -> None:
        cls.language = language
        cls.name = f"santacoder-fim-{language}"
        cls.title = f"SantaCoder infilling, {title}"

    def problems(self) -> list[Problem]:
        records = self.data.lines("santacoder_fim/data.jsonl")
        own = [each for each in records if each["language"] == self.language]
        return [Problem(f"{each['name']}/{i}", each["prompt"], each) for i, each in enumerate(own)]

    def ask(self, problem: Problem) -> Ask:
        return self.gap(problem.prompt, problem.data["suffix"], 1)

    def judge(self, problem: Problem, completion: Any, execute: Executor) -> Outcome:
        right = str(completion).strip() == problem.data["canonical_solution"].strip()
        verdict = Verdict("passed" if right else "failed")
        return Outcome(verdict, {"exact match": float(right)})


class SantacoderPython(SantacoderFim, language="py", title="Python"):
    """1,043 lines."""


class SantacoderJava(SantacoderFim, language="java", title="Java"):
    """1,780 lines."""


class SantacoderJavaScript(SantacoderFim, language="js", title="JavaScript"):
    """1,969 lines."""


class DocstringInfilling(Exact):
    """A function's docstring between its header and its body: smoothed BLEU-4 of the first line
    that is not empty. The paper's CodeXGLUE data is not to be had: functions of one's own corpus.
    """

    name = "docstring-infilling"
    title = "Docstring infilling, own split"
    table = "Table 13"
    metric = "BLEU-4"
    contaminable = False
    stop = ('"""',)
    most = 200

    def problems(self) -> list[Problem]:
        found: list[Problem] = []
        for name, text in held_out_files(self.options.corpus):
            found += documented(name, text)
            if len(found) >= self.most:
                break
        return found[: self.most]

    def ask(self, problem: Problem) -> Ask:
        # The prefix ends with the quotes and a space; the suffix has no closing quotes
        # (appendix D).
        return self.gap(problem.prompt, problem.data["suffix"], 1)

    def extract(self, problem: Problem, raw: Raw) -> str:
        assert isinstance(raw, str)
        lines = (line.strip() for line in raw.partition('"""')[0].splitlines())
        return next((line for line in lines if line), "")

    def judge(self, problem: Problem, completion: Any, execute: Executor) -> Outcome:
        bleu = sentence_bleu(str(completion).lower(), problem.data["canonical_solution"].lower())
        return Outcome(Verdict("passed" if bleu > 99.9 else "failed"), {"BLEU-4": bleu})

    def notes(self) -> list[str]:
        return [*super().notes(), "functions of an own held-out split, not CodeXGLUE's"]

    def wrong(self, problem: Problem) -> Raw:
        return "\n"


def documented(name: str, text: str) -> list[Problem]:
    """Functions whose docstring's first line has 3 to 30 words, as gaps."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError):
        return []
    lines = text.splitlines(keepends=True)
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef) or len(node.body) < 2:
            continue
        first = node.body[0]
        doc = ast.get_docstring(node)
        if not isinstance(first, ast.Expr) or not doc or first.end_lineno is None:
            continue
        summary = doc.strip().splitlines()[0].strip()
        if not 3 <= len(summary.split()) <= 30 or not summary.isascii():
            continue
        indent = " " * first.col_offset
        header = "".join(lines[node.lineno - 1 : first.lineno - 1])
        body = "".join(lines[first.end_lineno : node.end_lineno])
        if 1 <= body.count("\n") <= 40:
            record = {"suffix": "\n" + body, "canonical_solution": summary}
            task_id = f"{name}:{node.name}:{node.lineno}"
            found.append(Problem(task_id, f'{header}{indent}""" ', record))
    return found
