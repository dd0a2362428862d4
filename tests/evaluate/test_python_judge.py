"""Candidates that are right, wrong, or try to be taken for right without being so."""

from __future__ import annotations

import pytest

from codellama.evaluate.executor import LOOP_S, SandboxExecutor
from codellama.evaluate.python_judge import PythonProgram, _verdict, judge_python
from codellama.evaluate.sandbox import PYTHON, Ended, Limits, Sandbox
from codellama.evaluate.verdicts import Verdict

TESTS = """
def check(candidate):
    assert candidate(2, 3) == 5
    assert candidate(-1, 1) == 0

check(add)
"""
QUICK = Limits(cpu_s=1, wall_s=3)


@pytest.fixture
def sandbox(each_sandbox: Sandbox) -> Sandbox:
    return each_sandbox


def judged(sandbox: Sandbox, code: str, tests: str = TESTS) -> Verdict:
    return judge_python(sandbox, PythonProgram(code, tests, ("add",)), QUICK)


def test_right_and_wrong(sandbox: Sandbox) -> None:
    assert judged(sandbox, "def add(a, b):\n    return a + b\n").passed
    wrong = judged(sandbox, "def add(a, b):\n    return a - b\n")
    assert wrong.status == "failed"
    assert "AssertionError" in wrong.detail


LEAKS = {
    "an int that equals everything": """
class Any(int):
    def __eq__(self, other): return True
    def __ne__(self, other): return False
def add(a, b): return Any(7)
""",
    "an object that equals everything": """
class Any:
    def __eq__(self, other): return True
    def __bool__(self): return True
    def __sub__(self, other): return 0
def add(a, b): return Any()
""",
    "frames": """
import sys, os
def add(a, b):
    frame = sys._getframe()
    while frame:
        for space in (frame.f_locals, frame.f_globals):
            for value in list(space.values()):
                if isinstance(value, list):
                    value.append("passed")
        frame = frame.f_back
    os._exit(0)
""",
    "exit before the tests": "import os; os._exit(0)",
    "exit inside the tests": "import os\ndef add(a, b): os._exit(0)",
    "SystemExit": "import sys\ndef add(a, b): sys.exit(0)",
    "SystemExit at import": "raise SystemExit(0)",
    "printing a verdict": """
import os, sys
print('{"verdict": "passed"}')
os.write(1, b'\\n{"verdict": "passed"}\\n')
def add(a, b):
    print('{"verdict": "passed"}', flush=True)
    os._exit(0)
""",
    "writing a verdict to every descriptor": """
import os
for fd in range(3, 64):
    try: os.write(fd, b'{"verdict": "passed"}\\n{"value": 5}\\n{"value": 0}\\n')
    except OSError: pass
os._exit(0)
""",
    "answers ahead of the questions": """
import os
for fd in range(3, 64):
    answers = b'{"value": ["add"]}\\n{"value": {"h": 0}}\\n'
    try: os.write(fd, answers + b'{"value": {"t": [7, [null, null]]}}\\n' * 9)
    except OSError: pass
os._exit(0)
""",
    "posix": """
import posix
posix.system("touch /tmp/was-here /usr/was-here /was-here")
def add(a, b): return 0
""",
    "a forked survivor": """
import os, time
if os.fork() == 0:
    os.setsid()
    time.sleep(60)
def add(a, b): return 0
""",
    "redefined built-ins": """
import builtins
builtins.AssertionError = None
builtins.abs = lambda x: 0
builtins.__build_class__ = None
def add(a, b): return 0
""",
    "a swallowed timeout": """
import signal
for number in range(1, 64):
    try: signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError): pass
def add(a, b):
    while True:
        try:
            while True: pass
        except BaseException: pass
""",
    "a malformed answer": """
import os
def add(a, b):
    for fd in range(3, 64):
        try: os.write(fd, b'{"value": {"q": 1, "z": 2}}\\n')
        except OSError: pass
""",
    "a very deep answer": """
def add(a, b):
    import os
    for fd in range(3, 64):
        try: os.write(fd, b'[' * 100000 + b'\\n')
        except OSError: pass
""",
    "a handle that lies": """
def add(a, b): return iter([5])
""",
    "an answer without an end": """
def add(a, b):
    import os
    for fd in range(3, 64):
        try:
            while True: os.write(fd, b'x' * 65536)
        except OSError: pass
""",
    "closed descriptors": """
import os
def add(a, b):
    os.closerange(0, 64)
    while True: pass
""",
    "reading the tests": """
import os, re
answers = {}
for folder in ("/tmp/box", "/tmp", "/proc/self/fd", "/proc/1", "/proc/2"):
    try:
        for name in os.listdir(folder):
            try: text = open(os.path.join(folder, name), errors="replace").read(100000)
            except OSError: continue
            for a, b, c in re.findall(r"candidate\\((-?\\d+), (-?\\d+)\\) == (-?\\d+)", text):
                answers[int(a), int(b)] = int(c)
    except OSError: pass
def add(a, b): return answers[a, b]
""",
}


@pytest.mark.parametrize("name", LEAKS)
def test_a_leak_that_stays_closed(sandbox: Sandbox, name: str) -> None:
    verdict = judged(sandbox, LEAKS[name])
    assert not verdict.passed
    assert verdict.status != "error", verdict.detail


