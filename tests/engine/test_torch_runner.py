"""The PyTorch runner's paged, ragged batches against its plain forward."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from codellama.engine.runner import BLOCK_SIZE, Batch
from codellama.engine.torch_runner import TorchRunner, hadamard, load_llama
from codellama.errors import ModelFileError
from codellama.model.config import ModelConfig
from codellama.model.llama import Llama
from codellama.weights.tensor import GGMLType, Tensor

TINY = ModelConfig(
    name="tiny", dim=32, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=8, ffn_dim=48,
    vocab_size=61, context=64,
)  # fmt: skip


@dataclass
class Weights:
    """A model's tensors as a file would give them."""

    config: ModelConfig
    tensors: dict[str, Tensor]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.tensors)

    def tensor(self, name: str) -> Tensor:
        return self.tensors[name]


def weights(config: ModelConfig = TINY) -> Weights:
    model = Llama(config)
    model.init_weights(torch.Generator().manual_seed(0))
    tensors = {}
    for name, parameter in model.named_parameters():
        scale = 10 if parameter.dim() > 1 else 1
        values = (parameter.detach() * scale).numpy()
        data = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
        tensors[name] = Tensor(name, values.shape, GGMLType.F32, data)
    return Weights(config, tensors)


def step(
    runner: TorchRunner, sequences: list[tuple[list[int], int, list[int]]], wanted: list[int]
) -> np.ndarray:
    """Run (new tokens, past, block table) of each sequence together."""
    width = max(len(table) for _, _, table in sequences)
    starts = np.cumsum([0, *(len(tokens) for tokens, _, _ in sequences)]).astype(np.int32)
    batch = Batch(
        tokens_T=np.concatenate([tokens for tokens, _, _ in sequences]).astype(np.int32),
        starts_S1=starts,
        past_S=np.array([past for _, past, _ in sequences], np.int32),
        blocks_SB=np.array([t + [-1] * (width - len(t)) for _, _, t in sequences], np.int32),
        rows_R=np.array(wanted, np.int32),
    )
    return runner.run(batch).copy()


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_ragged_chunks_equal_the_plain_forward(data: st.DataObject) -> None:
    model = load_llama(weights())
    runner = TorchRunner(model, context=64, n_blocks=12)
    tables = [[7, 2, 9, 4], [0, 11, 5, 3]]
    texts = [data.draw(st.lists(st.integers(0, 60), min_size=20, max_size=50)) for _ in range(2)]
    done = [0, 0]
    while any(d < len(t) for d, t in zip(done, texts, strict=True)):
        sequences, owners = [], []
        for s, text in enumerate(texts):
            if done[s] < len(text):
                n = data.draw(st.integers(1, len(text) - done[s]))
                sequences.append((text[done[s] : done[s] + n], done[s], tables[s]))
                owners.append((s, n))
        total = sum(n for _, n in owners)
        logits = step(runner, sequences, list(range(total)))
        row = 0
        for s, n in owners:
            expected = model(torch.tensor([texts[s]]))[0, done[s] : done[s] + n].numpy()
            np.testing.assert_allclose(logits[row : row + n], expected, rtol=1e-4, atol=1e-4)
            row, done[s] = row + n, done[s] + n


def test_copied_blocks_continue_alike() -> None:
    runner = TorchRunner(load_llama(weights()), n_blocks=4)
    text = list(range(BLOCK_SIZE))
    step(runner, [(text, 0, [0, 1])], [0])
    runner.copy_block(0, 2)
    original = step(runner, [([5], BLOCK_SIZE, [0, 1])], [0])
    np.testing.assert_array_equal(step(runner, [([5], BLOCK_SIZE, [2, 3])], [0]), original)


def test_int8_caches_cost_little_and_are_copied_whole() -> None:
    model, text = load_llama(weights()), list(range(40))
    runner = TorchRunner(model, n_blocks=8, kv_type="q8_0")
    logits = step(runner, [(text, 0, [3, 1, 0])], list(range(40)))
    expected = model(torch.tensor([text]))[0].numpy()
    error = np.sqrt(((logits - expected) ** 2).mean()) / expected.std()
    assert 1e-4 < error < 0.05, error
    for source, target in ((3, 4), (1, 5), (0, 6)):
        runner.copy_block(source, target)
    again = step(runner, [([7], 39, [4, 5, 6])], [0])
    np.testing.assert_array_equal(step(runner, [([7], 39, [3, 1, 0])], [0]), again)


@pytest.mark.parametrize("head_dim", [2, 10, 24, 64, 80])
def test_the_mixing_of_heads_changes_no_product(head_dim: int) -> None:
    mixer_HH = hadamard(head_dim, torch.zeros(1))
    torch.testing.assert_close(mixer_HH @ mixer_HH.T, torch.eye(head_dim))


def test_missing_and_misshapen_tensors_are_named() -> None:
    missing = weights()
    del missing.tensors["layers.1.attention.wq.weight"]
    with pytest.raises(ModelFileError, match=r"layers\.1\.attention\.wq"):
        load_llama(missing)
    other = weights()
    wrong = np.zeros(4 * 31, np.uint8)
    other.tensors["norm.weight"] = Tensor("norm.weight", (31,), GGMLType.F32, wrong)
    with pytest.raises(ModelFileError, match="norm"):
        load_llama(other)


def test_nan_is_refused() -> None:
    bad = weights()
    data = bad.tensors["norm.weight"].data.copy()
    data[:4] = np.array([np.nan], np.float32).view(np.uint8)
    bad.tensors["norm.weight"] = Tensor("norm.weight", (32,), GGMLType.F32, data)
    with pytest.raises(ModelFileError, match="NaN"):
        load_llama(bad)
