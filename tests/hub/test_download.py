"""The downloader against a server that misbehaves in every way we know: whole and right, or an
error and nothing changed.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections import namedtuple
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from codellama.errors import DownloadError
from codellama.hub import download as module
from codellama.hub import files
from codellama.hub.download import download
from codellama.hub.transport import StatusError, Transport
from hub.servers import Fault, Resource, Server, digest, serving

DATA = bytes(range(256)) * 1000


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "blob"


@pytest.fixture
def resource(server: Server) -> Resource:
    return server.add("/file", DATA, etag='"v1"')


def fetch(
    server: Server, transport: Transport, target: Path, data: bytes = DATA, **options: object
) -> None:
    url = f"{server.url}/file"
    with transport as client:
        download(
            client, url, target, size=len(data), sha256=digest(data)[7:], label="file", **options
        )  # type: ignore[arg-type]


def leftovers(target: Path) -> list[str]:
    return sorted(path.name for path in target.parent.iterdir() if path.name.startswith("blob"))


def test_a_file_arrives_whole_and_progress_ends_at_its_size(
    server: Server, resource: Resource, transport: Transport, target: Path
) -> None:
    seen: list[tuple[int, int, str]] = []
    fetch(server, transport, target, progress=lambda *step: seen.append(step))
    assert target.read_bytes() == DATA
    assert leftovers(target) == ["blob"]
    assert seen[-1] == (len(DATA), len(DATA), "file")
    assert [done for done, _, _ in seen] == sorted(done for done, _, _ in seen)


def test_an_empty_file_arrives(server: Server, transport: Transport, target: Path) -> None:
    server.add("/file", b"")
    fetch(server, transport, target, b"")
    assert target.read_bytes() == b""


@pytest.mark.parametrize("fault", ["cut", "stall"])
def test_a_broken_connection_is_continued_where_it_broke(
    server: Server, resource: Resource, transport: Transport, target: Path, fault: str
) -> None:
    resource.plan = [Fault(fault, 100_000), Fault(fault, 50_000)]
    fetch(server, transport, target)
    assert target.read_bytes() == DATA
    ranges = [seen.headers.get("Range") for seen in server.seen]
    assert ranges == [None, "bytes=100000-", "bytes=150000-"]
    assert server.seen[1].headers["If-Range"] == '"v1"'


def test_the_next_run_continues_the_partial_file(
    server: Server, resource: Resource, transport: Transport, target: Path
) -> None:
    resource.plan = [Fault("cut", 1000)] + [Fault("status", 503)] * 3
    with pytest.raises(DownloadError, match="tried 4 times"):
        fetch(server, transport, target)
    assert leftovers(target) == ["blob.partial", "blob.partial.json"]
    server.seen.clear()
    fetch(server, transport, target)
    assert target.read_bytes() == DATA
    assert [(s.headers["Range"], s.headers["If-Range"]) for s in server.seen] == [
        ("bytes=1000-", '"v1"')
    ]


def test_a_file_that_changed_meanwhile_is_fetched_anew(
    server: Server, resource: Resource, transport: Transport, target: Path
) -> None:
    target.with_name("blob.partial").write_bytes(b"old" * 100)
    target.with_name("blob.partial.json").write_text('{"etag": "\\"v0\\""}')
    fetch(server, transport, target)
    assert target.read_bytes() == DATA and len(server.seen) == 1


def test_patience_is_for_failures_in_a_row_without_progress(server: Server, target: Path) -> None:
    data = bytes(6 << 20)
    server.add("/file", data, plan=[Fault("cut", (1 << 20) + 70_000)] * 4)
    fetch(server, Transport(tries=2, sleep=lambda seconds: None), target, data)
    assert target.stat().st_size == len(data) and len(server.seen) == 5


def test_bytes_are_durable_before_they_get_their_name(
    server: Server,
    resource: Resource,
    transport: Transport,
    target: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    order: list[str] = []
    sync, rename = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda file: (order.append("fsync"), sync(file))[1])
    monkeypatch.setattr(os, "replace", lambda *names: (order.append("replace"), rename(*names))[1])
    fetch(server, transport, target)
    # The first three are the ETag's file; then the bytes, their name, and the folder that holds it.
    assert order == ["fsync", "replace", "fsync"] * 2


@pytest.mark.parametrize("fault", ["ignore_range", "wrong_range"])
def test_a_server_that_cannot_continue_starts_over(
    server: Server, resource: Resource, transport: Transport, target: Path, fault: str
) -> None:
    resource.plan = [Fault("cut", 1000), Fault(fault)]
    fetch(server, transport, target)
    assert target.read_bytes() == DATA


def test_a_wrong_prefix_is_found_and_fetched_again(
    server: Server, resource: Resource, transport: Transport, target: Path
) -> None:
    target.with_name("blob.partial").write_bytes(b"\0" * 1000)  # what a power cut leaves
    fetch(server, transport, target)
    assert target.read_bytes() == DATA and len(server.seen) == 2


def test_a_partial_file_longer_than_the_whole_starts_over(
    server: Server, resource: Resource, transport: Transport, target: Path
) -> None:
    target.with_name("blob.partial").write_bytes(b"\0" * (len(DATA) + 1))
    fetch(server, transport, target)
    assert target.read_bytes() == DATA


def test_a_partial_file_that_is_whole_needs_no_request(
    server: Server, resource: Resource, transport: Transport, target: Path
) -> None:
    target.with_name("blob.partial").write_bytes(DATA)
    fetch(server, transport, target)
    assert target.read_bytes() == DATA and not server.seen


def test_corrupted_bytes_are_thrown_away_and_the_old_file_stays(
    server: Server, resource: Resource, transport: Transport, target: Path
) -> None:
    target.write_bytes(b"the old one")
    resource.plan = [Fault("corrupt", 77)]
    with pytest.raises(DownloadError, match="not those promised"):
        fetch(server, transport, target)
    assert leftovers(target) == ["blob"] and target.read_bytes() == b"the old one"


@pytest.mark.parametrize("fault", [Fault("extra", 10), Fault("promise", 1 << 40)])
def test_more_bytes_than_promised_are_refused(
    server: Server, resource: Resource, transport: Transport, target: Path, fault: Fault
) -> None:
    resource.plan = [fault]
    with pytest.raises(DownloadError, match=r"than promised|refused"):
        fetch(server, transport, target)
    assert not target.exists() and len(server.seen) == 1


def test_a_server_that_lies_about_the_end_is_given_up(
    server: Server, transport: Transport, target: Path
) -> None:
    server.add("/file", DATA[:-10])  # the manifest promised ten more
    with pytest.raises(DownloadError, match="tried 4 times"):
        fetch(server, transport, target)
    assert not target.exists() and len(server.seen) == 4


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_a_busy_server_is_asked_again_no_sooner_than_it_says(
    server: Server, resource: Resource, target: Path, status: int
) -> None:
    waits: list[float] = []
    resource.plan = [
        Fault("status", status, {"Retry-After": "7"}),
        Fault("status", status, {"Retry-After": "9999"}),
    ]
    fetch(server, Transport(tries=3, sleep=waits.append), target)
    assert target.read_bytes() == DATA
    assert waits == [7.0, 60.0]


@pytest.mark.parametrize("status", [400, 403, 404, 410])
def test_a_refusal_is_not_asked_again(
    server: Server, resource: Resource, transport: Transport, target: Path, status: int
) -> None:
    resource.plan = [Fault("status", status)]
    with pytest.raises(StatusError, match=str(status)):
        fetch(server, transport, target)
    assert len(server.seen) == 1


@pytest.mark.parametrize("fault", [Fault("redirect_loop"), Fault("gzip")])
def test_odd_answers_are_errors(
    server: Server, resource: Resource, transport: Transport, target: Path, fault: Fault
) -> None:
    resource.plan = [fault] * 20
    with pytest.raises(DownloadError, match=r"redirects|compressed"):
        fetch(server, transport, target)
    assert not target.exists()


def test_nobody_listening_is_a_clear_error(transport: Transport, target: Path) -> None:
    with (
        transport as client,
        pytest.raises(DownloadError, match=r"connection to 127.0.0.1:9 failed"),
    ):
        download(
            client, "http://127.0.0.1:9/x?sig=secret", target, size=1, sha256="0" * 64, label="x"
        )


def test_a_full_disk_is_a_clear_error_and_the_partial_file_serves_the_next_run(
    server: Server,
    resource: Resource,
    transport: Transport,
    target: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written = 0

    def quota(file: int, data: bytes) -> None:
        nonlocal written
        if written + len(data) > 100_000:
            raise OSError(errno.ENOSPC, "No space left on device")
        written += len(data)
        files.write_all(file, data)

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_all", quota)
        with pytest.raises(DownloadError, match=r"full.*CODELLAMA_MODELS"):
            fetch(server, transport, target)
    assert not target.exists() and target.with_name("blob.partial").stat().st_size == written > 0
    fetch(server, transport, target)
    assert target.read_bytes() == DATA
    assert server.seen[-1].headers["Range"] == f"bytes={written}-"


def test_room_is_checked_before_a_byte_is_asked_for(
    server: Server,
    resource: Resource,
    transport: Transport,
    target: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**6, 10**6 - 1000, 1000))
    with pytest.raises(DownloadError, match=r"256\.0 kB are needed.*1\.0 kB are free"):
        fetch(server, transport, target)
    assert not server.seen


def test_a_folder_that_cannot_be_written_is_a_clear_error(
    server: Server, resource: Resource, transport: Transport, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DownloadError, match="cannot write"):
        fetch(server, transport, tmp_path / "file" / "blob")


def test_an_interrupted_download_keeps_its_partial_file(
    server: Server, resource: Resource, transport: Transport, target: Path
) -> None:
    def impatient(done: int, total: int, label: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(server, transport, target, progress=impatient)
    assert not target.exists() and target.with_name("blob.partial").stat().st_size > 0


_faults = st.builds(
    Fault,
    st.sampled_from(["cut", "ignore_range", "wrong_range", "corrupt", "promise", "extra", "none"]),
    st.integers(0, 3000),
) | st.builds(Fault, st.just("status"), st.sampled_from([403, 429, 500]))


@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    plan=st.lists(_faults, max_size=5),
    partial=st.binary(max_size=40) | st.integers(0, 3000),
    runs=st.integers(1, 2),
)
def test_whatever_happens_the_target_is_whole_or_untouched(
    tmp_path_factory: pytest.TempPathFactory, plan: list[Fault], partial: bytes | int, runs: int
) -> None:
    data, target = DATA[:3000], tmp_path_factory.mktemp("any") / "blob"
    target.with_name("blob.partial").write_bytes(
        data[:partial] if isinstance(partial, int) else partial
    )
    with serving() as server:
        server.add("/file", data, etag='"v"', plan=plan)
        for _ in range(runs):
            impatient = Transport(stall_seconds=2.0, tries=3, sleep=lambda seconds: None)
            try:
                fetch(server, impatient, target, data)
            except DownloadError:
                assert not target.exists()
            else:
                assert target.read_bytes() == data
                assert os.listdir(target.parent) == ["blob"]
                break
