"""Programs in other languages: how one is built and run, and how its tests are sealed.

Candidate and tests are one program here, so the verdict is a random token that the tests' own last
statement prints: an exit with status 0 before the end proves nothing. A program that goes looking
for the token in its own text or memory can find it; only Python's tests are kept apart
(python_judge.py).

Languages of the paper: C++, Java, PHP, TypeScript, C#, Bash; and others of MultiPL-E.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from codellama.evaluate.sandbox import Ended, Limits
from codellama.evaluate.suite import Executor
from codellama.evaluate.verdicts import Status, Verdict

__all__ = ["LANGUAGES", "Language", "judge_program", "seal"]

DETAIL = 4000
COMPILE_FAILED = 97
RUN_CPU_S = 5
# Compilers take seconds and hundreds of megabytes; the run itself gets RUN_CPU_S of them.
BUILT = Limits(cpu_s=30, wall_s=90, memory_mb=2048, processes=128, disk_mb=256, file_mb=64)
VIRTUAL = Limits(
    cpu_s=30, wall_s=90, memory_mb=2048, processes=128, disk_mb=256, file_mb=64, reserves=True
)
PLAIN = Limits(cpu_s=RUN_CPU_S, wall_s=30, memory_mb=1024, processes=64)
PLAIN_VIRTUAL = Limits(cpu_s=RUN_CPU_S, wall_s=30, memory_mb=2048, processes=128, reserves=True)


@dataclass(frozen=True, slots=True)
class Language:
    """One language of MultiPL-E.

    Attributes:
        code: its name in MultiPL-E's files.
        tools: programs that must be here.
        files: paths of libraries that must be here.
        source: the program's file name.
        build: shell command that compiles it, or "".
        run: shell command that runs it.
        tail: the tests' last statement, as a pattern; `print` goes before or after it.
        printing: statement that prints @TOKEN@ on a line of its own.
        install: how Debian gets the tools.
        trial: command that succeeds where they work: rustup leaves a `rustc` without a toolchain.
    """

    code: str
    title: str
    tools: tuple[str, ...]
    source: str
    run: str
    printing: str
    build: str = ""
    before: str = ""
    limits: Limits = PLAIN
    files: tuple[str, ...] = ()
    install: str = ""
    binds: Callable[[], dict[str, str]] = field(default=dict)
    mend: Callable[[str], str] = field(default=lambda tests: tests)
    trial: tuple[str, ...] = ()

    def missing(self) -> str | None:
        """What is not installed, with the line that installs it; or None."""
        for tool in self.tools:
            if shutil.which(tool) is None:
                return f"{tool} is not installed ({self.install})"
        for path in self.files:
            if not os.path.exists(path):
                return f"{path} is not installed ({self.install})"
        if self.trial and subprocess.run(self.trial, capture_output=True, check=False).returncode:
            return f"`{' '.join(self.trial)}` fails ({self.install})"
        return None


def seal(language: Language, tests: str, token: str) -> str:
    """Tests that print the token after their last assertion.

    Raises ValueError where the tests do not end as this language's do.
    """
    tests = language.mend(tests.rstrip())
    statement = language.printing.replace("@TOKEN@", token)
    if not language.before:
        return f"{tests}\n{statement}\n"
    match = re.search(language.before, tests)
    if match is None:
        raise ValueError(f"{language.title} tests that end otherwise: {tests[-80:]!r}")
    return f"{tests[: match.start()]}\n{statement}\n{tests[match.start() :]}\n"


def judge_program(
    language: Language, program: str, tests: str, execute: Executor, *, factor: float = 1.0
) -> Verdict:
    """Build and run a candidate with its tests."""
    token = secrets.token_hex(16)
    files = {language.source: f"{program}\n{seal(language, tests, token)}"}
    cpu = max(1, round(RUN_CPU_S * factor))
    steps = []
    if language.build:
        steps.append(f"({language.build}) >&2 || exit {COMPILE_FAILED}")
        steps.append(f"rm -f {language.source}")
    steps.append(f"ulimit -S -t {cpu}; exec {language.run}")
    ended = execute.command(
        ["bash", "-c", "\n".join(steps)],
        files=files,
        limits=language.limits,
        binds=language.binds(),
    )
    return _verdict(ended, token)


def _verdict(ended: Ended, token: str) -> Verdict:
    said = f"{ended.stdout[-DETAIL:]}\n{ended.stderr[-DETAIL:]}".replace(token, "").strip()
    causes: dict[str, Status] = {
        "not started": "error",
        "cpu": "timeout",
        "wall": "timeout",
        "memory": "memory",
        "output": "output",
    }
    if ended.status in causes:
        return Verdict(causes[ended.status], said, ended.wall_s)
    if ended.code == COMPILE_FAILED:
        return Verdict("compile", said, ended.wall_s)
    if ended.code == 0 and token in ended.stdout.splitlines():
        return Verdict("passed", "", ended.wall_s)
    return Verdict("failed", said or f"exit status {ended.code}", ended.wall_s)


@cache
def rust_toolchain() -> dict[str, str]:
    """rustc's own folder, shown as /rust: rustup keeps it in a home that boxes do not see."""
    done = subprocess.run(["rustc", "--print", "sysroot"], capture_output=True, text=True)
    sysroot = done.stdout.strip()
    return {} if sysroot in ("", "/usr") else {sysroot: "/rust"}


@cache
def typescript() -> dict[str, str]:
    """tsc's package, shown as /tsc where it does not lie in /usr."""
    tsc = shutil.which("tsc")
    if tsc is None or os.path.realpath(tsc).startswith("/usr/"):
        return {}
    package = Path(os.path.realpath(tsc)).parents[2]
    return {str(package): "/tsc"}


