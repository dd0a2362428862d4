"""A tiny Llama with a byte-level vocabulary, and a corpus, for everything that trains."""

from __future__ import annotations

import itertools
import textwrap
from pathlib import Path

import pytest
import torch

from codellama.model.config import ModelConfig
from codellama.specialize.dataset import Document
from tiny_checkpoints import write_byte_level, write_hf

torch.set_num_threads(1)

TINY = ModelConfig(
    name="tiny", dim=32, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=8, ffn_dim=64,
    vocab_size=512, rope_theta=1e4, context=512, tied=True,
)  # fmt: skip


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder."""
    folder = tmp_path_factory.mktemp("tiny") / "model"
    write_hf(folder, TINY)
    write_byte_level(folder, TINY.vocab_size)
    return folder


@pytest.fixture(scope="session")
def documents() -> list[Document]:
    """Pieces of a real module, of 20 to 900 characters."""
    text = Path(textwrap.__file__).read_text()
    cuts = [0]
    while cuts[-1] < len(text):
        cuts.append(cuts[-1] + 20 + 97 * len(cuts) % 880)
    return [Document(f"d{i}", text[a:b]) for i, (a, b) in enumerate(itertools.pairwise(cuts))]
