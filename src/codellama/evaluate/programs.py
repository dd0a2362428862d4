"""HumanEval and MBPP: a function from its description, judged by tests (paper §3.1, Tables 2, 5,
8 and 10)."""

from __future__ import annotations

import ast
import re
from typing import Any

from codellama.evaluate.asks import Ask, Continue, Raw, Talk
from codellama.evaluate.data import Data
from codellama.evaluate.python_judge import PythonProgram
from codellama.evaluate.suite import Executor, Outcome, Problem, Suite

__all__ = ["HumanEval", "HumanEvalInstruct", "Mbpp", "MbppInstruct", "humaneval_tests"]

# Meta used "custom stop words" and named this list of the BigCode harness as an example
# (meta-llama/codellama#104).
STOPS = ("\nclass", "\ndef", "\n#", "\n@", "\nprint", "\nif", "\n```")
EXPERT = "You are an expert Python programmer, and here is your task: "
SHOTS = (2, 3, 4)  # MBPP's prompt examples (Austin et al. 2021)
TEST = range(11, 511)


def humaneval_tests(record: dict[str, Any], code: str, reference: str) -> PythonProgram:
    """A HumanEval candidate with its check; helpers in the tests are the data set's own."""
    entry = record["entry_point"]
    tests = f"{record['test']}\ncheck({entry})\n"
    return PythonProgram(code, tests, (entry,), prelude=reference)


def cut(text: str, stops: tuple[str, ...]) -> str:
    """The text up to the first of the stops."""
    return text[: min((text.find(stop) for stop in stops if stop in text), default=len(text))]


class HumanEval(Suite):
    """164 functions, 0-shot, the prompt with its last newline as it is (Chen et al. 2021)."""

    name = "humaneval"
    title = "HumanEval, 0-shot"
    table = "Table 2"

    def __init__(self, data: Data, *rest: Any) -> None:
        super().__init__(*rest)
        self.data = data

    def problems(self) -> list[Problem]:
        records = self.data.lines("humaneval/HumanEval.jsonl")
        return [Problem(each["task_id"], each["prompt"], each) for each in records]

    def ask(self, problem: Problem) -> Ask:
        return Continue(problem.prompt, STOPS, self.options.max_tokens or 512)

    def extract(self, problem: Problem, raw: Raw) -> str:
        assert isinstance(raw, str)
        return cut(raw, STOPS)

    def judge(self, problem: Problem, completion: Any, execute: Executor) -> Outcome:
        record = dict(problem.data)
        reference = problem.prompt + record["canonical_solution"]
        program = humaneval_tests(record, problem.prompt + str(completion), reference)
        return Outcome(execute.python(program))

    def oracle(self, problem: Problem) -> Raw:
        solution: str = problem.data["canonical_solution"]
        return solution

    def wrong(self, problem: Problem) -> Raw:
        return "    return None\n"


class HumanEvalInstruct(HumanEval):
    """HumanEval in the chat format: a chat model that is given the raw prompt closes it as a code
    block. The wording is ours; the paper does not say whether its Instruct rows had one.
    """

    name = "humaneval-instruct"
    title = "HumanEval, 0-shot, chat"
    table = "Table 2 (wording ours)"

    def ask(self, problem: Problem) -> Ask:
        text = (
            "Complete this Python function. Answer with the whole function in one code block.\n\n"
            f"```python\n{problem.prompt}```"
        )
        return Talk((("user", text),), (), self.options.max_tokens or 512)

    def extract(self, problem: Problem, raw: Raw) -> str:
        """The first code block, or the answer; a function that stands alone replaces the prompt."""
        assert isinstance(raw, str)
        fenced = re.search(r"```(?:python)?\n(.*?)(?:```|\Z)", raw, re.DOTALL)
        return fenced[1] if fenced else raw

    def judge(self, problem: Problem, completion: Any, execute: Executor) -> Outcome:
        record = dict(problem.data)
        whole = re.search(rf"^def {record['entry_point']}\b", str(completion), re.MULTILINE)
        # Imports and helpers of the prompt stay; its function, a docstring alone, is redefined.
        code = f"{problem.prompt}\n{completion}" if whole else problem.prompt + str(completion)
        reference = problem.prompt + record["canonical_solution"]
        return Outcome(execute.python(humaneval_tests(record, code, reference)))

    def oracle(self, problem: Problem) -> Raw:
        code = problem.prompt + problem.data["canonical_solution"]
        return f"Here it is:\n```python\n{code}```\nIt works."

    def wrong(self, problem: Problem) -> Raw:
        return f"```python\ndef {problem.data['entry_point']}(*args):\n    return None\n```"


