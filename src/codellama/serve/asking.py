"""From a dialect's fields to a running job: limits of the request's context, priorities, editors.

The one place where every door meets, so that a rule kept here holds in every dialect.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from codellama.api.answers import Prompt
from codellama.engine.params import SamplingParams
from codellama.engine.request import Constraint
from codellama.errors import ContextOverflowError, RequestError
from codellama.serve.jobs import CHAT, Budget, Delta, Job
from codellama.serve.models import Lease
from codellama.serve.stream import JobStream

__all__ = ["constrained", "start", "truncated"]

Observe = Callable[[Job, Delta], None]


def start(
    lease: Lease,
    prompt: Prompt,
    params: SamplingParams,
    *,
    n: int = 1,
    priority: int = CHAT,
    budget: Budget | None = None,
    editor: str | None = None,
    indent: int = 0,
    observe: Observe | None = None,
) -> JobStream:
    """Submit a job under the lease, which the stream then owns.

    Raises:
        ContextOverflowError: the prompt and one token of answer exceed the request's context.
        BusyError: the queue is full.
    """
    settings_s = lease.loaded.worker.max_seconds
    budget = budget or Budget()
    if budget.total is None and settings_s is not None:
        budget = replace(budget, total=settings_s)
    try:
        params = lease.loaded.prompts.resolved(params)
        job = Job(
            prompt=prompt,
            params=_within(lease, prompt, params),
            n=n,
            priority=priority,
            budget=budget,
            editor=editor,
            indent=indent,
        )
    except BaseException:
        lease.release()
        raise
    return JobStream(lease.loaded.worker, job, lease.release, observe=observe)


def truncated(lease: Lease, prompt: Prompt, params: SamplingParams) -> tuple[Prompt, int]:
    """The prompt's end as far as it fits with its answer, and how many tokens were cut.

    The first token (BOS) is kept. Only for clients that asked for it in so many words.
    """
    reserve = min(params.max_tokens or lease.context // 4, lease.context // 2)
    room = max(2, lease.context - max(1, reserve))
    cut = len(prompt.ids) - room
    if cut <= 0:
        return prompt, 0
    return replace(prompt, ids=[prompt.ids[0], *prompt.ids[cut + 1 :]]), cut


def constrained(prompt: Prompt, constraint: Constraint | None) -> Prompt:
    """The prompt with a constraint on its answer. One that is healed, or must not be
    empty, is under one already: RequestError.
    """
    if constraint is None:
        return prompt
    if prompt.constraint is not None:
        raise RequestError(
            "an answer that is healed or nonempty is under a constraint: leave out the other"
        )
    return replace(prompt, constraint=constraint)


def _within(lease: Lease, prompt: Prompt, params: SamplingParams) -> SamplingParams:
    room = lease.context - len(prompt.ids)
    if room < (0 if params.max_tokens == 0 else 1):
        raise ContextOverflowError(len(prompt.ids), lease.context)
    if lease.context == lease.loaded.context:
        return params
    most = room if params.max_tokens is None else min(params.max_tokens, room)
    return replace(params, max_tokens=most)
