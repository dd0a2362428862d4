"""The PyTorch forward against transformers' Llama, and against itself in other batches."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from codellama.model.config import PUBLISHED, ModelConfig, RopeScaling
from codellama.model.llama import KVCache, Llama

TINY = ModelConfig(
    name="tiny", dim=48, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=12, ffn_dim=64,
    vocab_size=97, context=64,
)  # fmt: skip


def model_of(config: ModelConfig, seed: int = 0) -> Llama:
    model = Llama(config)
    model.init_weights(torch.Generator().manual_seed(seed))
    for parameter in model.parameters():  # large enough for a wrong rotation to show
        parameter.data = parameter.data * 10 if parameter.dim() > 1 else parameter.data
    return model.eval().requires_grad_(False)


def half_split(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows of wq or wk from Meta's interleaved order to transformers' half-split one."""
    return weight.view(heads, -1, 2, weight.shape[1]).transpose(1, 2).reshape(weight.shape)


def transformers_twin(model: Llama) -> torch.nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    c = model.config
    rope = {"rope_type": "default", "rope_theta": c.rope_theta}
    if c.rope_scaling.kind == "linear":
        rope = {"rope_type": "linear", "rope_theta": c.rope_theta, "factor": c.rope_scaling.factor}
    theirs = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=c.vocab_size, hidden_size=c.dim, intermediate_size=c.ffn_dim,
            num_hidden_layers=c.n_layers, num_attention_heads=c.n_heads,
            num_key_value_heads=c.n_kv_heads, head_dim=c.head_dim, rms_norm_eps=c.norm_eps,
            max_position_embeddings=c.context, tie_word_embeddings=c.tied, rope_parameters=rope,
        )
    )  # fmt: skip
    state = {"model.embed_tokens.weight": model.tok_embeddings.weight}
    state["model.norm.weight"] = model.norm.weight
    state["lm_head.weight"] = (model.output or model.tok_embeddings).weight
    for i, block in enumerate(model.layers):
        a, f, at = block.attention, block.feed_forward, f"model.layers.{i}."
        state[at + "self_attn.q_proj.weight"] = half_split(a.wq.weight, c.n_heads)
        state[at + "self_attn.k_proj.weight"] = half_split(a.wk.weight, c.n_kv_heads)
        state[at + "self_attn.v_proj.weight"] = a.wv.weight
        state[at + "self_attn.o_proj.weight"] = a.wo.weight
        state[at + "mlp.gate_proj.weight"] = f.w1.weight
        state[at + "mlp.down_proj.weight"] = f.w2.weight
        state[at + "mlp.up_proj.weight"] = f.w3.weight
        state[at + "input_layernorm.weight"] = block.attention_norm.weight
        state[at + "post_attention_layernorm.weight"] = block.ffn_norm.weight
    theirs.load_state_dict(state)
    return theirs.eval()


@pytest.mark.parametrize("theta", [1e4, 1e5, 1e6])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("kv_heads", [4, 2, 1])
def test_agrees_with_transformers(kv_heads: int, tied: bool, theta: float) -> None:
    model = model_of(replace(TINY, n_kv_heads=kv_heads, tied=tied, rope_theta=theta))
    tokens = torch.randint(0, 97, (2, 40), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        theirs = transformers_twin(model)(tokens).logits
    torch.testing.assert_close(model(tokens), theirs, rtol=1e-5, atol=1e-5)
    assert theirs.std() > 0.1


def test_linear_scaling_agrees_with_transformers() -> None:
    model = model_of(replace(TINY, rope_scaling=RopeScaling(kind="linear", factor=4.0)))
    tokens = torch.arange(40)[None]
    with torch.inference_mode():
        theirs = transformers_twin(model)(tokens).logits
    torch.testing.assert_close(model(tokens), theirs, rtol=1e-5, atol=1e-5)
    assert (model(tokens) - model_of(TINY)(tokens)).abs().max() > 1e-3


@settings(max_examples=20, deadline=None)
@given(cuts=st.lists(st.integers(1, 29), max_size=6, unique=True))
def test_any_chunking_with_a_cache(cuts: list[int]) -> None:
    """The reference code's mask is wrong from the second chunk on; this one must not be."""
    model = model_of(TINY)
    tokens = torch.randint(0, 97, (2, 30), generator=torch.Generator().manual_seed(2))
    cache = KVCache.empty(TINY, 2, 30)
    edges = [0, *sorted(cuts), 30]
    parts = [model(tokens[:, a:b], cache=cache) for a, b in pairwise(edges)]
    torch.testing.assert_close(torch.cat(parts, 1), model(tokens), rtol=1e-4, atol=1e-5)


def test_packed_documents_do_not_see_each_other() -> None:
    model = model_of(TINY)
    a, b = torch.arange(10), torch.arange(50, 62)
    positions = torch.cat([torch.arange(10), torch.arange(12)])[None]
    documents = torch.cat([torch.zeros(10), torch.ones(12)]).long()[None]
    packed = model(torch.cat([a, b])[None], positions_BT=positions, documents_BT=documents)
    torch.testing.assert_close(packed[0, :10], model(a[None])[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(packed[0, 10:], model(b[None])[0], rtol=1e-4, atol=1e-5)


def test_bfloat16_stays_near() -> None:
    model = model_of(TINY)
    tokens = torch.arange(40)[None]
    near = model_of(TINY).bfloat16()(tokens)
    assert near.dtype == torch.float32
    assert (near - model(tokens)).abs().mean() < 0.05 * model(tokens).std()


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_counted_to_the_digit(name: str) -> None:
    config = PUBLISHED[name]
    with torch.device("meta"):
        model = Llama(config)
    assert sum(p.numel() for p in model.parameters()) == config.n_parameters
