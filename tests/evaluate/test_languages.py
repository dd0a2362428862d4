"""Programs in other languages: one right, one wrong and one that leaves early, in each."""

from __future__ import annotations

from dataclasses import replace

import pytest

from codellama.evaluate.data import Data
from codellama.evaluate.executor import SandboxExecutor
from codellama.evaluate.languages import LANGUAGES, judge_program, seal
from codellama.evaluate.suites import make_suite

# HumanEval_53_add: the right body, a wrong one, and one that ends the program with status 0.
BODIES = {
    "cpp": ("return x + y;", "return x - y;", "std::exit(0);"),
    "java": ("return x + y;", "return x - y;", "System.exit(0); return 0;"),
    "php": ("return $x + $y;", "return $x - $y;", "exit(0);"),
    "ts": ("return x + y;", "return x - y;", "(globalThis as any).process.exit(0); return 0;"),
    "cs": ("return x + y;", "return x - y;", "Environment.Exit(0); return 0;"),
    "sh": ("echo $(($1 + $2))", "echo $(($1 - $2))", "exit 0"),
    "js": ("return x + y;", "return x - y;", "process.exit(0);"),
    "rs": ("x + y", "x - y", "std::process::exit(0)"),
    "go": ("return x + y", "return x - y", "os.Exit(0); return 0"),
    "lua": ("return x + y", "return x - y", "os.exit(0)"),
    "rb": ("x + y", "x - y", "exit!(0)"),
    "pl": ("my($x, $y) = @_; return $x + $y;", "my($x, $y) = @_; return $x - $y;", "exit(0);"),
    "r": ("return(x + y)", "return(x - y)", "quit(status = 0)"),
}
# What the tests do not close themselves.
CLOSING = {"php": "}", "ts": "}", "js": "}", "go": "}", "lua": "end", "rb": "end", "pl": "}"}
PAPER = ("cpp", "java", "php", "ts", "cs", "sh")


def status(data: Data, executor: SandboxExecutor, code: str, which: int) -> str:
    suite = make_suite(f"multipl-e-{code}", data)
    missing = suite.unavailable()
    if missing:
        pytest.skip(missing)
    problem = next(p for p in suite.problems() if p.task_id == "HumanEval_53_add")
    body = BODIES[code][which]
    if code == "r":
        body = f"{body}\n}}"
    completion = f"    {body}\n{CLOSING.get(code, '')}"
    if code == "go" and which == 2:
        pytest.skip("the prompt imports no os")
    return suite.judge(problem, suite.extract(problem, completion), executor).verdict.status


@pytest.mark.parametrize("code", LANGUAGES)
def test_right_passes(data: Data, executor: SandboxExecutor, code: str) -> None:
    assert status(data, executor, code, 0) == "passed"


@pytest.mark.parametrize("code", LANGUAGES)
def test_wrong_fails(data: Data, executor: SandboxExecutor, code: str) -> None:
    assert status(data, executor, code, 1) == "failed"


@pytest.mark.parametrize("code", LANGUAGES)
def test_leaving_early_is_not_passing(data: Data, executor: SandboxExecutor, code: str) -> None:
    assert status(data, executor, code, 2) == "failed"


@pytest.mark.parametrize("code", LANGUAGES)
def test_every_problems_tests_can_be_sealed(data: Data, code: str) -> None:
    problems = make_suite(f"multipl-e-{code}", data).problems()
    assert len(problems) >= 150
    for problem in problems:
        assert "TOKEN-7" in seal(LANGUAGES[code], problem.data["tests"], "TOKEN-7")


def test_a_compile_error_is_called_one(executor: SandboxExecutor) -> None:
    verdict = judge_program(LANGUAGES["cpp"], "int f( {", "int main() {\n}", executor)
    assert verdict.status == "compile"
    assert "program.cpp" in verdict.detail


def test_the_source_is_gone_when_a_compiled_program_runs(executor: SandboxExecutor) -> None:
    """A C++ candidate that reads the token from its own source finds none."""
    program = r"""
#include <cassert>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <string>
struct Early { Early() {
    std::ifstream source("program.cpp");
    for (std::string line; std::getline(source, line);)
        if (line.find("std::puts(") == 0) std::cout << "\n" << line.substr(13, 32) << std::endl;
    std::exit(0);
} } early;
"""
    tests = "int main() {\n    assert(1 == 2);\n}"
    assert judge_program(LANGUAGES["cpp"], program, tests, executor).status == "failed"


def test_a_loop_without_end_times_out(executor: SandboxExecutor) -> None:
    verdict = judge_program(LANGUAGES["sh"], "while :; do :; done", "", executor, factor=0.2)
    assert verdict.status == "timeout"


def test_tests_that_end_otherwise_are_refused() -> None:
    with pytest.raises(ValueError, match="C\\+\\+ tests that end otherwise"):
        seal(LANGUAGES["cpp"], "int main();", "x")


def test_missing_runtimes_are_named() -> None:
    for language in LANGUAGES.values():
        missing = language.missing()
        assert missing is None or language.install in missing


def test_a_tool_that_is_there_and_fails_is_missing() -> None:
    broken = replace(LANGUAGES["rs"], tools=(), files=(), trial=("false",))
    assert broken.missing() == "`false` fails (apt install rustc)"
