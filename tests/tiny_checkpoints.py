"""Tiny random models in the formats that real ones come in, made by the formats' own writers.

Weights are drawn once per (config, seed) as float32 values that bfloat16 and float16 both hold
exactly, so that every storage type can be compared bit for bit.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from codellama.model.config import ModelConfig
from codellama.weights.checkpoint import expected_shapes

Array = npt.NDArray[np.float32]

TINY = ModelConfig(
    name="tiny", dim=64, n_layers=2, n_heads=8, n_kv_heads=8, head_dim=8, ffn_dim=256,
    vocab_size=96, rope_theta=1e6, context=16_384,
)  # fmt: skip
"""Divides by 8 shards; ffn_dim is ffn_hidden(64, 256)."""

COLUMN_SPLIT = ("tok_embeddings.weight", "wo.weight", "w2.weight")


def random_weights(config: ModelConfig, seed: int = 0) -> dict[str, Array]:
    """Every tensor by Meta's name, in Meta's row order; norms near 1."""
    generator = np.random.default_rng(seed)

    def draw(name: str, shape: tuple[int, ...]) -> Array:
        # At most eight significant bits: exact in bfloat16 and in float16.
        if "norm" in name:
            return generator.integers(64, 192, shape).astype(np.float32) / 128
        return generator.integers(-127, 128, shape).astype(np.float32) / 1024

    return {name: draw(name, shape) for name, shape in expected_shapes(config).items()}


def write_meta(
    folder: Path,
    weights: Mapping[str, Array],
    *,
    shards: int = 1,
    dtype: torch.dtype = torch.bfloat16,
    params: Mapping[str, Any] | None = None,
) -> Path:
    """A release as Meta ships it: consolidated.NN.pth split as fairscale does, params.json."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(shards):
        state = {
            name: shard(name, array, index, shards).to(dtype) for name, array in weights.items()
        }
        state["rope.freqs"] = torch.ones(4, dtype=dtype)
        torch.save(state, folder / f"consolidated.{index:02d}.pth")
    default = {"dim": 64, "n_layers": 2, "n_heads": 8, "multiple_of": 256, "norm_eps": 1e-5}
    text = json.dumps(
        {**default, "rope_theta": 1e6, "vocab_size": -1} if params is None else params
    )
    (folder / "params.json").write_text(text)
    return folder


def shard(name: str, array: Array, index: int, shards: int) -> torch.Tensor:
    whole = torch.from_numpy(array)
    if "norm" in name or shards == 1:
        return whole.clone()
    return whole.chunk(shards, dim=1 if name.endswith(COLUMN_SPLIT) else 0)[index].contiguous()


def write_hf(
    folder: Path, config: ModelConfig, *, seed: int = 0, dtype: str = "float32", **save: Any
) -> Any:
    """A random LlamaForCausalLM saved by transformers; returns the model."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.dim,
            intermediate_size=config.ffn_dim,
            num_hidden_layers=config.n_layers,
            num_attention_heads=config.n_heads,
            num_key_value_heads=config.n_kv_heads,
            head_dim=config.head_dim,
            max_position_embeddings=config.context,
            rms_norm_eps=config.norm_eps,
            tie_word_embeddings=config.tied,
            rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
        )
    )
    model = model.to(getattr(torch, dtype)).eval()
    model.save_pretrained(folder, **save)
    return model


def write_sentencepiece(folder: Path, vocab_size: int, *, infills: bool = False) -> Path:
    """A tokenizer.model of Llama's kind: BPE with byte fallback, split digits and a dummy prefix;
    with Code Llama's 16 extra pieces among the `vocab_size` if it shall infill.
    """
    import textwrap

    import sentencepiece

    from codellama.model.tokenizer_spm import model_proto

    lines = [line for line in Path(textwrap.__file__).read_text().splitlines() if line.strip()]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=model, model_type="bpe", byte_fallback=True,
        vocab_size=vocab_size - 16 * infills, split_digits=True, minloglevel=2,
        normalization_rule_name="identity", remove_extra_whitespaces=False, num_threads=1,
    )  # fmt: skip
    proto = model.getvalue()
    if infills:
        library = sentencepiece.SentencePieceProcessor(model_proto=proto)
        ids = range(library.vocab_size())
        pieces = [library.id_to_piece(i) for i in ids] + CODE_LLAMA_PIECES
        scores = [library.get_score(i) for i in ids] + [-31740.0 - i for i in range(16)]
        types = [2, 3, 3] + [6] * 256 + [1] * (len(pieces) - 259)
        proto = model_proto(pieces, scores, types, dummy_prefix=True)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.model").write_bytes(proto)
    return folder


CODE_LLAMA_PIECES = [
    "▁<SU", "▁<SUF", "▁<PRE", "▁<M", "▁<MID", "▁<E", "▁<EOT", "▁<PRE>", "▁<SUF>", "▁<MID>",
    *("▁" + "<EOT>" * n for n in range(1, 7)),
]  # fmt: skip
"""Ids 32000 to 32015 of Code Llama's vocabulary."""


def write_byte_level(folder: Path, vocab_size: int) -> Path:
    """tokenizer.json and tokenizer_config.json of SmolLM2's kind: byte-level BPE, single digits."""
    import textwrap

    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    library = Tokenizer(models.BPE())
    library.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    library.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        show_progress=False,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    library.train_from_iterator([Path(textwrap.__file__).read_text()], trainer)
    assert library.get_vocab_size() == vocab_size
    folder.mkdir(parents=True, exist_ok=True)
    library.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|im_start|>",
        "eos_token": "<|im_end|>",
        "chat_template": "{{ messages[0].content }}",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def as_float32(tensor: Any) -> Array:
    """Values of a weights.tensor.Tensor stored as F32, F16 or BF16."""
    from codellama.weights.tensor import GGMLType

    raw = np.ascontiguousarray(tensor.data)
    if tensor.type == GGMLType.F32:
        values = raw.view(np.float32)
    elif tensor.type == GGMLType.F16:
        values = raw.view(np.float16).astype(np.float32)
    else:
        assert tensor.type == GGMLType.BF16
        values = (raw.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    return values.reshape(tensor.shape)
