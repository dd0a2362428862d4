"""GSM8K: grade-school arithmetic, 8-shot (paper appendix C, Table 12). The data is the user's to
download: gsm8k/train.jsonl for the shots, gsm8k/test.jsonl for the questions."""

from __future__ import annotations

import re
from typing import Any

from codellama.evaluate.asks import Ask, Continue, Raw
from codellama.evaluate.data import Data
from codellama.evaluate.suite import Executor, Outcome, Problem, Suite
from codellama.evaluate.verdicts import Verdict

__all__ = ["Gsm8k", "final_number"]

SHOTS = 8  # how many the paper took is not stated; Llama 2's report says 8


class Gsm8k(Suite):
    """The last number of the answer, as a number."""

    name = "gsm8k"
    title = "GSM8K, 8-shot"
    table = "Table 12"
    executes = False

    def __init__(self, data: Data, *rest: Any) -> None:
        super().__init__(*rest)
        self.data = data
        self._shots: str | None = None

    def problems(self) -> list[Problem]:
        records = self.data.lines("gsm8k/test.jsonl")
        return [Problem(f"gsm8k/{i}", each["question"], each) for i, each in enumerate(records)]

    def ask(self, problem: Problem) -> Ask:
        if self._shots is None:
            records = self.data.lines("gsm8k/train.jsonl")[:SHOTS]
            self._shots = "".join(_shot(r["question"], r["answer"]) for r in records)
        prompt = f"{self._shots}Question: {problem.prompt}\nAnswer:"
        return Continue(prompt, ("\nQuestion:",), self.options.max_tokens or 256)

    def judge(self, problem: Problem, completion: Any, execute: Executor) -> Outcome:
        right = final_number(str(completion)) == final_number(problem.data["answer"])
        return Outcome(Verdict("passed" if right else "failed"))

    def oracle(self, problem: Problem) -> Raw:
        return f" {problem.data['answer']}"


def _shot(question: str, answer: str) -> str:
    plain = re.sub(r"<<.*?>>", "", answer)
    return f"Question: {question}\nAnswer: {plain}\n\n"


def final_number(text: str) -> float | None:
    """After "####" if that is there, else the last number.

    >>> final_number("so 3 + 4 = 7\\n#### 1,007")
    1007.0
    """
    marked = text.rsplit("####", 1)[-1] if "####" in text else text
    numbers: list[str] = re.findall(r"-?\d[\d,]*(?:\.\d+)?", marked)
    chosen = (numbers[0] if "####" in text else numbers[-1]) if numbers else None
    return None if chosen is None else float(chosen.replace(",", ""))