class Mbpp(Suite):
    """500 short tasks, 3-shot, the prompt of Austin et al. 2021."""

    name = "mbpp"
    title = "MBPP, 3-shot"
    table = "Table 2"

    def __init__(self, data: Data, *rest: Any) -> None:
        super().__init__(*rest)
        self.data = data

    def problems(self) -> list[Problem]:
        records = self.data.lines("mbpp/mbpp.jsonl")
        self._shots = "".join(
            f"{_task(each)}[BEGIN]\n{_unix(each['code'])}\n[DONE]\n\n"
            for each in records
            if each["task_id"] in SHOTS
        )
        chosen = (each for each in records if each["task_id"] in self._ids())
        return [Problem(str(each["task_id"]), _task(each), each) for each in chosen]

    def _ids(self) -> range:
        return TEST

    def ask(self, problem: Problem) -> Ask:
        prompt = f"{self._shots}{problem.prompt}[BEGIN]\n"
        return Continue(prompt, ("[DONE]",), self.options.max_tokens or 512)

    def extract(self, problem: Problem, raw: Raw) -> str:
        assert isinstance(raw, str)
        return cut(raw, ("[DONE]",))

    def judge(self, problem: Problem, completion: Any, execute: Executor) -> Outcome:
        record = problem.data
        # This order: the set-up of 367 and 927 uses classes of the solution.
        tests = "\n".join([_unix(record["test_setup_code"]), *map(_unix, record["test_list"])])
        remote = defined_names(_unix(record["code"]))
        return Outcome(execute.python(PythonProgram(str(completion), tests, remote)))

    def oracle(self, problem: Problem) -> Raw:
        return _unix(problem.data["code"]) + "\n"

    def wrong(self, problem: Problem) -> Raw:
        names = defined_names(_unix(problem.data["code"]))
        return "".join(f"def {name}(*args): return None\n" for name in names)


class MbppInstruct(Mbpp):
    """MBPP for instruction models, 0-shot, the prompt of the paper's Figure 12."""

    name = "mbpp-instruct"
    title = "MBPP, 0-shot, instruct"
    table = "Table 8"

    def ask(self, problem: Problem) -> Ask:
        prompt = (
            f"{problem.prompt}Your code should start with a [PYTHON] tag and end with a "
            "[/PYTHON] tag."
        )
        return Talk((("user", prompt),), ("[/PYTHON]",), self.options.max_tokens or 512)

    def extract(self, problem: Problem, raw: Raw) -> str:
        assert isinstance(raw, str)
        inside = raw.partition("[PYTHON]")[2] or raw
        fenced = re.search(r"```(?:python)?\n(.*?)```", inside, re.DOTALL)
        return fenced[1] if fenced else cut(inside, ("[/PYTHON]",))

    def oracle(self, problem: Problem) -> Raw:
        return f"[PYTHON]\n{_unix(problem.data['code'])}\n[/PYTHON]"


def _task(record: dict[str, Any]) -> str:
    tests = "\n".join(map(_unix, record["test_list"]))
    return f"{EXPERT}{record['text']} Your code should pass these tests:\n\n{tests}\n"


def _unix(text: str) -> str:
    return text.replace("\r\n", "\n")


def defined_names(code: str) -> tuple[str, ...]:
    """Names that a program binds at its top level: what its tests may take from a candidate."""
    names: list[str] = []
    for node in ast.parse(code).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.append(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names += [(alias.asname or alias.name).split(".")[0] for alias in node.names]
        else:
            names += [
                each.id
                for each in ast.walk(node)
                if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store)
            ]
    return tuple(dict.fromkeys(names))
