"""What bindings.cpp offers; the documented face is in __init__.py."""

import numpy as np
import numpy.typing as npt

_Int32 = npt.NDArray[np.int32]
_Float32 = npt.NDArray[np.float32]
_UInt8 = npt.NDArray[np.uint8]

def available_isas() -> list[str]: ...
def read_bandwidth(bytes: int, n_threads: int, seconds: float) -> float: ...
def top(values: _Float32, k: int, ids: _Int32) -> int: ...
def nucleus(
    logits: _Float32,
    peak: float,
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
    ids: _Int32,
    weights: _Float32,
) -> int: ...
def draw(
    logits: _Float32,
    peak: float,
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
    share: float,
) -> int: ...
def log_sum_exp(logits: _Float32, ids: _Int32) -> float: ...
def penalize(
    logits: _Float32,
    tokens: _Int32,
    repetition: float,
    frequency: float,
    presence: float,
    out: _Float32,
) -> None: ...
def repeats(tokens: _Int32, least: int, breakers: _Int32, ids: _Int32, lengths: _Int32) -> int: ...
def peak_instructions() -> list[str]: ...
def peak_rate(instruction: str, n_threads: int, seconds: float) -> float: ...

class Model:
    def __init__(
        self,
        *,
        dim: int,
        n_layers: int,
        n_heads: int,
        n_kv_heads: int,
        head_dim: int,
        ffn_dim: int,
        vocab_size: int,
        norm_eps: float,
        rope_theta: float,
        rope_factor: float,
        n_threads: int,
        isa: str,
    ) -> None: ...
    def add_matrix(
        self, slot: str, layer: int, ggml_type: int, rows: int, columns: int, source: _UInt8
    ) -> None: ...
    def pack(self) -> int: ...
    def set_norm(self, slot: str, layer: int, weight: _Float32) -> None: ...
    def set_rope_frequency_factors(self, factors: _Float32) -> None: ...
    def check_complete(self) -> None: ...
    def allocate_cache(self, n_blocks: int, kv_type: str) -> None: ...
    def copy_block(self, source: int, target: int) -> None: ...
    @property
    def block_bytes(self) -> int: ...
    def read_block(self, block: int, out: npt.NDArray[np.uint8]) -> None: ...
    def write_block(self, block: int, data: npt.NDArray[np.uint8]) -> None: ...
    def step(
        self,
        tokens_T: _Int32,
        starts_S1: _Int32,
        past_S: _Int32,
        blocks_SB: _Int32,
        rows_R: _Int32,
        n_exact: int,
        out: _Float32,
        hidden: bool,
    ) -> None: ...
    isa: str
    n_threads: int
    n_blocks: int
    weight_bytes: int
    cache_bytes: int
    kv_type: str

class Packed:
    bytes: int

def pack(ggml_type: int, rows: int, columns: int, source: _UInt8) -> Packed: ...
def unpack(packed: Packed, out: _Float32) -> None: ...
def matmul(packed: Packed, x: _Float32, out: _Float32, isa: str, rows_at_once: int) -> None: ...
def matmul_on_unit(packed: Packed, x: _Float32, out: _Float32, isa: str, run: int) -> None: ...
def quantize(x: _Float32, q: npt.NDArray[np.int8], d: _Float32, isa: str) -> None: ...
def rms_norm(x: _Float32, weight: _Float32, eps: float, out: _Float32, isa: str) -> None: ...
def cached_attention(
    q: npt.NDArray[np.float32],
    k: npt.NDArray[np.float32],
    v: npt.NDArray[np.float32],
    table: npt.NDArray[np.int32],
    out: npt.NDArray[np.float32],
    kv_type: str,
    isa: str,
    on_unit: bool,
) -> None: ...
def silu_mul(gate: _Float32, up: _Float32, isa: str) -> None: ...
