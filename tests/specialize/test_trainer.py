"""The loop: exact resume, even of a killed process; one loss however the batch is cut."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from codellama.errors import RequestError
from codellama.specialize.base import load_base
from codellama.specialize.checkpoint import latest
from codellama.specialize.dataset import Document, build_dataset
from codellama.specialize.optimizer import learning_rate
from codellama.specialize.recipe import Infilling, Lora, Optimizer, Profile, Recipe
from codellama.specialize.trainer import DivergedError, StepRecord, Trainer

RECIPE = Recipe(
    name="test", tokens=2400, batch_tokens=512, sequence=128, mix=(("code", 1.0),),
    optimizer=Optimizer(learning_rate=1e-2, warmup=2), infilling=Infilling(sentinel_weight=0.0),
)  # fmt: skip
FULL32 = Profile(dtype="float32", threads=1)
LORA = replace(RECIPE, lora=Lora(rank=4, alpha=8))


def trainer(
    tiny_base: Path, documents: list[Document], folder: Path | None, *,
    recipe: Recipe = RECIPE, profile: Profile = FULL32,
) -> tuple[Trainer, list[StepRecord]]:  # fmt: skip
    base = load_base(tiny_base, infill=True)
    data = build_dataset(recipe, {"code": documents}, base.tokenizer, base.end, None)
    records: list[StepRecord] = []
    return Trainer(base, recipe, profile, data, folder, on_step=records.append), records


def losses(records: list[StepRecord]) -> list[float]:
    return [record.loss for record in records]


def test_the_loss_falls(tiny_base: Path, documents: list[Document]) -> None:
    run, records = trainer(tiny_base, documents, None, recipe=replace(RECIPE, tokens=12_000))
    assert run.train() == run.steps == len(records)
    assert records[-1].loss < records[0].loss - 0.5
    assert records[0].loss == pytest.approx(math.log(512), abs=0.7)


@pytest.mark.parametrize("recipe", [RECIPE, LORA], ids=["full", "lora"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_resume_is_exact_twice(
    tiny_base: Path, documents: list[Document], tmp_path: Path, recipe: Recipe, dtype: str
) -> None:
    profile = replace(FULL32, dtype=dtype)
    whole, want = trainer(tiny_base, documents, None, recipe=recipe, profile=profile)
    whole.train()
    got: list[StepRecord] = []
    for until in (1, 3, None):
        run, records = trainer(tiny_base, documents, tmp_path, recipe=recipe, profile=profile)
        assert run.step == len(got)
        run.train(until=until)
        got += records
    assert losses(got) == losses(want)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["loss"] for line in lines] == losses(want)
    a, b = whole.optimizer.masters, run.optimizer.masters
    assert all(torch.equal(a[name], b[name]) for name in a)


PROGRAM = """
import sys
from pathlib import Path
sys.path[:0] = [{tests!r}]
from specialize import test_trainer as t
from codellama.specialize.dataset import Document
import json
documents = [Document(*d) for d in json.loads(Path({documents!r}).read_text())]
run, _ = t.trainer(Path({base!r}), documents, Path({folder!r}), profile=t.KILLED)
run.train()
"""
KILLED = replace(FULL32, checkpoint_minutes=0.0)


def test_killed_at_any_moment(tiny_base: Path, documents: list[Document], tmp_path: Path) -> None:
    """SIGKILL while it writes a checkpoint after every step; three times, then to the end."""
    whole, want = trainer(tiny_base, documents, None)
    whole.train()
    folder, listing = tmp_path / "run", tmp_path / "documents.json"
    listing.write_text(json.dumps([[d.id, d.text] for d in documents]))
    program = PROGRAM.format(
        tests=str(Path(__file__).parents[1]), documents=str(listing), base=str(tiny_base),
        folder=str(folder),
    )  # fmt: skip
    for kills in range(2):
        process = subprocess.Popen([sys.executable, "-c", program], cwd=Path(__file__).parents[2])
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and process.poll() is None:
            done = latest(folder / "checkpoints")
            if done is not None and int(done.name[5:]) > kills:
                break
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
    run, _ = trainer(tiny_base, documents, folder)
    assert run.step > 0
    run.train()
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [line["loss"] for line in lines] == losses(want)
    assert len(list((folder / "checkpoints").glob("step-*"))) <= 3


@pytest.mark.parametrize("recipe", [RECIPE, LORA], ids=["full", "lora"])
def test_accumulation_changes_nothing(
    tiny_base: Path, documents: list[Document], recipe: Recipe
) -> None:
    results = []
    for micro_rows in (1, 2, 4):
        profile = replace(FULL32, micro_rows=micro_rows)
        run, records = trainer(tiny_base, documents, None, recipe=recipe, profile=profile)
        run.train()
        results.append(losses(records))
    for other in results[1:]:
        assert other == pytest.approx(results[0], rel=2e-4)
    assert results[0][0] == pytest.approx(results[2][0], rel=1e-6)


def test_few_rows_of_an_embedding_are_as_good_as_all(
    tiny_base: Path, documents: list[Document]
) -> None:
    """The gradient of a tied one: that of its use as head, and some rows."""
    (few, records), (all_rows, others) = (trainer(tiny_base, documents, None) for _ in range(2))
    assert few.base.model.output is None and few.base.model.tok_embeddings.sparse
    all_rows.base.model.tok_embeddings.sparse = False
    few.train()
    all_rows.train()
    assert losses(records) == pytest.approx(losses(others), rel=1e-6)


def test_bfloat16_follows_float32(tiny_base: Path, documents: list[Document]) -> None:
    _, want = pair = trainer(tiny_base, documents, None)
    pair[0].train()
    run, got = trainer(tiny_base, documents, None, profile=replace(FULL32, dtype="bfloat16"))
    run.train()
    assert losses(got) == pytest.approx(losses(want), rel=0.02)
    assert all(m.dtype == torch.float32 for m in run.optimizer.masters.values())


def test_a_loss_that_is_no_number_stops(
    tiny_base: Path, documents: list[Document], tmp_path: Path
) -> None:
    run, _ = trainer(tiny_base, documents, tmp_path)
    run.train(until=1)
    with torch.no_grad():
        run.base.model.norm.weight.fill_(math.nan)
    with pytest.raises(DivergedError, match=r"step 2: the loss is nan.*Documents.*d\d+"):
        run.train()
    again, _ = trainer(tiny_base, documents, tmp_path)
    assert again.step == 1
    assert all(torch.isfinite(m).all() for m in again.optimizer.masters.values())


def test_a_full_disk_costs_a_checkpoint_only(
    tiny_base: Path, documents: list[Document], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, records = trainer(tiny_base, documents, tmp_path)
    warnings: list[str] = []
    run._on_warning = warnings.append
    run.train(until=1)

    def full(path: Path, data: bytes) -> None:
        path.write_bytes(data[:100])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("codellama.specialize.checkpoint.synced_write", full)
        run.train(until=2)
    assert len(records) == 2 and len(warnings) == 1
    assert "No space left" in warnings[0] and "step 2" in warnings[0]
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["step-00000001"]
    again, _ = trainer(tiny_base, documents, tmp_path)
    assert again.step == 1


def test_checkpoints_of_another_recipe_are_refused(
    tiny_base: Path, documents: list[Document], tmp_path: Path
) -> None:
    run, _ = trainer(tiny_base, documents, tmp_path)
    run.train(until=1)
    with pytest.raises(RequestError, match="belongs to another recipe"):
        trainer(tiny_base, documents, tmp_path, recipe=replace(RECIPE, seed=1))


def test_rows_of_a_step_can_be_made_again(tiny_base: Path, documents: list[Document]) -> None:
    first, _ = trainer(tiny_base, documents, None)
    second, _ = trainer(tiny_base, documents, None)
    second.train(until=2)
    for step in range(first.steps):
        a, b = first.rows(step), second.rows(step)
        assert [row.documents for row in a] == [row.documents for row in b]
        assert all((x.tokens_T == y.tokens_T).all() for x, y in zip(a, b, strict=True))


def test_schedules() -> None:
    cosine = Optimizer(learning_rate=3e-4, warmup=1000)
    course = [learning_rate(cosine, s, 125_000) for s in range(125_000)]
    assert course[999] == max(course) == 3e-4
    assert course[0] == pytest.approx(3e-7)
    assert course[-1] == pytest.approx(1e-5)  # a thirtieth (paper §2.6)
    wsd = Optimizer(learning_rate=1.0, warmup=10, schedule="wsd", final_ratio=0.0, decay=0.3)
    course = [learning_rate(wsd, s, 110) for s in range(110)]
    assert course[9] == course[70] == 1.0 and course[-1] == pytest.approx(0.0)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
