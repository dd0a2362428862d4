"""/api/pull against a registry on this machine, and a kill in the middle of it."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import httpx
import pytest

from hub.servers import Fault, serving
from serve.conftest import Live, start, stop


def pull(url: str, name: str, **fields: object) -> list[dict[str, object]]:
    body = {"model": name, "insecure": True} | fields
    reply = httpx.post(f"{url}/api/pull", json=body, timeout=60)
    assert reply.status_code == 200, reply.text
    return [json.loads(line) for line in reply.text.splitlines()]


def test_progress_and_then_the_model_is_there(infilling: Live) -> None:
    data = (infilling.store.parent / "tiny.gguf").read_bytes()
    with serving() as registry:
        registry.publish_ollama("library/pulled", {"model": data, "system": b"be brief"})
        name = f"{registry.host}/library/pulled"
        lines = pull(infilling.url, name)
        assert lines[0] == {"status": "pulling manifest"}
        assert lines[-1] == {"status": "success"}
        moving = [line for line in lines if line.get("total")]
        assert moving and moving[-1]["total"] == moving[-1]["completed"]
        assert str(moving[0]["digest"]).startswith("sha256:")
        assert str(moving[0]["status"]).startswith("pulling ")
    body = {"model": name, "prompt": "x", "stream": False, "options": {"num_predict": 2}}
    assert httpx.post(f"{infilling.url}/api/generate", json=body, timeout=60).status_code == 200
    assert (
        httpx.post(f"{infilling.url}/api/show", json={"name": name}).json()["system"] == "be brief"
    )
    assert (
        httpx.request("DELETE", f"{infilling.url}/api/delete", json={"name": name}).status_code
        == 200
    )


def test_errors_come_as_the_last_line(infilling: Live) -> None:
    with serving() as registry:
        name = f"{registry.host}/library/nobody"
        assert "error" in pull(infilling.url, name)[-1]
        body = {"model": name, "insecure": True, "stream": False}
        reply = httpx.post(f"{infilling.url}/api/pull", json=body, timeout=60)
        assert reply.status_code == 404 and "error" in reply.json()


@pytest.mark.slow
@pytest.mark.weights
def test_a_kill_in_the_middle_leaves_the_store_whole(tmp_path: Path, store: Path) -> None:
    """Killed while pulling and while creating; afterwards every listed model opens."""
    data = (store.parent / "tiny.gguf").read_bytes()
    mine = tmp_path / "models"
    mine.mkdir()
    with serving() as registry:
        registry.publish_ollama("library/pulled", {"model": data})
        name = f"{registry.host}/library/pulled"
        for attempt in range(3):
            resource = next(
                r for p, r in registry.resources.items() if "/blobs/" in p and len(r.data) > 10_000
            )
            resource.plan.append(Fault("stall", 1000 * (attempt + 1)))
            live = start(tmp_path, mine)
            with httpx.stream(
                "POST", f"{live.url}/api/pull", json={"model": name, "insecure": True}
            ) as reply:
                for line in reply.iter_lines():
                    if "total" in line:
                        break
                live.process.send_signal(signal.SIGKILL)
            live.process.wait()
            assert live.process.stdout is not None
            live.process.stdout.close()
            resource.plan.clear()
        live = start(tmp_path, mine)
        assert httpx.get(f"{live.url}/api/tags").json()["models"] == []
        assert pull(live.url, name)[-1] == {"status": "success"}
        (listed,) = [
            m for m in httpx.get(f"{live.url}/api/tags").json()["models"] if "pulled" in m["name"]
        ]
        body = {
            "model": listed["name"],
            "prompt": "x",
            "stream": False,
            "options": {"num_predict": 2},
        }
        assert httpx.post(f"{live.url}/api/generate", json=body, timeout=60).status_code == 200
        assert stop(live) == 0
