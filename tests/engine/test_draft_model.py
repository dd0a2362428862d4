"""A small model drafts: the same text, the same distribution, fewer steps; its cache stays true."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codellama.engine.engine import Engine
from codellama.engine.params import SamplingParams
from codellama.engine.request import Output, Request
from codellama.engine.runner import Logits
from codellama.engine.scheduler import SchedulerConfig
from fakes import FakeRunner, random_logits


def no_time() -> float:
    return 0.0


def mostly(vocab_size: int, share: float) -> FakeRunner:
    """A runner that agrees with random_logits(vocab_size) about so many histories."""
    right, wrong = random_logits(vocab_size), random_logits(vocab_size, memory=3)

    def logits(history: list[int]) -> Logits:
        agrees = np.random.default_rng([7, *history]).random() < share
        return right(history) if agrees else wrong(history)

    return FakeRunner(vocab_size=vocab_size, logits=logits)


def run(draft: FakeRunner | None, *requests: Request, **runner: int) -> tuple[list[Output], Engine]:
    """Two at once: with many a draft would cost more than it may bring."""
    few = SchedulerConfig(max_running=2)
    engine = Engine(FakeRunner(**runner), draft=draft, clock=no_time, config=few)  # type: ignore[arg-type]
    return engine.generate(list(requests)), engine


def request(prompt: list[int], **more: object) -> Request:
    return Request(prompt_ids=tuple(prompt), params=SamplingParams(**more))  # type: ignore[arg-type]


def test_a_model_that_is_always_right_saves_most_steps() -> None:
    (plain,), slow = run(None, request([1, 2, 3], max_tokens=100))
    (fast,), quick = run(FakeRunner(), request([1, 2, 3], max_tokens=100))
    assert fast.ids == plain.ids
    assert fast.drafted == fast.accepted > 60
    assert quick._runner.steps < slow._runner.steps / 2  # type: ignore[attr-defined]


@given(
    st.lists(
        st.tuples(
            st.lists(st.integers(0, 5), min_size=1, max_size=40),
            st.integers(0, 60),
            st.sampled_from([0.0, 0.9]),
            st.sampled_from([None, True, False]),
        ),
        min_size=1,
        max_size=4,
    ),
    st.sampled_from([0.0, 0.5, 0.9, 1.0]),
    st.integers(4, 16),
)
@settings(max_examples=60)
def test_no_text_changes(
    jobs: list[tuple[list[int], int, float, bool | None]], share: float, n_blocks: int
) -> None:
    """Whatever the draft model says, however small its cache, with and without lookup."""
    requests = [
        request(prompt, max_tokens=n, temperature=temperature, seed=5, speculate=speculate)
        for prompt, n, temperature, speculate in jobs
    ]
    draft = mostly(64, share)
    draft.n_blocks = min(draft.n_blocks, n_blocks)
    want, _ = run(None, *requests)
    got, engine = run(draft, *requests)
    assert [output.ids for output in got] == [output.ids for output in want]
    model = engine._speculation.model
    assert model is not None and model.pool.available == n_blocks, "blocks were not given back"


def test_speculate_false_asks_nobody() -> None:
    draft = FakeRunner()
    (output,), _ = run(draft, request([1, 2], max_tokens=20, speculate=False))
    assert output.drafted == draft.steps == 0


def test_it_stops_asking_a_model_that_is_never_right() -> None:
    draft = mostly(64, 0.0)
    (output,), _ = run(draft, request([1, 2], max_tokens=200))
    assert output.accepted < 10
    assert draft.steps < 60


def test_a_draft_models_shorter_context_ends_its_drafts() -> None:
    draft = FakeRunner(context=48)
    (output,), _ = run(draft, request([1] * 30, max_tokens=60))
    (plain,), _ = run(None, request([1] * 30, max_tokens=60))
    assert output.ids == plain.ids
    assert max(int(batch.past_S[0]) for batch in draft.batches) < 48


@pytest.mark.parametrize("draft_share", [0.3, 0.8])
def test_sampled_tokens_keep_their_distribution(draft_share: float) -> None:
    """The first three tokens of 3,000 answers against the model's exact probabilities, by
    chi-square over all sequences of four tokens³; z below 4. And every answer is the one that its
    seed gives without drafts."""
    n, vocab, temperature = 3000, 4, 1.1
    each = {"max_tokens": 3, "temperature": temperature}
    requests = [request([1, 2], **each, seed=seed) for seed in range(n)]
    small = {"vocab_size": vocab}
    got, _ = run(mostly(vocab, draft_share), *requests, **small)
    plain, _ = run(None, *requests, **small)
    assert [output.ids for output in got] == [output.ids for output in plain]
    assert sum(output.accepted for output in got) > 0
    counts = Counter(output.ids for output in got)
    logits = random_logits(vocab)
    chi_square, cells = 0.0, 0
    for a in range(vocab):
        for b in range(vocab):
            for c in range(vocab):
                probability = 1.0
                for history, token in (([1, 2], a), ([1, 2, a], b), ([1, 2, a, b], c)):
                    weights = np.exp(logits(history).astype(np.float64) / temperature)
                    probability *= weights[token] / weights.sum()
                expected = n * probability
                if expected > 3:
                    chi_square += (counts[a, b, c] - expected) ** 2 / expected
                    cells += 1
    assert cells > 5
    assert abs(chi_square - cells) / (2 * cells) ** 0.5 < 4
