"""The application: every dialect's routes behind the guards of security.py.

`create_app` makes an ASGI app from settings; tests hand in their own models. Work at start and stop
(prefix caches, draining) is the lifespan's.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from codellama.serve import (
    llamacpp,
    llamacpp_props,
    llamacpp_slots,
    ollama,
    ollama_create,
    ollama_models,
    openai,
    openapi,
)
from codellama.serve.context import State
from codellama.serve.errors import Problem
from codellama.serve.models import Models
from codellama.serve.ollama import OLLAMA
from codellama.serve.openai import OPENAI
from codellama.serve.replies import json_reply
from codellama.serve.security import guarded
from codellama.serve.settings import Settings

__all__ = ["create_app"]


def create_app(settings: Settings, models: Models | None = None) -> ASGIApp:
    """Everything, ready for uvicorn."""
    state = State(settings, models or Models(settings))

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        tasks = [asyncio.ensure_future(state.models.watch())]
        if settings.preload:
            tasks.append(asyncio.ensure_future(state.models.preload()))
        yield
        for task in tasks:
            task.cancel()
        await state.models.close()

    app = Starlette(
        routes=[
            *ollama_models.routes(state),
            *ollama_create.routes(state),
            *ollama.routes(state),
            *openai.routes(state),
            *llamacpp.routes(state),
            *llamacpp_props.routes(state),
            *llamacpp_slots.routes(state),
            *openapi.routes(state),
        ],
        lifespan=lifespan,
        exception_handlers={HTTPException: _http_error},
    )
    app.router.redirect_slashes = False
    app.state.parts = state
    return guarded(app, settings)


async def _http_error(request: Request, error: Exception) -> Response:
    """404 and 405 of the router, in the dialect of the path."""
    assert isinstance(error, HTTPException)
    dialect = OPENAI if request.url.path.startswith("/v1") else OLLAMA
    words = {404: "404 page not found", 405: "405 method not allowed"}
    text = words.get(error.status_code, error.detail)
    kind = "not_found_error" if error.status_code == 404 else "invalid_request_error"
    problem = Problem(error.status_code, text, kind)
    return json_reply(dialect.shape(problem), error.status_code, error.headers)
