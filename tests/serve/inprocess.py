"""The application without a network: fakes for the model, an ASGI client in place of sockets."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx

from codellama.api.loading import Parts
from codellama.errors import NotFoundError
from codellama.hub import ModelInfo
from codellama.model.config import ModelConfig
from codellama.serve.app import create_app
from codellama.serve.models import Models
from codellama.serve.names import Names, Resolved
from codellama.serve.settings import Settings
from fakes import ByteTokenizer, FakeRunner

CONFIG = ModelConfig(
    name="fake", dim=8, n_layers=1, n_heads=1, n_kv_heads=1, head_dim=8, ffn_dim=8,
    vocab_size=264, context=512,
)  # fmt: skip


class FakeNames(Names):
    """Knows `fake`, which is also what no name and `codellama` mean."""

    def _resolve(self, name: str | None) -> Resolved:
        if name and not name.startswith(("fake", "codellama")):
            raise NotFoundError(f"model '{name[:100]}' not found")
        info = ModelInfo(
            "fake:latest", Path("/nowhere/fake.gguf"), 1, 0.0, "gguf", "store", "sha256:0"
        )
        return Resolved(name or "fake:latest", info)


def fake_parts(infills: bool = True, kind: type[FakeRunner] = FakeRunner, **runner: Any) -> Parts:
    options = {"vocab_size": 264, "context": 512, "n_blocks": 128} | runner
    return Parts(kind(**options), ByteTokenizer(infills=infills), CONFIG, None)


def fake_app(settings: Settings | None = None, **parts: Any) -> Any:
    settings = settings or Settings()
    models = Models(settings, FakeNames(), lambda resolved, context, s: fake_parts(**parts))
    return create_app(settings, models)


Work = Callable[[httpx.AsyncClient], Awaitable[None]]


def drive(
    work: Work, settings: Settings | None = None, client: str = "127.0.0.1", **parts: Any
) -> None:
    """Run `work` with a client of a fresh app, and take the app down again."""

    async def run() -> None:
        app = fake_app(settings, **parts)
        transport = httpx.ASGITransport(app, client=(client, 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
            try:
                await work(http)
            finally:
                await app.state_parts.models.close()

    asyncio.run(run())
