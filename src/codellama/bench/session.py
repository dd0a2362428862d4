"""Rounds of ours and its peers, in both orders; medians, and ratios round by round.

A B C, C B A, A B C, …: what drifts on a shared machine, or warms up, meets all alike. The ratio of
a case, and its share of a limit, is the median of those within a round, not a ratio of medians of
different minutes.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from math import isinf
from pathlib import Path

from codellama.bench.cases import Case
from codellama.bench.limits import Limits, Workload
from codellama.bench.machine import Machine, int8_instruction, typical
from codellama.bench.peer import Peer, run_peer
from codellama.bench.worker import Run, Task, run_ours
from codellama.model.config import KvType
from codellama.weights.load import ModelFile

__all__ = ["OURS", "Beside", "Result", "Round", "Row", "Session", "run_round", "summarize"]

OURS = "ours"

Round = dict[str, Run]
"""One run of each engine by name; OURS is among them."""


@dataclass(frozen=True, slots=True)
class Session:
    """What is run in each round."""

    model: Path
    cases: list[Case]
    threads: int
    isa: str | None = None
    peers: tuple[Peer, ...] = ()
    kv_type: KvType = "f16"


def run_round(session: Session, index: int) -> Round:
    """Every engine once, in reverse order in odd rounds. RequestError where one fails."""
    labels = [case.label for case in session.cases]
    task = Task(str(session.model), labels, session.threads, session.isa, session.kv_type)
    done: Round = {}
    turns: list[Peer | None] = [None, *session.peers]
    for peer in turns if index % 2 == 0 else reversed(turns):
        if peer is None:
            done[OURS] = run_ours(task)
        else:
            done[peer.name] = run_peer(peer, session.model, session.cases, session.threads)
    return done


@dataclass(frozen=True, slots=True)
class Beside:
    """A peer's median rate of a case, and the median of ours over it."""

    rate: float
    ratio: float


@dataclass(frozen=True, slots=True)
class Row:
    """One case. Rates are tokens a second, medians over the rounds.

    Attributes:
        limit: the machine's typical best; `bound` says what sets it.
        share, bandwidth_share, int8_share: of each round's limits, the lower, the memory's and
            that of products (None where no instruction is known for them).
        peers: by name; those that know the case.
    """

    case: Case
    ours: float
    limit: float
    bound: str
    share: float
    bandwidth_share: float
    int8_share: float | None
    peers: dict[str, Beside] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Result:
    """A session's outcome.

    Attributes:
        file_bytes: all tensors as stored.
        machine, limits: medians over the rounds.
        instruction: whose rate is the int8 peak; None where no known one fits, and only memory
            bounds.
        engines: OURS and the peers, in order.
    """

    model: str
    file_bytes: int
    workload: Workload
    machine: Machine
    instruction: str | None
    limits: Limits
    engines: list[str]
    rows: list[Row]
    rounds: list[Round] = field(repr=False)
    machines: list[Machine] = field(repr=False)

    def median(self, of: str, engine: str = OURS) -> float | None:
        """Median of `load_s` or `peak_mb`; None where it is not known."""
        values = [getattr(done[engine], of) for done in self.rounds]
        known = [value for value in values if value is not None]
        return statistics.median(known) if known else None


def summarize(
    source: ModelFile, session: Session, machines: list[Machine], rounds: list[Round]
) -> Result:
    """The table of some rounds of one session; machines: as it was before each of them."""
    workload, machine = Workload.of(source, session.kv_type), typical(machines)
    instruction = int8_instruction(str(rounds[0][OURS].about["isa"]), machine.peaks)

    def limits_of(machine: Machine) -> Limits:
        peak = machine.peaks[instruction] if instruction else float("inf")
        return Limits(machine.cached_bandwidth, peak)

    limits = [limits_of(each) for each in machines]
    names = [peer.name for peer in session.peers]
    return Result(
        model=session.model.name,
        file_bytes=source.weight_bytes,
        workload=workload,
        machine=machine,
        instruction=instruction,
        limits=limits_of(machine),
        engines=[OURS, *names],
        rows=[
            _row(case, workload, limits_of(machine), limits, names, rounds)
            for case in session.cases
        ],
        rounds=rounds,
        machines=machines,
    )


def _row(
    case: Case,
    workload: Workload,
    typically: Limits,
    limits: list[Limits],
    names: list[str],
    rounds: list[Round],
) -> Row:
    cost = workload.cost(case)
    ours = [done[OURS].rates[case.label] for done in rounds]

    def share(limit: Callable[[Limits], float]) -> float:
        return statistics.median(rate / limit(at) for rate, at in zip(ours, limits, strict=True))

    beside = {}
    for name in names:
        rates = [done[name].rates.get(case.label) for done in rounds]
        pairs = [(mine, rate) for mine, rate in zip(ours, rates, strict=True) if rate]
        if pairs:
            beside[name] = Beside(
                statistics.median(rate for _, rate in pairs),
                statistics.median(mine / rate for mine, rate in pairs),
            )
    return Row(
        case,
        statistics.median(ours),
        limit=typically.rate(cost),
        bound=typically.bound(cost),
        share=share(lambda at: at.rate(cost)),
        bandwidth_share=share(lambda at: at.bandwidth * cost.tokens / cost.bytes),
        int8_share=None
        if isinf(typically.peak)
        else share(lambda at: at.peak * cost.tokens / cost.ops),
        peers=beside,
    )
