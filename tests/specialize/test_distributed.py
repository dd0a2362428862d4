"""Two gloo processes compute what one does: sharded, tensor-parallel, context-parallel; their
checkpoints are read by any number; a 512-rank layout is tried without any.
"""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from codellama.errors import ModelFileError, RequestError
from codellama.model.config import PUBLISHED
from codellama.model.llama import Llama
from codellama.specialize import checkpoint, distributed
from codellama.specialize.base import load_base
from codellama.specialize.checkpoint import Saver
from codellama.specialize.context import gathered_attention
from codellama.specialize.dataset import Document, build_dataset
from codellama.specialize.export import trained_model
from codellama.specialize.forward import PackedLoss, attend_pieces
from codellama.specialize.parallel import Parallel
from codellama.specialize.recipe import Profile, Recipe
from codellama.specialize.stages import profile as find_profile
from codellama.specialize.trainer import Trainer
from codellama.weights.export import export_gguf
from codellama.weights.load import open_model
from codellama.weights.torch_model import load_llama

from .conftest import TINY
from .test_trainer import FULL32, LORA, RECIPE, trainer

LENGTHS = [5, 9, 2]
ROWS = 2
STEPS = 3
Mesh = tuple[tuple[str, int], ...]
pytestmark = pytest.mark.slow


def model() -> Llama:
    torch.manual_seed(0)
    model = Llama(TINY)
    model.init_weights()
    return model


def rows(step: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    return [torch.randint(0, TINY.vocab_size, (16,), generator=generator) for _ in range(ROWS)]


def weights() -> torch.Tensor:
    weights_T = torch.ones(16)
    weights_T[[4, 13, 15]] = 0
    return weights_T


def alone(steps: int = STEPS) -> list[float]:
    """The losses of one process."""
    module = PackedLoss(model())
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-2)
    losses = []
    for step in range(steps):
        total = sum(module(row, LENGTHS, weights()) for row in rows(step)) / (ROWS * 13)
        assert isinstance(total, torch.Tensor)
        total.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(total.detach()))
    return losses


def start(rank: int, size: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=size
    )


def train(rank: int, size: int, folder: str, mesh: Mesh) -> None:
    start(rank, size, folder)
    profile = Profile(dtype="float32", mesh=mesh)
    module = PackedLoss(model())
    distributed.shard(module, distributed.build_mesh(profile), profile)
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-2)
    dp = dict(mesh).get("dp", 1)
    for step in range(STEPS):
        mine = rows(step)[rank % dp :: dp]
        loss = sum(module(row, LENGTHS, weights()) for row in mine) / (ROWS * 13)
        assert isinstance(loss, torch.Tensor)
        (loss * dp).backward()  # FSDP averages over ranks
        optimizer.step()
        optimizer.zero_grad()
        total = loss.detach().clone()
        if dp > 1:
            dist.all_reduce(total)
        if rank == 0:
            with (Path(folder) / "losses").open("a") as file:
                file.write(f"{float(total)!r}\n")
    dist.destroy_process_group()


def run(folder: Path, mesh: Mesh) -> list[float]:
    folder.mkdir()
    mp.spawn(train, (2, str(folder), mesh), nprocs=2)
    return [float(line) for line in (folder / "losses").read_text().splitlines()]


def test_sharded_is_alone(tmp_path: Path) -> None:
    assert run(tmp_path / "a", (("dp", 2),)) == pytest.approx(alone(), rel=1e-5)


def test_tensor_parallel_is_alone(tmp_path: Path) -> None:
    assert run(tmp_path / "a", (("tp", 2),)) == pytest.approx(alone(), rel=1e-5)


