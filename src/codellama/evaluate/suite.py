"""What a benchmark is: problems, a question for each, what the answer says, whether it is right.

A new benchmark is one small class: subclass Suite, give it problems, `ask`, `judge` and the oracle
answers that a test checks it with; add its name to suites.py. Stages, files, resuming, sampling,
confidence intervals and the report are the same for all.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from codellama.evaluate.asks import Ask, Model, Order, Raw
from codellama.evaluate.python_judge import PythonProgram
from codellama.evaluate.sandbox import Ended, Limits
from codellama.evaluate.statistics import bootstrap, mean, pass_at_k
from codellama.evaluate.verdicts import Verdict

__all__ = ["Executor", "Options", "Outcome", "Problem", "Suite"]


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem. `data` is the data set's own record; `prompt` is what a reader is shown."""

    task_id: str
    prompt: str
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one sample: a verdict, and the numbers that the score is made of."""

    verdict: Verdict
    values: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a suite is run; every field is written into the result.

    Attributes:
        limit: the first so many problems, or None for all.
        order: infilling prompts; None takes SPM, and the prefix alone where a model cannot infill.
        heal: token healing at the start of a middle.
        until_suffix: middles end, too, where they begin to repeat the suffix.
        nonempty: middles are more than white space.
        dry: how much middles lose that repeat themselves (SamplingParams.dry_multiplier).
        lengths: context lengths in tokens, for the long-context suites.
        corpus: a folder of held-out code, for the suites that measure on one's own files.
    """

    limit: int | None = None
    order: Order | None = None
    heal: bool = False
    until_suffix: bool = False
    nonempty: bool = False
    dry: float = 0.0
    lengths: tuple[int, ...] = ()
    corpus: str | None = None
    max_tokens: int | None = None


class Executor(Protocol):
    """Runs what models wrote, confined; `limits` are scaled by `factor` to this machine."""

    @property
    def factor(self) -> float: ...

    def python(self, program: PythonProgram, limits: Limits | None = None) -> Verdict: ...

    def command(
        self,
        command: Sequence[str],
        *,
        files: Mapping[str, str | bytes],
        stdin: bytes = b"",
        limits: Limits | None = None,
        binds: Mapping[str, str] | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Ended: ...


Lines = Callable[[str], list[dict[str, Any]]]


class Suite(ABC):
    """A benchmark. Everything but `problems` is a pure function of its arguments.

    Attributes:
        name: on the command line and in files.
        title: for people; says what differs from the paper, if anything does.
        table: where the paper reports it, as the report names it.
        metric: the headline's key in the score.
        executes: whether judging runs what the model wrote.
        contaminable: whether its problems come from a data set that training must not hold.
        parallel: most questions in flight; few where each is long, so that a kill loses little.
        infills: whether the model can; known from the run's folder where no model is at hand.
    """

    name: str
    title: str
    table: str = ""
    metric: str = "pass@1"
    executes: bool = True
    contaminable: bool = True
    parallel: int = 64

    def __init__(self, options: Options, model: Model | None = None) -> None:
        self.options = options
        self.model = model
        self.infills = model.infills if model else True

    @abstractmethod
    def problems(self) -> list[Problem]:
        """All problems, in the order of the data set."""

    @abstractmethod
    def ask(self, problem: Problem) -> Ask:
        """The question, to the stop text."""

    @abstractmethod
    def judge(self, problem: Problem, completion: Any, execute: Executor) -> Outcome:
        """Whether an extracted answer is right. Never raises for what an answer says."""

    @abstractmethod
    def oracle(self, problem: Problem) -> Raw:
        """A raw answer that is right."""

    def wrong(self, problem: Problem) -> Raw:
        """A raw answer that is not."""
        return "\n"

    def extract(self, problem: Problem, raw: Raw) -> Any:
        """The completion in a raw answer."""
        return raw

    def unavailable(self) -> str | None:
        """Why this suite cannot run here (a missing runtime), or None."""
        return None

    def notes(self) -> list[str]:
        """What a reader of the score must know; written while the model is at hand, too."""
        return []

    def score(self, problems: Sequence[Problem], outcomes: Mapping[str, list[Outcome]]) -> Any:
        """Figures over all problems: pass@k for k = 1, 10, 100 as far as the samples reach."""
        return pass_rates(outcomes)

    def selected(self) -> list[Problem]:
        """The problems of this run."""
        problems = self.problems()
        return problems if self.options.limit is None else problems[: self.options.limit]


def pass_rates(outcomes: Mapping[str, list[Outcome]]) -> dict[str, Any]:
    """pass@k and its 95 % interval; samples that the sandbox failed on are left out and counted."""
    counts = []
    for samples in outcomes.values():
        judged = [each for each in samples if each.verdict.status != "error"]
        counts.append((len(judged), sum(each.verdict.passed for each in judged)))
    counts = [(n, passed) for n, passed in counts if n]
    fewest = min((n for n, _ in counts), default=0)
    figures: dict[str, Any] = {}
    for k in (1, 10, 100):
        if k <= fewest:
            rates = [pass_at_k(n, passed, k) for n, passed in counts]
            figures[f"pass@{k}"] = mean(rates)
            figures[f"pass@{k} 95%"] = list(bootstrap(rates))
    return figures


def average(outcomes: Mapping[str, list[Outcome]], key: str) -> list[float]:
    """A value's mean over the samples of each problem that has it."""
    found: dict[str, list[float]] = defaultdict(list)
    for task_id, samples in outcomes.items():
        for each in samples:
            if key in each.values:
                found[task_id].append(each.values[key])
    return [mean(values) for values in found.values()]
