"""Cache blocks out of the native engine and back: the same numbers follow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from codellama.engine.engine import Engine
from codellama.engine.native_runner import NativeRunner
from codellama.engine.params import SamplingParams
from codellama.engine.request import Request
from codellama.model.config import KvType
from codellama.weights.load import open_model


@pytest.mark.weights
@pytest.mark.parametrize("kv_type, position_bytes", [("f16", 128), ("q8_0", 68)])
def test_blocks_read_are_blocks_written(
    smollm2_path: Path, kv_type: KvType, position_bytes: int
) -> None:
    runner = NativeRunner(open_model(smollm2_path), context=256, n_blocks=32, kv_type=kv_type)
    assert runner.kv_type == kv_type
    assert runner.block_bytes == 2 * 30 * 3 * 16 * position_bytes
    assert runner.cache_bytes == 32 * runner.block_bytes
    engine = Engine(runner)
    request = Request(prompt_ids=tuple(range(100, 180)), params=SamplingParams(max_tokens=8))
    (first,) = engine.generate([request])
    blocks = [block for block, _parent, _key in engine._scheduler.pool.nodes()]
    assert len(blocks) >= 5
    kept = []
    for block in blocks:
        data = np.empty(runner.block_bytes, np.uint8)
        runner.read_block(block, data)
        assert data.any()
        kept.append(data)
        runner.write_block(block, np.zeros_like(data))
    for block, data in zip(blocks, kept, strict=True):
        runner.write_block(block, data)
    (again,) = engine.generate([request])
    assert again.cached_tokens == 64
    assert again.ids == first.ids
    with pytest.raises(ValueError, match="block_bytes"):
        runner.read_block(0, np.empty(3, np.uint8))
    with pytest.raises(ValueError, match="no such block"):
        runner.read_block(99, np.empty(runner.block_bytes, np.uint8))