def context(rank: int, size: int, folder: str) -> None:
    start(rank, size, folder)
    generator = torch.Generator().manual_seed(7)
    whole = [torch.randn(1, 16, heads, 8, generator=generator) for heads in (4, 2, 2)]
    slope = torch.randn(1, 16, 4, 8, generator=generator)
    want = [t.clone().requires_grad_() for t in whole]
    out = attend_pieces(want[0], want[1], want[2], LENGTHS).unflatten(-1, (4, 8))
    (out * slope).sum().backward()
    own = [t.chunk(size, 1)[rank].clone().requires_grad_() for t in whole]
    got = gathered_attention(own[0], own[1], own[2], LENGTHS, dist.group.WORLD)
    (got * slope.chunk(size, 1)[rank]).sum().backward()
    assert torch.allclose(got, out.chunk(size, 1)[rank], atol=1e-6)
    for a, b in zip(own, want, strict=True):
        assert a.grad is not None and b.grad is not None
        assert torch.allclose(a.grad, b.grad.chunk(size, 1)[rank], atol=1e-6)
    dist.destroy_process_group()


def test_context_parallel_is_alone(tmp_path: Path) -> None:
    mp.spawn(context, (2, str(tmp_path)), nprocs=2)


def test_a_layout_of_512_ranks_in_one_process() -> None:
    result = distributed.dry_run(PUBLISHED["codellama:34b-code"], find_profile("h100x512"))
    assert result.ranks == 512
    assert result.parameters == pytest.approx(result.whole / 512, rel=0.15)
    assert result.state_bytes < 2e9
    smol = PUBLISHED["smollm2:135m"]
    with pytest.raises(RequestError, match="do not divide by tp 2"):
        distributed.dry_run(smol, Profile(mesh=(("tp", 2),)))
    assert not dist.is_initialized()


def test_a_mesh_of_another_size_is_refused(tmp_path: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/s", rank=0, world_size=1)
    try:
        with pytest.raises(RequestError, match=r"dp 2 = 2 devices, but 1 were started"):
            distributed.build_mesh(Profile(mesh=(("dp", 2),)))
    finally:
        dist.destroy_process_group()
    assert replace(Profile(), mesh=(("dp", 1),)).mesh


def test_axes_have_an_order(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"a mesh of tp, dp; axes are dp, cp, tp, once"):
        distributed.dry_run(TINY, Profile(mesh=(("tp", 2), ("dp", 2))))
    assert not dist.is_initialized()


def specialize(
    rank: int, size: int, folder: str, base: str, recipe: Recipe, mesh: Mesh, until: int | None
) -> None:
    start(rank, size, folder + f"/{size}")
    documents = json.loads((Path(folder) / "documents.json").read_text())
    parallel = Parallel(replace(FULL32, mesh=mesh))
    loaded = load_base(Path(base), infill=True)
    corpus = {"code": [Document(*d) for d in documents]}
    with parallel.first():
        data = build_dataset(
            recipe, corpus, loaded.tokenizer, loaded.end, Path(folder) / "run" / "data"
        )
    run = Trainer(loaded, recipe, FULL32, data, Path(folder) / "run", parallel=parallel)
    run.train(until=until)
    if until is None:
        run.finish()
        if rank == 0:
            model = trained_model(loaded, run.new_rows, name="shared")
            export_gguf(model, Path(folder) / "shared.gguf")
    dist.destroy_process_group()


@pytest.mark.parametrize(
    ("recipe", "meshes"),
    [
        (RECIPE, ((("dp", 2),), (("dp", 4),))),
        (RECIPE, ((("tp", 2),), (("dp", 2), ("tp", 2)))),
        (RECIPE, ((("cp", 2),), (("dp", 2), ("cp", 2)))),
        (RECIPE, ((("dp", 2), ("cp", 2)), (("cp", 2), ("tp", 2)))),
        (LORA, ((("dp", 2),), (("dp", 2), ("cp", 2)))),
    ],
    ids=["dp", "tp", "cp", "cp with both", "adapters"],
)
def test_the_trainer_shared_out_is_the_trainer_alone(
    tiny_base: Path,
    documents: list[Document],
    tmp_path: Path,
    recipe: Recipe,
    meshes: tuple[Mesh, Mesh],
) -> None:
    """Some processes, then others from their checkpoint; the model that they export is the same."""
    one, want = trainer(tiny_base, documents, None, recipe=recipe)
    one.train()
    for mesh, until in zip(meshes, (2, None), strict=True):
        spawned(tmp_path, tiny_base, documents, mesh, until, recipe)
    lines = [json.loads(x) for x in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, one.steps + 1))
    assert [line["loss"] for line in lines] == pytest.approx([r.loss for r in want], rel=1e-4)
    assert [line["gradient_norm"] for line in lines] == pytest.approx(
        [r.gradient_norm for r in want], rel=1e-3
    )
    one.finish()
    export_gguf(trained_model(one.base, one.new_rows, name="one"), tmp_path / "one.gguf")
    shared, single = (load_llama(open_model(tmp_path / f"{n}.gguf")) for n in ("shared", "one"))
    ids = torch.tensor([[5, 300, 2, 8]])
    with torch.no_grad():
        assert torch.allclose(shared(ids), single(ids), atol=1e-2)


