// The Python face of the engine, as thin as it gets: arrays are checked for type, shape and order by their
// annotations, values by the engine; std::invalid_argument becomes ValueError. Arrays are never converted: results
// written to a converted copy would be lost, and large integers would wrap. The lock is released while computing.

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <stdexcept>
#include <vector>

#include "attend_alone.h"
#include "dispatch.h"
#include "forward.h"
#include "probe.h"
#include "prompt.h"
#include "products.h"
#include "repeats.h"
#include "rows.h"

namespace nb = nanobind;
using namespace codellama;

namespace {

template <class T, int N>
using In = nb::ndarray<const T, nb::ndim<N>, nb::c_contig, nb::device::cpu>;
template <class T, int N>
using Out = nb::ndarray<T, nb::ndim<N>, nb::c_contig, nb::device::cpu>;

void require(bool condition, const char* message) {
    if (!condition) throw std::invalid_argument(message);
}

auto array(const char* name) { return nb::arg(name).noconvert(); }

Slot slot_of(const std::string& name) {
    static const std::pair<const char*, Slot> slots[] = {{"tok_embeddings", Slot::tok_embeddings},
                                                         {"output", Slot::output},
                                                         {"wq", Slot::wq},
                                                         {"wk", Slot::wk},
                                                         {"wv", Slot::wv},
                                                         {"wo", Slot::wo},
                                                         {"w1", Slot::w1},
                                                         {"w2", Slot::w2},
                                                         {"w3", Slot::w3}};
    for (const auto& [key, slot] : slots) {
        if (name == key) return slot;
    }
    throw std::invalid_argument("unknown matrix '" + name + "'");
}
NormSlot norm_slot_of(const std::string& name) {
    if (name == "attention_norm") return NormSlot::attention_norm;
    if (name == "ffn_norm") return NormSlot::ffn_norm;
    if (name == "norm") return NormSlot::norm;
    throw std::invalid_argument("unknown norm '" + name + "'");
}

void step(Model& model, In<int32_t, 1> tokens_T, In<int32_t, 1> starts_S1, In<int32_t, 1> past_S,
          In<int32_t, 2> blocks_SB, In<int32_t, 1> rows_R, int n_exact, Out<float, 2> out, bool hidden) {
    const size_t sequences = past_S.shape(0);
    require(starts_S1.shape(0) == sequences + 1, "starts needs one entry more than there are sequences");
    require(blocks_SB.shape(0) == sequences, "one block table per sequence is needed");
    const int width = hidden ? model.shape().dim : model.shape().vocab_size;
    require(out.shape(0) == rows_R.shape(0) && out.shape(1) == static_cast<size_t>(width),
            "the output is not [rows, vocabulary] (or [rows, dim] for hidden states)");
    const Step s{tokens_T.data(),
                 starts_S1.data(),
                 past_S.data(),
                 blocks_SB.data(),
                 rows_R.data(),
                 static_cast<int>(tokens_T.shape(0)),
                 static_cast<int>(sequences),
                 static_cast<int>(blocks_SB.shape(1)),
                 static_cast<int>(rows_R.shape(0)),
                 n_exact};
    float* target = out.data();
    const nb::gil_scoped_release unlocked;
    model.step(s, hidden ? nullptr : target, hidden ? target : nullptr);
}

// ---- rows of logits: short passes, so the lock is kept --------------------------------------------------------------

int top_ids(In<float, 1> values, int k, Out<int32_t, 1> ids) {
    require(values.shape(0) > 0 && k > 0 && ids.shape(0) >= std::min<size_t>(static_cast<size_t>(k), values.shape(0)),
            "the row is empty, or there is no room for k ids");
    return top(values.data(), static_cast<int>(values.shape(0)), k, ids.data());
}

int nucleus_of(In<float, 1> logits, float peak, float temperature, int top_k, double top_p, float min_p,
               Out<int32_t, 1> ids, Out<float, 1> weights) {
    const size_t n = logits.shape(0);
    require(n > 0 && ids.shape(0) >= n && weights.shape(0) >= n, "the row is empty, or there is no room for it");
    require(temperature > 0, "the temperature must be positive");
    return nucleus(logits.data(), static_cast<int>(n), peak, temperature, {top_k, top_p, min_p}, ids.data(),
                   weights.data());
}

int draw_of(In<float, 1> logits, float peak, float temperature, int top_k, double top_p, float min_p, double share) {
    require(logits.shape(0) > 0, "the row is empty");
    require(temperature > 0, "the temperature must be positive");
    return draw(logits.data(), static_cast<int>(logits.shape(0)), peak, temperature, {top_k, top_p, min_p}, share);
}

double log_sum_exp_of(In<float, 1> logits, Out<int32_t, 1> ids) {
    require(logits.shape(0) > 0 && ids.shape(0) <= logits.shape(0), "the row is empty, or shorter than that many ids");
    return log_sum_exp(logits.data(), static_cast<int>(logits.shape(0)), static_cast<int>(ids.shape(0)), ids.data());
}

void penalize_in(In<float, 1> logits, In<int32_t, 1> tokens, float repetition, float frequency, float presence,
                 Out<float, 1> out) {
    const size_t n = logits.shape(0);
    require(out.shape(0) == n, "there is no room for the row");
    for (size_t i = 0; i < tokens.shape(0); ++i) {
        require(tokens.data()[i] >= 0 && static_cast<size_t>(tokens.data()[i]) < n, "a token is outside the row");
    }
    penalize(logits.data(), static_cast<int>(n), tokens.data(), static_cast<int>(tokens.shape(0)),
             {repetition, frequency, presence}, out.data());
}

int repeats_of(In<int32_t, 1> tokens, int least, In<int32_t, 1> breakers, Out<int32_t, 1> ids,
               Out<int32_t, 1> lengths) {
    const size_t n = tokens.shape(0);
    require(least >= 0 && ids.shape(0) >= n && lengths.shape(0) >= n, "least is negative, or there is no room");
    require(std::is_sorted(breakers.data(), breakers.data() + breakers.shape(0)), "breakers are not sorted");
    const std::vector<Repeat> found =
        find_repeats(tokens.data(), static_cast<int>(n), least, breakers.data(), static_cast<int>(breakers.shape(0)));
    for (size_t i = 0; i < found.size(); ++i) {
        ids.data()[i] = found[i].token;
        lengths.data()[i] = found[i].length;
    }
    return static_cast<int>(found.size());
}

// ---- single kernels, for the tests --------------------------------------------------------------------------------

struct Packed {
    Matrix matrix;
};

Packed pack(int ggml_type, int rows, int columns, In<uint8_t, 1> source) {
    Packed packed{make_matrix(format_of(ggml_type), rows, columns)};
    require(source.shape(0) == source_row_bytes(packed.matrix.format, columns) * static_cast<size_t>(rows),
            "wrong number of bytes for this type and shape");
    for (int tile = 0; tile < packed.matrix.n_tiles(); ++tile) pack_tile(packed.matrix, tile, source.data());
    return packed;
}

void unpack(const Packed& packed, Out<float, 2> out) {
    require(out.shape(0) == static_cast<size_t>(packed.matrix.rows) &&
                out.shape(1) == static_cast<size_t>(packed.matrix.columns),
            "the output has another shape");
    for (int row = 0; row < packed.matrix.rows; ++row) {
        unpack_row(packed.matrix, row, out.data() + static_cast<ptrdiff_t>(row) * packed.matrix.columns);
    }
}

// out[M, N] = x[M, K] · wᵀ, `rows_at_once` activation rows a call (0: as many as the kernels take).
void matmul(const Packed& packed, In<float, 2> x, Out<float, 2> out, const std::string& isa, int rows_at_once) {
    const Kernels& kernels = *choose_kernels(isa);
    const Matrix& w = packed.matrix;
    const int n = static_cast<int>(x.shape(0)), columns = static_cast<int>(x.shape(1));
    require(columns == w.columns && out.shape(0) == x.shape(0) && out.shape(1) == static_cast<size_t>(w.rows),
            "shapes do not match");
    const bool floats = is_float(w);
    const int most = rows_of_call(kernels, floats, std::max(n, 1));
    const int at_once = rows_at_once > 0 && rows_at_once < most ? rows_at_once : most;
    Buffer blocks(static_cast<size_t>(n * (columns / kBlock + 1)) * sizeof(XBlock));
    Buffer padded(static_cast<size_t>(n) * static_cast<size_t>(w.padded_columns) * sizeof(float));
    XBlock* q = reinterpret_cast<XBlock*>(blocks.data());
    float* f = reinterpret_cast<float*>(padded.data());
    const Activations rows = {q, w.n_blocks(), f, w.padded_columns};
    for (int r = 0; r < n; ++r) {
        std::copy_n(x.data() + static_cast<ptrdiff_t>(r) * columns, columns, f + r * rows.float_stride);
        if (!floats)
            kernels.quantize(x.data() + static_cast<ptrdiff_t>(r) * columns, columns, q + r * rows.block_stride);
    }
    for (int r = 0; r < n; r += at_once) {
        const int m = std::min(at_once, n - r);
        for (int tile = 0; tile < w.n_tiles();) {
            float result[kMaxRowsOfCall * kMaxTiles * kLanes];
            const int widest = tiles_of_call(kernels, floats, m);
            const int n_tiles = tile + widest <= w.n_tiles() ? widest : 1;
            multiply_tiles(kernels, w, {tile, n_tiles}, rows, r, m, result);
            const int width = std::min(n_tiles * kLanes, w.rows - tile * kLanes);
            for (int i = 0; i < m; ++i) {
                std::copy_n(result + i * n_tiles * kLanes, width,
                            out.data() + static_cast<ptrdiff_t>(r + i) * w.rows + tile * kLanes);
            }
            tile += n_tiles;
        }
    }
    if (kernels.unit != nullptr) kernels.unit->end();
}

// The same by the matrix unit's bfloat16 tiles, in runs of at most `run` blocks of 32 columns.
void matmul_on_unit(const Packed& packed, In<float, 2> x, Out<float, 2> out, const std::string& isa, int run) {
    const Matrix& w = packed.matrix;
    const MatrixUnit* unit = choose_kernels(isa)->unit;
    require(unit != nullptr && unit->unpack[static_cast<int>(w.format)] != nullptr && w.columns % kUnitColumns == 0,
            "no matrix unit takes this");
    const int n = static_cast<int>(x.shape(0)), blocks = unit_blocks(w.columns), m_tiles = unit_tiles(n);
    require(static_cast<int>(x.shape(1)) == w.columns && out.shape(0) == x.shape(0) &&
                static_cast<int>(out.shape(1)) == w.rows && run > 0,
            "shapes do not match");
    std::vector<uint16_t> tiles(static_cast<size_t>(m_tiles * blocks * kUnitTile));
    std::vector<uint16_t> weights(static_cast<size_t>(kUnitPair * run * kUnitTile));
    std::vector<float> sums(static_cast<size_t>(m_tiles * kUnitPair * kUnitSums));
    for (int r = 0; r < n; ++r) {
        unit->pack_row(
            x.data() + static_cast<ptrdiff_t>(r) * w.columns, w.columns,
            tiles.data() + static_cast<ptrdiff_t>(r / kLanes) * blocks * kUnitTile + r % kLanes * kUnitColumns);
    }
    unit->begin();
    for (int column = 0; column < w.rows; column += kUnitPair * kLanes) {
        for (int first = 0; first < blocks; first += run) {
            multiply_pair(*unit, w, column / kLanes / kUnitPair, first, std::min(blocks, first + run), m_tiles,
                          tiles.data(), weights.data(), sums.data());
        }
        const int width = std::min(kUnitPair * kLanes, w.rows - column);
        for (int m = 0; m < m_tiles; ++m) {
            unit->store(sums.data() + m * kUnitPair * kUnitSums, std::min(kLanes, n - m * kLanes), width,
                        out.data() + static_cast<ptrdiff_t>(m) * kLanes * w.rows + column, w.rows);
        }
    }
    unit->end();
}

void quantize(In<float, 1> x, Out<int8_t, 1> q, Out<float, 1> d, const std::string& isa) {
    const size_t n = x.shape(0);
    require(n % kBlock == 0 && q.shape(0) == n && d.shape(0) == n / kBlock, "lengths do not match");
    std::vector<XBlock> blocks(n / kBlock);
    choose_kernels(isa)->quantize(x.data(), static_cast<int>(n), blocks.data());
    for (size_t b = 0; b < blocks.size(); ++b) {
        std::copy_n(blocks[b].q, kBlock, q.data() + b * kBlock);
        d.data()[b] = blocks[b].d;
    }
}

void rms_norm(In<float, 1> x, In<float, 1> weight, float eps, Out<float, 1> out, const std::string& isa) {
    require(x.shape(0) == weight.shape(0) && x.shape(0) == out.shape(0), "lengths do not match");
    choose_kernels(isa)->rms_norm(x.data(), weight.data(), eps, static_cast<int>(x.shape(0)), out.data());
}

// Keys and values [S, K, H] into a cache, then the attention of the last T positions: q and out [T, N, H].
void cached_attention(In<float, 3> q, In<float, 3> k, In<float, 3> v, In<int32_t, 1> table, Out<float, 3> out,
                      const std::string& kv_type, const std::string& isa, bool on_unit) {
    for (size_t i = 0; i < 3; ++i) {
        require(k.shape(i) == v.shape(i) && q.shape(i) == out.shape(i), "shapes do not match");
    }
    require(q.shape(2) == k.shape(2) && q.shape(1) % k.shape(1) == 0 && q.shape(0) <= k.shape(0) &&
                table.shape(0) * kLanes >= k.shape(0),
            "shapes do not match");
    const int n_heads = static_cast<int>(q.shape(1)), n_kv_heads = static_cast<int>(k.shape(1));
    const Kernels& kernels = *choose_kernels(isa);
    require(!on_unit || kernels.unit != nullptr, "there is no matrix unit");
    attend_alone(kernels, on_unit,
                 {kv_type_of(kv_type), n_heads, n_kv_heads, static_cast<int>(q.shape(2)), static_cast<int>(q.shape(0)),
                  static_cast<int>(k.shape(0))},
                 q.data(), k.data(), v.data(), table.data(), out.data());
}

void silu_mul(Out<float, 1> gate, In<float, 1> up, const std::string& isa) {
    require(gate.shape(0) == up.shape(0), "lengths do not match");
    choose_kernels(isa)->silu_mul(gate.data(), up.data(), static_cast<int>(gate.shape(0)));
}

}  // namespace

