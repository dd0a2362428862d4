"""/slots?action=…: caches that clients keep in the operator's folder, and nowhere else."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from codellama.serve.settings import Settings
from fakes import KeepingRunner
from serve.inprocess import drive

PROMPT = "def first(path):\n    return path\n" * 4
ASK = {"prompt": PROMPT, "n_predict": 2, "temperature": 0}


async def act(http: httpx.AsyncClient, action: str, id: str = "0", **body: Any) -> httpx.Response:
    return await http.post(f"/slots/{id}", params={"action": action}, json=body)


async def cached(http: httpx.AsyncClient) -> int:
    reply = (await http.post("/completion", json=ASK)).json()
    return int(reply["tokens_cached"])


def test_save_erase_restore(tmp_path: Path) -> None:
    async def work(http: httpx.AsyncClient) -> None:
        nothing = await act(http, "save", filename="a.bin")
        assert nothing.status_code == 400 and "nothing is cached" in nothing.text
        assert await cached(http) == 0
        saved = (await act(http, "save", filename="a.bin")).json()
        assert saved["n_saved"] >= 128 and saved["n_written"] == (tmp_path / "a.bin").stat().st_size
        assert await cached(http) >= 128
        erased = (await act(http, "erase", id="3")).json()
        assert erased == {"id_slot": 3, "n_erased": saved["n_saved"]}
        assert await cached(http) == 0
        await act(http, "erase")
        restored = (await act(http, "restore", filename="a.bin")).json()
        assert restored["n_restored"] == saved["n_saved"]
        assert restored["n_read"] == saved["n_written"] and restored["filename"] == "a.bin"
        assert await cached(http) >= 128

    drive(work, Settings(slot_folder=tmp_path), kind=KeepingRunner)


def test_upstreams_erase_has_no_body(tmp_path: Path) -> None:
    async def work(http: httpx.AsyncClient) -> None:
        reply = await http.post("/slots/0?action=erase")
        assert reply.json() == {"id_slot": 0, "n_erased": 0}

    drive(work, Settings(slot_folder=tmp_path), kind=KeepingRunner)


def test_another_models_and_damaged_files_are_refused(tmp_path: Path) -> None:
    async def save(http: httpx.AsyncClient) -> None:
        await cached(http)
        assert (await act(http, "save", filename="a.bin")).status_code == 200

    async def refuse(http: httpx.AsyncClient) -> None:
        whole = (tmp_path / "a.bin").read_bytes()
        models = http._transport.app.state_parts.models  # type: ignore[attr-defined]
        lease = await models.lease(None)
        lease.release()
        lease.loaded.identity, kept = "another", lease.loaded.identity
        assert (await act(http, "restore", filename="a.bin")).status_code == 400
        lease.loaded.identity = kept
        for damaged in (whole[:-1], whole[:-40] + b"x" + whole[-39:], b""):
            (tmp_path / "b.bin").write_bytes(damaged)
            reply = await act(http, "restore", filename="b.bin")
            assert reply.status_code == 400, reply.text
            assert "invalid slot save file" in reply.json()["error"]["message"]
        assert (await act(http, "restore", filename="none.bin")).status_code == 400
        assert (await act(http, "restore", filename="a.bin")).status_code == 200

    settings = Settings(slot_folder=tmp_path)
    drive(save, settings, kind=KeepingRunner)
    drive(refuse, settings, kind=KeepingRunner)


NAMES = [
    "../a",
    "/etc/passwd",
    "a/b",
    "a\\b",
    "..",
    ".",
    "",
    ".hidden",
    "a.",
    "a ",
    "x" * 300,
    "a\0",
]


@pytest.mark.parametrize("name", [*NAMES, None])
def test_names_outside_the_folder(tmp_path: Path, name: str | None) -> None:
    async def work(http: httpx.AsyncClient) -> None:
        for action in ("save", "restore"):
            reply = await act(http, action, filename=name)
            assert reply.status_code == 400
            assert reply.json()["error"]["message"] == "Invalid filename"

    drive(work, Settings(slot_folder=tmp_path), kind=KeepingRunner)
    assert list(tmp_path.iterdir()) == []


def test_without_a_folder_and_other_mistakes(tmp_path: Path) -> None:
    async def refused(http: httpx.AsyncClient) -> None:
        for action in ("save", "restore", "erase"):
            reply = await act(http, action, filename="a")
            assert reply.status_code == 501
            assert reply.json()["error"]["type"] == "not_supported_error"

    async def mistakes(http: httpx.AsyncClient) -> None:
        for id in ("64", "-1", "x", "99999999999"):
            assert (await act(http, "save", id=id, filename="a")).text.count("Invalid slot ID")
        assert (await act(http, "burn", filename="a")).text.count("Invalid action")
        assert (await http.post("/slots/0", json={})).text.count("Invalid action")
        assert (await act(http, "save", filename=7)).status_code == 400

    drive(refused)
    drive(mistakes, Settings(slot_folder=tmp_path), kind=KeepingRunner)


def test_saving_beside_requests_that_run(tmp_path: Path) -> None:
    async def work(http: httpx.AsyncClient) -> None:
        await cached(http)
        asks = [http.post("/completion", json=ASK | {"prompt": PROMPT + str(n)}) for n in range(6)]
        saves = [act(http, "save", filename=f"{n % 2}.bin") for n in range(4)]
        acts = [act(http, "restore", filename="0.bin"), act(http, "erase")]
        replies = await asyncio.gather(*asks, *saves, *acts)
        assert [reply.status_code for reply in replies[:10]] == [200] * 10
        models = http._transport.app.state_parts.models  # type: ignore[attr-defined]
        models.loaded[0].engine._scheduler.check_integrity()

    drive(work, Settings(slot_folder=tmp_path), kind=KeepingRunner)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.bin", "1.bin"]
