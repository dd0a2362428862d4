"""The paper's recipes to the number, plans against the paper's own bill, self-instruct's funnel."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from codellama.errors import RequestError
from codellama.model.config import PUBLISHED
from codellama.specialize import smol, stages
from codellama.specialize.plan import (
    H100,
    adapter_parameters,
    flops_per_token,
    plan_stage,
)
from codellama.specialize.recipe import Lora, Optimizer, Profile, Recipe
from codellama.specialize.self_instruct import (
    Funnel,
    make_instructions,
    parse_questions,
    parse_tests,
    write_conversations,
)


def test_code_training_is_the_paper_s() -> None:
    for size, tokens, rate, infills in (
        ("7b", 500e9, 3e-4, True), ("13b", 500e9, 3e-4, True),
        ("34b", 500e9, 1.5e-4, False), ("70b", 1e12, 1.5e-4, True),
    ):  # fmt: skip
        recipe = stages.code(size)
        assert (recipe.tokens, recipe.sequence, recipe.batch_tokens) == (tokens, 4096, 4_194_304)
        assert recipe.optimizer.learning_rate == rate
        assert recipe.optimizer.final_ratio == pytest.approx(1 / 30)
        assert (recipe.optimizer.warmup, recipe.optimizer.betas) == (1000, (0.9, 0.95))
        assert dict(recipe.mix) == {"code": 0.85, "nl_code": 0.08, "nl": 0.07}
        assert (recipe.infilling is not None) == infills
        if recipe.infilling is not None:
            assert (recipe.infilling.rate, recipe.infilling.spm) == (0.9, 0.5)
            assert recipe.infilling.spans == (("characters", 1.0),)
    assert stages.code("7b").steps == pytest.approx(119_209, abs=1)


def test_long_context_is_the_paper_s() -> None:
    for size, variant, steps, batch in (
        ("7b", "base", 3_000, 1 << 21), ("13b", "base", 10_000, 1 << 21),
        ("34b", "base", 11_000, 1 << 20), ("7b", "python", 10_000, 1 << 21),
    ):  # fmt: skip
        recipe = stages.long_context(size, variant)
        assert (recipe.steps, recipe.batch_tokens, recipe.sequence) == (steps, batch, 16_384)
        assert (recipe.rope_theta, recipe.optimizer.learning_rate) == (1e6, 2e-5)
    with pytest.raises(RequestError, match="no long-context stage"):
        stages.long_context("70b", "python")


def test_pipelines_are_figure_2() -> None:
    def names(recipe: str) -> list[str]:
        return [stage.name for stage in stages.pipeline(recipe).stages]

    assert names("codellama-7b-base") == ["code-7b", "long-7b-base"]
    assert names("codellama-13b-python") == ["code-13b", "python-13b", "long-13b-python"]
    assert names("codellama-34b-instruct") == ["code-34b", "long-34b-base", "instruct-34b"]
    assert names("codellama-70b-instruct") == ["code-70b", "python-70b", "instruct-70b"]
    assert stages.pipeline("codellama-7b-python").stages[0].infilling is None
    assert dict(stages.INSTRUCT_MIX) == {"instruct": 0.92, "code": 0.06, "nl": 0.02}
    with pytest.raises(RequestError, match="known: codellama-7b-base"):
        stages.pipeline("codellama-9b")
    with pytest.raises(RequestError, match="known: laptop"):
        stages.profile("phone")


def test_recipes_are_frozen_and_keyed() -> None:
    recipe = smol.smol_135m()
    with pytest.raises(AttributeError):
        recipe.tokens = 1  # type: ignore[misc]
    assert recipe.key == smol.smol_135m().key
    assert recipe.key != replace(recipe, seed=1).key
    assert recipe.infilling is not None
    more = replace(recipe.infilling, plain=("nl",))
    assert recipe.key != replace(recipe, infilling=more).key
    with pytest.raises(ValueError, match="add up to 1"):
        replace(recipe, mix=(("code", 0.5),))
    with pytest.raises(ValueError, match="at least one row"):
        replace(recipe, batch_tokens=10)
    with pytest.raises(RequestError, match="lora, qlora or full"):
        smol.smol_135m(method="magic")


def test_a_field_that_came_later_leaves_old_keys_alone() -> None:
    """Runs from before `plain` go on: the key as that version computed it."""
    assert stages.code("7b").key == "34a2aff489c578c3"


def test_the_plan_agrees_with_the_paper_s_bill() -> None:
    """Nine models, 400,000 A100-hours (Table 26): at 312 TFLOP/s and 48% of it, where every box of
    Figure 2 is counted once. With code training of 7B and 13B counted twice, as models with and
    without infilling need, the same bill means 62%.
    """
    a100 = replace(H100, peak=312e12, share=0.48, devices=512)
    profile = stages.profile("h100x512")
    hours = 0.0
    for size in ("7b", "13b", "34b"):
        boxes = {
            stage.name: stage
            for variant in ("base", "python", "instruct")
            for stage in stages.pipeline(f"codellama-{size}-{variant}").stages
        }
        config = PUBLISHED[f"llama2:{size}"]
        for stage in boxes.values():
            hours += plan_stage(config, stage, profile, a100).device_hours
    assert hours == pytest.approx(400_000, rel=0.1)


def test_the_plan_s_parts() -> None:
    config = PUBLISHED["llama2:7b"]
    recipe = stages.code("7b")
    plan = plan_stage(config, recipe, stages.profile("h100x512"), replace(H100, devices=512))
    assert plan.tokens_per_second == pytest.approx(512 * 9100, rel=0.05)
    assert plan.device_hours == pytest.approx(15_300, rel=0.05)
    assert 0 < plan.waste < 0.05 and plan.fits
    assert not plan_stage(config, recipe, Profile(), replace(H100, devices=1)).fits
    config, lora = PUBLISHED["smollm2:135m"], smol.smol_135m()
    assert adapter_parameters(config, 32) == 32 * 10_176 * 30
    assert flops_per_token(config, lora) < 0.75 * flops_per_token(config, replace(lora, lora=None))


QUESTION = "Write a Python function that doubles a number."


def test_self_instruct(tmp_path: Path) -> None:
    asked: list[str] = []

    def generate(prompt: str, count: int, first: int) -> list[str]:
        asked.append(prompt)
        if "exercises" in prompt:
            return [f"1. {QUESTION}\n2. {QUESTION}\n3. Write a function that cannot be tested.\n"]
        if "[TESTS]" in prompt:
            broken = "cannot be tested" in prompt.rsplit("Problem:", 1)[1]
            body = "no idea" if broken else "assert double(2) == 4\nassert (\nassert double(0) == 0"
            return [f"[TESTS]\n{body}\n[/TESTS]"]
        bad, good = "def double(x):\n    return x", "def double(x):\n    return 2 * x"
        return [f"[PYTHON]\n{code}\n[/PYTHON]" for code in (bad, good, good)][:count]

    def execute(solution: str, tests: Sequence[str]) -> bool:
        try:
            exec("\n".join([solution, *tests]), {})
        except Exception:
            return False
        return True

    funnel = make_instructions(generate, execute, tmp_path, questions=3, solutions=3)
    assert funnel.counts() == {
        "questions": 3, "unique": 2, "with_tests": 1, "solutions": 2, "solved": 1,
    }  # fmt: skip
    (triple,) = funnel.triples
    assert triple.tests == ("assert double(2) == 4", "assert double(0) == 0")
    assert "2 * x" in triple.solution and triple.messages[0] == ("user", QUESTION)
    # The raw answers are on the disk, and a second run asks nothing.
    lines = (tmp_path / "attempts.jsonl").read_text().splitlines()
    assert len(lines) == 2 and len(json.loads(lines[0])["raw_solutions"]) == 3
    asked.clear()
    again = make_instructions(generate, execute, tmp_path, questions=3, solutions=3)
    assert again.counts() == funnel.counts() and asked == []
    # A kill in the middle of a line loses that line, and not what is written after it.
    log = tmp_path / "attempts.jsonl"
    whole = log.read_bytes()
    log.write_bytes(whole[:-20])
    assert make_instructions(generate, execute, tmp_path, questions=3).counts() == funnel.counts()
    assert len(asked) == 1 and log.read_bytes() == whole
    write_conversations(funnel.triples, tmp_path / "out.jsonl", "MIT")
    row = json.loads((tmp_path / "out.jsonl").read_text())
    assert row["messages"][0] == {"role": "user", "content": QUESTION} and row["license"] == "MIT"


def test_what_is_in_flight_when_one_fails_is_asked_again(tmp_path: Path) -> None:
    questions = [f"Write a function that returns the number {i}." for i in range(9)]
    asked: list[str] = []
    there = [True]

    def generate(prompt: str, count: int, first: int) -> list[str]:
        if "exercises" in prompt:
            return ["\n".join(f"{i}. {q}" for i, q in enumerate(questions, 1))]
        asked.append(prompt.rsplit("Problem: ", 1)[1].splitlines()[0])
        if there[0] and len(asked) == 5:
            raise OSError("the server went away")
        return ["nothing"]

    run = partial(make_instructions, generate, lambda _s, _t: True, tmp_path, workers=3)
    with pytest.raises(OSError, match="went away"):
        run(questions=9)
    done = len((tmp_path / "attempts.jsonl").read_text().splitlines())
    assert 2 <= done < 9
    asked[:], there[0] = [], False
    assert run(questions=9).unique == 9
    assert len(asked) == len(set(asked)) == 9 - done


def test_a_generator_that_says_nothing_of_use(tmp_path: Path) -> None:
    funnel = make_instructions(lambda _p, _n, _i: ["?"], lambda _s, _t: True, tmp_path, questions=4)
    assert funnel == Funnel()


def test_parsing() -> None:
    assert parse_tests("assert x == 1\n[/TESTS] more") == ["assert x == 1"]
    assert parse_tests("nothing") == []
    assert parse_questions("- short\n- Write a function that is long enough.") == [
        "Write a function that is long enough."
    ]


def test_optimizers_and_adapters_check_themselves() -> None:
    with pytest.raises(ValueError, match="must be positive"):
        Optimizer(learning_rate=0.0)
    with pytest.raises(ValueError, match="rank must be"):
        Lora(rank=0)
    assert isinstance(smol.smol_135m(method="full"), Recipe)