NB_MODULE(_native, m) {
    m.def("available_isas", &available_isas);

    using Unlocked = nb::call_guard<nb::gil_scoped_release>;
    m.def("read_bandwidth", &read_bandwidth, nb::arg("bytes"), nb::arg("n_threads"), nb::arg("seconds"), Unlocked());
    m.def("top", &top_ids, array("values"), nb::arg("k"), array("ids"));
    m.def("nucleus", &nucleus_of, array("logits"), nb::arg("peak"), nb::arg("temperature"), nb::arg("top_k"),
          nb::arg("top_p"), nb::arg("min_p"), array("ids"), array("weights"));
    m.def("draw", &draw_of, array("logits"), nb::arg("peak"), nb::arg("temperature"), nb::arg("top_k"),
          nb::arg("top_p"), nb::arg("min_p"), nb::arg("share"));
    m.def("log_sum_exp", &log_sum_exp_of, array("logits"), array("ids"));
    m.def("penalize", &penalize_in, array("logits"), array("tokens"), nb::arg("repetition"), nb::arg("frequency"),
          nb::arg("presence"), array("out"));
    m.def("repeats", &repeats_of, array("tokens"), nb::arg("least"), array("breakers"), array("ids"), array("lengths"));
    m.def("peak_instructions", &peak_instructions);
    m.def("peak_rate", &peak_rate, nb::arg("instruction"), nb::arg("n_threads"), nb::arg("seconds"), Unlocked());

    nb::class_<Model>(m, "Model")
        .def(
            "__init__",
            [](Model* self, int dim, int n_layers, int n_heads, int n_kv_heads, int head_dim, int ffn_dim,
               int vocab_size, float norm_eps, double rope_theta, double rope_factor, int n_threads,
               const std::string& isa) {
                const Shape shape{dim,     n_layers,   n_heads,  n_kv_heads, head_dim,
                                  ffn_dim, vocab_size, norm_eps, rope_theta, rope_factor};
                new (self) Model(shape, n_threads, choose_kernels(isa));
            },
            nb::kw_only(), nb::arg("dim"), nb::arg("n_layers"), nb::arg("n_heads"), nb::arg("n_kv_heads"),
            nb::arg("head_dim"), nb::arg("ffn_dim"), nb::arg("vocab_size"), nb::arg("norm_eps"), nb::arg("rope_theta"),
            nb::arg("rope_factor"), nb::arg("n_threads"), nb::arg("isa"))
        .def(
            "add_matrix",
            [](Model& self, const std::string& slot, int layer, int ggml_type, int rows, int columns,
               In<uint8_t, 1> source) {
                self.add_matrix(slot_of(slot), layer, ggml_type, rows, columns, source.data(), source.shape(0));
            },
            nb::arg("slot"), nb::arg("layer"), nb::arg("ggml_type"), nb::arg("rows"), nb::arg("columns"),
            array("source"))
        .def("pack", &Model::pack, Unlocked())
        .def(
            "set_norm",
            [](Model& self, const std::string& slot, int layer, In<float, 1> weight) {
                self.set_norm(norm_slot_of(slot), layer, weight.data(), static_cast<int>(weight.shape(0)));
            },
            nb::arg("slot"), nb::arg("layer"), array("weight"))
        .def(
            "set_rope_frequency_factors",
            [](Model& self, In<float, 1> factors) {
                self.set_rope_frequency_factors(factors.data(), static_cast<int>(factors.shape(0)));
            },
            array("factors"))
        .def("check_complete", &Model::check_complete)
        .def(
            "allocate_cache",
            [](Model& self, int n_blocks, const std::string& kv_type) {
                self.allocate_cache(n_blocks, kv_type_of(kv_type));
            },
            nb::arg("n_blocks"), nb::arg("kv_type"))
        .def("copy_block", &Model::copy_block)
        .def_prop_ro("block_bytes", &Model::block_bytes)
        .def(
            "read_block",
            [](Model& self, int block, Out<uint8_t, 1> out) {
                require(out.shape(0) == self.block_bytes(), "out is not block_bytes long");
                self.read_block(block, out.data());
            },
            nb::arg("block"), array("out"))
        .def(
            "write_block",
            [](Model& self, int block, In<uint8_t, 1> data) {
                require(data.shape(0) == self.block_bytes(), "data is not block_bytes long");
                self.write_block(block, data.data());
            },
            nb::arg("block"), array("data"))
        .def("step", &step, array("tokens_T"), array("starts_S1"), array("past_S"), array("blocks_SB"), array("rows_R"),
             nb::arg("n_exact"), array("out"), nb::arg("hidden"))
        .def_prop_ro("isa", [](const Model& self) { return std::string(self.kernels().name); })
        .def_prop_ro("n_threads", &Model::n_threads)
        .def_prop_ro("n_blocks", &Model::n_blocks)
        .def_prop_ro("weight_bytes", &Model::weight_bytes)
        .def_prop_ro("cache_bytes", &Model::cache_bytes)
        .def_prop_ro("kv_type", [](const Model& self) { return std::string(kv_type_name(self.kv_type())); });

    nb::class_<Packed>(m, "Packed").def_prop_ro("bytes", [](const Packed& self) { return self.matrix.tiles.size(); });
    m.def("pack", &pack, nb::arg("ggml_type"), nb::arg("rows"), nb::arg("columns"), array("source"));
    m.def("unpack", &unpack, nb::arg("packed"), array("out"));
    m.def("matmul", &matmul, nb::arg("packed"), array("x"), array("out"), nb::arg("isa"), nb::arg("rows_at_once"));
    m.def("matmul_on_unit", &matmul_on_unit, nb::arg("packed"), array("x"), array("out"), nb::arg("isa"),
          nb::arg("run"));
    m.def("quantize", &quantize, array("x"), array("q"), array("d"), nb::arg("isa"));
    m.def("rms_norm", &rms_norm, array("x"), array("weight"), nb::arg("eps"), array("out"), nb::arg("isa"));
    m.def("cached_attention", &cached_attention, array("q"), array("k"), array("v"), array("table"), array("out"),
          nb::arg("kv_type"), nb::arg("isa"), nb::arg("on_unit"));
    m.def("silu_mul", &silu_mul, array("gate"), array("up"), nb::arg("isa"));
}
