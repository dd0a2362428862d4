"""MultiPL-E: HumanEval in other languages, 0-shot (paper §3.1, Table 4 and 11)."""

from __future__ import annotations

from typing import Any

from codellama.evaluate.asks import Ask, Continue, Raw
from codellama.evaluate.data import Data
from codellama.evaluate.languages import LANGUAGES, Language, judge_program
from codellama.evaluate.programs import cut
from codellama.evaluate.suite import Executor, Outcome, Problem, Suite

__all__ = ["MultiplE"]


class MultiplE(Suite):
    """One language; subclasses name it. The data must never be trained on (its license)."""

    table = "Table 4"
    language: Language

    def __init__(self, data: Data, *rest: Any) -> None:
        super().__init__(*rest)
        self.data = data

    def __init_subclass__(cls, code: str) -> None:
        cls.language = LANGUAGES[code]
        cls.name = f"multipl-e-{code}"
        cls.title = f"MultiPL-E HumanEval, {cls.language.title}"

    def unavailable(self) -> str | None:
        return self.language.missing()

    def problems(self) -> list[Problem]:
        records = self.data.lines(f"multipl_e/humaneval-{self.language.code}.jsonl")
        return [Problem(each["name"], each["prompt"], each) for each in records]

    def ask(self, problem: Problem) -> Ask:
        stops = tuple(problem.data["stop_tokens"])
        return Continue(problem.prompt, stops, self.options.max_tokens or 512)

    def extract(self, problem: Problem, raw: Raw) -> str:
        assert isinstance(raw, str)
        return cut(raw, tuple(problem.data["stop_tokens"]))

    def judge(self, problem: Problem, completion: Any, execute: Executor) -> Outcome:
        program = problem.prompt + str(completion)
        tests = problem.data["tests"]
        return Outcome(judge_program(self.language, program, tests, execute, factor=execute.factor))

    def oracle(self, problem: Problem) -> Raw:
        raise NotImplementedError("MultiPL-E has no reference solutions")


def _of(code: str) -> type[MultiplE]:
    class OneLanguage(MultiplE, code=code):
        """MultiPL-E in one language."""

    return OneLanguage


BY_LANGUAGE = {code: _of(code) for code in LANGUAGES}
