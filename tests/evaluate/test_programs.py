"""HumanEval and MBPP: prompts to the letter, reference solutions pass, wrong ones fail."""

from __future__ import annotations

import pytest

from codellama.evaluate.asks import Continue, Talk
from codellama.evaluate.data import Data
from codellama.evaluate.executor import SandboxExecutor
from codellama.evaluate.programs import cut, defined_names
from codellama.evaluate.suite import Options
from codellama.evaluate.suites import make_suite
from evaluation_support import judge_all


def test_humaneval_prompt_is_the_data_sets_own() -> None:
    suite = make_suite("humaneval", Data())
    problems = suite.problems()
    assert len(problems) == 164
    for problem in problems:
        ask = suite.ask(problem)
        assert isinstance(ask, Continue)
        assert ask.prompt == problem.data["prompt"]
        assert ask.prompt.endswith("\n")


def test_humaneval_references_pass_and_wrong_ones_fail(executor: SandboxExecutor) -> None:
    suite = make_suite("humaneval", Data())
    problems = suite.problems()[::8]
    assert set(judge_all(suite, problems, executor).values()) == {"passed"}
    assert set(judge_all(suite, problems, executor, wrong=True).values()) == {"failed"}


@pytest.mark.slow
def test_every_humaneval_reference_passes(executor: SandboxExecutor) -> None:
    suite = make_suite("humaneval", Data())
    statuses = judge_all(suite, suite.problems(), executor)
    assert list(statuses.values()) == ["passed"] * 164


def test_mbpp_prompt(data: Data) -> None:
    suite = make_suite("mbpp", data)
    problems = suite.problems()
    assert [problem.task_id for problem in problems] == [str(i) for i in range(11, 511)]
    ask = suite.ask(problems[0])
    assert isinstance(ask, Continue)
    assert ask.prompt.count("You are an expert Python programmer, and here is your task: ") == 4
    assert ask.prompt.count("[DONE]") == 3
    assert ask.prompt.endswith('assert remove_Occ("PHP","P") == "H"\n[BEGIN]\n')
    assert "\r" not in ask.prompt
    assert ask.stop == ("[DONE]",)


def test_mbpp_instruct_prompt_and_extraction(data: Data) -> None:
    suite = make_suite("mbpp-instruct", data, Options(limit=1))
    (problem,) = suite.selected()
    ask = suite.ask(problem)
    assert isinstance(ask, Talk)
    assert ask.messages[0][1].endswith(
        "Your code should start with a [PYTHON] tag and end with a [/PYTHON] tag."
    )
    assert suite.extract(problem, "Sure!\n[PYTHON]\nx = 1\n[/PYTHON] done") == "\nx = 1\n"
    assert suite.extract(problem, "Sure!\n```python\nx = 1\n```\n") == "x = 1\n"
    assert suite.extract(problem, "x = 1") == "x = 1"


def test_mbpp_references_pass_and_wrong_ones_fail(data: Data, executor: SandboxExecutor) -> None:
    suite = make_suite("mbpp", data)
    problems = suite.problems()[::25]
    assert set(judge_all(suite, problems, executor).values()) == {"passed"}
    assert "passed" not in judge_all(suite, problems, executor, wrong=True).values()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:invalid escape sequence")  # the references' own
def test_every_mbpp_reference_passes(data: Data, executor: SandboxExecutor) -> None:
    """All 974, the few-shot and training ones too; 367 and 927 need the order of set-up."""
    suite = make_suite("mbpp", data)
    suite._ids = lambda: range(1, 975)  # type: ignore[attr-defined]
    statuses = judge_all(suite, suite.problems(), executor)
    assert len(statuses) == 974
    assert [task for task, status in statuses.items() if status != "passed"] == []


def test_cut() -> None:
    assert cut("a\nb\ndef", ("\ndef", "\nb")) == "a"
    assert cut("abc", ("x",)) == "abc"


def test_defined_names() -> None:
    code = "import os.path as p, sys\nR = 3\ndef f(): x = 1\nclass C: y = 2\na, (b, c) = 1, (2, 3)"
    assert defined_names(code) == ("p", "sys", "R", "f", "C", "a", "b", "c")
