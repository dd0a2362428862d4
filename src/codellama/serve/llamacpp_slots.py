"""llama.cpp's /slots: who is being served, and saving, restoring and erasing prefix caches.

Upstream a slot owns its cache; here all requests of a model share one prefix tree, so every id
means that tree: `save` writes its most recent blocks, `restore` adds a file's to it. Only files of
the operator's folder, by plain names, are ever touched. Source: ggml-org/llama.cpp
tools/server/README.md.
"""

from __future__ import annotations

import asyncio
import re
import time
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from codellama.engine.engine import Engine
from codellama.serve.context import State
from codellama.serve.errors import StatusError
from codellama.serve.llamacpp import LLAMACPP
from codellama.serve.llamacpp_types import SlotFile
from codellama.serve.models import PREFIX_BYTES, Loaded
from codellama.serve.replies import json_reply, read_json

__all__ = ["SLOTS", "routes"]

SLOTS = 64
"""What /props calls total_slots: sequences that run at once."""

_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_. -]{0,198}[A-Za-z0-9_-])?")


def routes(state: State) -> list[Route]:
    return [
        LLAMACPP.route("/slots", _slots, "GET", state=state),
        LLAMACPP.route("/slots/{id}", _act, state=state),
    ]


async def _slots(state: State, request: Request) -> Response:
    slots: list[dict[str, Any]] = []
    for loaded in state.models.loaded:
        for job in loaded.worker.snapshot():
            slots.append(
                {
                    "id": len(slots),
                    "id_task": job.id,
                    "n_ctx": loaded.context,
                    "is_processing": True,
                    "model": loaded.resolved.info.name,
                    "n_prompt_tokens": len(job.prompt.ids),
                    "n_decoded": job.generated,
                    "priority": job.priority,
                }
            )
    return json_reply(slots)


async def _act(state: State, request: Request) -> Response:
    folder = state.settings.slot_folder
    if folder is None:
        raise StatusError(
            501,
            "This server does not support slots action. Start it with `--slot-save-path`",
            "not_supported_error",
        )
    text = request.path_params["id"]
    if not re.fullmatch("[0-9]{1,4}", text) or int(text) >= SLOTS:
        raise StatusError(400, "Invalid slot ID")
    action = request.query_params.get("action")
    if action not in ("save", "restore", "erase"):
        raise StatusError(400, "Invalid action")
    body = SlotFile()
    if action != "erase" or await request.body():  # upstream's erase has no body
        body = await read_json(request, SlotFile, state.settings.max_body)
    if action != "erase" and not _NAME.fullmatch(body.filename or ""):
        raise StatusError(400, "Invalid filename")
    lease = await state.models.lease(body.model)
    try:
        if action == "erase":
            reply = {"n_erased": await _call(lease.loaded, Engine.erase_prefixes)}
        else:
            path = folder / str(body.filename)
            work = _save if action == "save" else _restore
            reply = await work(lease.loaded, path)
    finally:
        lease.release()
    return json_reply({"id_slot": int(text)} | reply)


async def _save(loaded: Loaded, path: Path) -> dict[str, Any]:
    begin = time.perf_counter()

    def save(engine: Engine) -> int:
        return engine.save_prefixes(path, loaded.identity, most_bytes=PREFIX_BYTES)

    try:
        saved = await _call(loaded, save)
    except OSError as error:
        raise StatusError(507, f"Unable to save slot: {error.strerror}", "api_error") from None
    if not saved:
        raise StatusError(400, "Unable to save slot: nothing is cached")
    return {
        "filename": path.name,
        "n_saved": saved,
        "n_written": path.stat().st_size,
        "timings": {"save_ms": (time.perf_counter() - begin) * 1e3},
    }


async def _restore(loaded: Loaded, path: Path) -> dict[str, Any]:
    begin = time.perf_counter()
    restored = await _call(loaded, lambda e: e.restore_prefixes(path, loaded.identity))
    if not restored:
        raise StatusError(
            400,
            "Unable to restore slot, no available space in KV cache or invalid slot save file: "
            "it must be whole, and of this model and version",
        )
    return {
        "filename": path.name,
        "n_restored": restored,
        "n_read": path.stat().st_size,
        "timings": {"restore_ms": (time.perf_counter() - begin) * 1e3},
    }


async def _call(loaded: Loaded, work: Any) -> int:
    done: int = await asyncio.wrap_future(loaded.worker.call(work))
    return done
