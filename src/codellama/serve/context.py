"""What every route shares: settings, models, metrics; and how a handler's errors become replies.

A dialect gives its error shape once; `endpoint` turns a handler into a route that answers every
error in that shape and stops work for clients that have gone.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from codellama.errors import CodeLlamaError
from codellama.serve.errors import Problem, StatusError, problem_of
from codellama.serve.metrics import Metrics
from codellama.serve.models import Models
from codellama.serve.replies import ClientGone, json_reply
from codellama.serve.settings import Settings

__all__ = ["Dialect", "State", "header_notes"]

log = logging.getLogger("codellama.serve")

Handler = Callable[["State", Request], Awaitable[Response]]


@dataclass(slots=True)
class State:
    """A server's parts."""

    settings: Settings
    models: Models
    metrics: Metrics = field(default_factory=Metrics)


@dataclass(frozen=True, slots=True)
class Dialect:
    """A family of routes with one shape of errors.

    `busy` is its status for a full queue.
    """

    name: str
    shape: Callable[[Problem], dict[str, Any]]
    busy: int = 503

    def reply(self, error: CodeLlamaError) -> Response:
        problem = problem_of(error)
        status = self.busy if problem.code == "server_busy" else problem.status
        return json_reply(self.shape(problem), status, problem.headers)

    def route(self, path: str, handler: Handler, *methods: str, state: State) -> Route:
        async def endpoint(request: Request) -> Response:
            try:
                reply = await handler(state, request)
            except (ClientGone, ClientDisconnect):
                reply = Response(status_code=499)
            except CodeLlamaError as error:
                reply = self.reply(error)
            except Exception:
                log.exception("%s %s failed", request.method, request.url.path)
                reply = self.reply(StatusError(500, "internal error", "api_error"))
            state.metrics.requests.labels(path, str(reply.status_code)).inc()
            return reply

        return Route(path, endpoint, methods=list(methods or ("POST",)))


def header_notes(notes: list[str]) -> dict[str, str]:
    """What a client should know beside the answer, as a header."""
    if not notes:
        return {}
    text = "; ".join(notes).encode("ascii", "replace").decode().replace("\n", " ")
    return {"x-codellama-notice": text[:1000]}