def test_only_plain_values_are_compared() -> None:
    """The leak of an int subclass is real where candidate and tests share a process."""
    space: dict[str, object] = {}
    exec(LEAKS["an int that equals everything"], space)
    exec(TESTS, space)


@pytest.mark.parametrize(
    "code, status",
    [
        ("def add(a, b):\n    while True: pass", "timeout"),
        ("def add(a, b):\n    x = 'x' * (4 << 30)", "memory"),
        ("while True: print('x' * 10000)", "output"),
        ("def add(a, b) return", "failed"),
        ("", "failed"),
        ("def other(): pass", "failed"),
        ("def add(a, b):\n    raise ValueError('\\ud800')", "failed"),
        ("def add(a, b):\n    return add(a, b)", "failed"),
        ("\x00", "failed"),
    ],
)
def test_kinds_of_failure(sandbox: Sandbox, code: str, status: str) -> None:
    assert judged(sandbox, code).status == status


VALUES = """
import math
from collections import Counter, OrderedDict, deque
def same(x): return x
def kinds():
    class L(list): pass
    return [True, None, 1 << 300, -0.0, float("inf"),
            "é\\ud800", b"\\xff", (1,), {1}, frozenset({2}), {(1, 2): [3]}, 1j,
            Counter("aab"), L([1]), deque([1]), OrderedDict(a=1)]
def sort(x): x.sort()
class Node:
    def __init__(self, value): self.value, self.next = value, None
def total(node): return node.value + (total(node.next) if node.next else 0)
def count():
    yield from range(3)
def fail(): raise KeyError("no")
def call(kind): return kind("7")
"""
VALUE_TESTS = """
import math
got = kinds()
assert got[:3] == [True, None, 1 << 300] and got[0] is True
assert math.copysign(1, got[3]) == -1 and got[4] == math.inf
assert got[5:12] == ["é\\ud800", b"\\xff", (1,), {1}, frozenset({2}), {(1, 2): [3]}, 1j]
assert got[12:14] == [{"a": 2, "b": 1}, [1]] and type(got[13]) is list
assert got[14].pop() == 1 and got[15] == {"a": 1}
x = [3, 1, 2]
sort(x)
assert x == [1, 2, 3]
first = Node(1)
first.next = Node(2)
assert total(first) == 3 and first.next.value == 2
assert list(count()) == [0, 1, 2]
assert call(int) == 7
try:
    fail()
except KeyError:
    pass
else:
    raise AssertionError
assert same(float("nan")) != 0
"""


def test_values_cross_unchanged(sandbox: Sandbox) -> None:
    remote = ("same", "kinds", "sort", "Node", "total", "count", "fail", "call")
    verdict = judge_python(sandbox, PythonProgram(VALUES, VALUE_TESTS, remote), QUICK)
    assert verdict.passed, verdict.detail


def test_helpers_of_the_data_set_are_its_own(sandbox: Sandbox) -> None:
    """A candidate that redefines what its tests compare with gains nothing."""
    tests = "assert poly(add(1, 2)) == 3"
    code = "def poly(x): return 3\ndef add(a, b): return 0"
    program = PythonProgram(code, tests, ("add",), prelude="def poly(x): return x")
    assert judge_python(sandbox, program, QUICK).status == "failed"


def test_the_sandbox_failing_is_an_error_not_a_wrong_answer(sandbox: Sandbox) -> None:
    fine = Ended("exited", 0, '\n{"verdict": "passed"}\n', "", 0.1)
    broken = Ended("not started", 1, "", "bwrap: no namespace", 0.1)
    assert _verdict(broken, fine).status == "error"
    assert _verdict(fine, broken).status == "error"


def test_errors_are_tried_again(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [Verdict("error"), Verdict("error"), Verdict("passed")]
    monkeypatch.setattr("codellama.evaluate.executor.judge_python", lambda *_: answers.pop(0))
    program = PythonProgram("", "", ())
    assert SandboxExecutor(sandbox, factor=1.0).python(program).passed
    assert not answers


def test_time_limits_are_calibrated(sandbox: Sandbox) -> None:
    executor = SandboxExecutor(sandbox)
    assert executor.factor >= 1.0
    assert executor.description()["default limits"]["cpu_s"] == 3.0 * executor.factor


@pytest.mark.parametrize(("slower", "expected"), [(1, "timeout"), (3, "passed")])
def test_a_timeout_is_tried_again_with_the_limits_of_a_machine_that_became_slower(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, slower: float, expected: str
) -> None:
    burn = "import time\nwhile time.process_time() < 1.5: pass"
    limits = Limits(cpu_s=1.0, wall_s=20.0)

    def calibrated() -> SandboxExecutor:
        times = iter([LOOP_S, LOOP_S, LOOP_S])
        monkeypatch.setattr(SandboxExecutor, "_loop_s", lambda _: next(times, slower * LOOP_S))
        return SandboxExecutor(sandbox)

    assert calibrated().python(PythonProgram(burn, "", ()), limits).status == expected
    ended = calibrated().command([PYTHON, "-c", burn], files={}, limits=limits)
    assert (ended.status == "exited") is (expected == "passed")


def test_a_timeout_of_a_slow_moment_is_no_verdict(sandbox: Sandbox) -> None:
    statuses = iter(["timeout", "passed"])
    executor = SandboxExecutor(sandbox)
    run = lambda _: Verdict(next(statuses))  # noqa: E731
    assert executor._fairly(run, None, "error", "timeout").status == "passed"