def _checked(tests: str) -> str:
    """C# tests by a method of ours: a Debug.Assert that fails prints, goes on and exits 0."""
    return (
        tests.replace("Debug.Assert(", "TheTests.That(")
        + "\npublic static class TheTests {\n"
        + "    public static void That(bool holds) {\n"
        + '        if (!holds) throw new System.Exception("Test failed");\n    }\n}\n'
    )


def _lua(tests: str) -> str:
    return tests.replace(
        "os.exit(lu.LuaUnit.run())",
        "local failed = lu.LuaUnit.run()\nif failed ~= 0 then os.exit(1) end",
    )


def _ruby(tests: str) -> str:
    return tests + (
        "\nTest::Unit::AutoRunner.need_auto_run = false\n"
        "exit(1) unless Test::Unit::AutoRunner.run(false, nil, [])"
    )


LAST_BRACE = r"\}\s*\Z"
LAST_TWO_BRACES = r"\}\s*\}\s*\Z"
JAVATUPLES = "/usr/share/java/javatuples.jar"

LANGUAGES: dict[str, Language] = {
    each.code: each
    for each in (
        Language(
            "cpp",
            "C++",
            ("g++",),
            "program.cpp",
            "./program",
            'std::puts("\\n@TOKEN@");',
            build="g++ -std=c++17 program.cpp -o program",
            before=LAST_BRACE,
            limits=BUILT,
            install="apt install g++",
            mend=lambda tests: f"#include <cstdio>\n{tests}" if tests.startswith("#") else tests,
        ),
        Language(
            "java",
            "Java",
            ("java", "javac"),
            "Problem.java",
            "java -ea -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Xmx512m "
            f"-cp .:{JAVATUPLES} Problem",
            'System.out.println("\\n@TOKEN@");',
            build=f"javac -J-XX:+UseSerialGC -encoding UTF8 -cp {JAVATUPLES} -d . Problem.java",
            before=LAST_TWO_BRACES,
            limits=VIRTUAL,
            files=(JAVATUPLES,),
            install="apt install default-jdk-headless libjavatuples-java",
        ),
        Language(
            "php",
            "PHP",
            ("php",),
            "program.php",
            "php program.php",
            'echo "\\n@TOKEN@\\n";',
            install="apt install php-cli",
        ),
        Language(
            "ts",
            "TypeScript",
            ("tsc", "node"),
            "program.ts",
            "node program.js",
            'console.log("\\n@TOKEN@");',
            build="$(test -x /tsc/bin/tsc && echo /tsc/bin/tsc || echo tsc) --target es2022 "
            "--strict false --ignoreConfig program.ts",
            limits=VIRTUAL,
            install="npm install -g typescript@7",
            binds=typescript,
        ),
        Language(
            "cs",
            "C#",
            ("mcs", "mono"),
            "program.cs",
            "mono program.exe",
            'System.Console.WriteLine("\\n@TOKEN@");',
            build="mcs -d:DEBUG -r:System.Numerics.dll -out:program.exe program.cs",
            before=r"\}\s*\}\s*public static class TheTests",
            limits=VIRTUAL,
            mend=_checked,
            install="apt install mono-mcs mono-runtime libmono-system-numerics4.0-cil "
            "libmono-system-core4.0-cil",
        ),
        Language(
            "sh", "Bash", ("bash",), "program.sh", "bash program.sh", "printf '\\n@TOKEN@\\n'"
        ),
        Language(
            "js",
            "JavaScript",
            ("node",),
            "program.js",
            "node program.js",
            'console.log("\\n@TOKEN@");',
            limits=PLAIN_VIRTUAL,
            install="apt install nodejs",
        ),
        Language(
            "rs",
            "Rust",
            ("rustc",),
            "program.rs",
            "./program",
            'println!("\\n@TOKEN@");',
            build="$(test -x /rust/bin/rustc && echo /rust/bin/rustc || echo rustc) program.rs",
            before=LAST_BRACE,
            limits=BUILT,
            install="apt install rustc",
            binds=rust_toolchain,
            trial=("rustc", "--version"),
        ),
        Language(
            "go",
            "Go",
            ("go",),
            "program_test.go",
            "./program",
            'if !t.Failed() { fmt.Println("\\n@TOKEN@") }',
            build="GO111MODULE=off GOCACHE=/tmp/go go test -c -o program program_test.go",
            before=LAST_BRACE,
            limits=VIRTUAL,
            install="apt install golang-go",
        ),
        Language(
            "lua",
            "Lua",
            ("lua5.4",),
            "program.lua",
            "lua5.4 program.lua",
            'print("\\n@TOKEN@")',
            files=("/usr/share/lua/5.4/luaunit.lua",),
            mend=_lua,
            install="apt install lua5.4 lua-unit",
        ),
        Language(
            "rb",
            "Ruby",
            ("ruby",),
            "program.rb",
            "ruby program.rb",
            'puts "\\n@TOKEN@"',
            mend=_ruby,
            install="apt install ruby ruby-test-unit",
        ),
        Language(
            "pl",
            "Perl",
            ("perl",),
            "program.pl",
            "perl program.pl",
            'print "\\n@TOKEN@\\n";',
            files=("/usr/share/perl5/Test/Deep.pm",),
            install="apt install libtest-deep-perl",
        ),
        Language(
            "r",
            "R",
            ("Rscript",),
            "program.r",
            "Rscript program.r",
            'cat("\\n@TOKEN@\\n")',
            limits=PLAIN_VIRTUAL,
            install="apt install r-base-core",
        ),
    )
}