def spawned(
    folder: Path,
    base: Path,
    documents: list[Document],
    mesh: Mesh,
    until: int | None,
    recipe: Recipe = RECIPE,
) -> list[float]:
    """Losses of all steps so far."""
    (folder / "documents.json").write_text(json.dumps([[d.id, d.text] for d in documents]))
    size = math.prod(count for _, count in mesh)
    (folder / str(size)).mkdir(exist_ok=True)
    (folder / str(size) / "store").unlink(missing_ok=True)
    mp.spawn(specialize, (size, str(folder), str(base), recipe, mesh, until), nprocs=size)
    lines = (folder / "run" / "log.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


def test_shards_resume_to_the_bit_and_in_one_process(
    tiny_base: Path, documents: list[Document], tmp_path: Path
) -> None:
    two: Mesh = (("dp", 2),)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    spawned(tmp_path / "a", tiny_base, documents, two, 2)
    saved = tmp_path / "a" / "run" / "checkpoints" / "step-00000002"
    names = sorted(path.name for path in saved.iterdir())
    assert names == ["state.json", "tensors-00000.safetensors", "tensors-00001.safetensors"]
    sizes = [(saved / name).stat().st_size for name in names[1:]]
    assert max(sizes) < 1.1 * min(sizes)
    shutil.copytree(tmp_path / "a" / "run", tmp_path / "alone")
    resumed = spawned(tmp_path / "a", tiny_base, documents, two, None)
    assert resumed == spawned(tmp_path / "b", tiny_base, documents, two, None)
    one, records = trainer(tiny_base, documents, tmp_path / "alone")
    assert one.step == 2
    one.train()
    assert [r.loss for r in records] == pytest.approx(resumed[2:], rel=1e-4)


def test_a_missing_shard_is_told(
    tiny_base: Path, documents: list[Document], tmp_path: Path
) -> None:
    spawned(tmp_path, tiny_base, documents, (("dp", 2),), 1)
    saved = tmp_path / "run" / "checkpoints" / "step-00000001"
    (saved / "tensors-00001.safetensors").unlink()
    with pytest.raises(ModelFileError, match=r"are missing; remove it to use|lacks "):
        trainer(tiny_base, documents, tmp_path / "run")


def full_disk(rank: int, size: int, folder: str, mesh: Mesh) -> None:
    start(rank, size, folder)
    parallel = Parallel(replace(FULL32, mesh=mesh))
    module = PackedLoss(model())
    parallel.divide(module, RECIPE)
    tensors = dict(module.named_parameters())
    written = checkpoint.synced_write

    def full(path: Path, data: bytes) -> None:
        if rank == 1:
            raise OSError(28, "No space left on device")
        written(path, data)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(checkpoint, "synced_write", full)
        message = "No space left" if rank == 1 else "another process could not write its part"
        saver = Saver(Path(folder) / "checkpoints", 2, parallel)
        saver.begin(1, tensors, {})
        with pytest.raises(ModelFileError, match=message):
            saver.finish()
    assert list((Path(folder) / "checkpoints").iterdir()) == []
    dist.destroy_process_group()


def test_one_full_disk_is_everyones(tmp_path: Path) -> None:
    mp.spawn(full_disk, (2, str(tmp_path), (("dp", 2),)), nprocs=2)
