// The engine's kernels and forward on every instruction set present, against the portable body: for sanitizers and for
// processors that only an emulator has here. No framework: a line per check, "N passed, N failed", exit status.
//   native_test [SET…]   those sets alone; one that is not there is an error

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <exception>
#include <map>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "ahead.h"
#include "attend_alone.h"
#include "dispatch.h"
#include "forward.h"
#include "products.h"
#include "repeats.h"

using namespace codellama;

namespace {

int passed = 0, failed = 0;

void check(bool ok, const std::string& what) {
    (ok ? passed : failed) += 1;
    if (!ok) std::printf("FAILED %s\n", what.c_str());
}

std::mt19937 rng(7);

std::vector<float> normal(size_t n, float scale = 1.0f) {
    std::normal_distribution<float> draw(0.0f, scale);
    std::vector<float> v(n);
    for (float& x : v) x = draw(rng);
    return v;
}

// Arbitrary codes; scales are small positive float16 numbers wherever the format may keep one.
std::vector<uint8_t> random_weights(Format format, int rows, int columns) {
    const Geometry& g = geometry(format);
    std::vector<uint8_t> bytes(source_row_bytes(format, columns) * static_cast<size_t>(rows));
    if (format == Format::F32) {
        const std::vector<float> v = normal(bytes.size() / 4);
        std::memcpy(bytes.data(), v.data(), bytes.size());
        return bytes;
    }
    for (uint8_t& b : bytes) b = static_cast<uint8_t>(rng());
    // 0.1, or for bytes a sixteenth of it, so that weights are of one size; each somewhat different.
    const auto scale = [&] { return static_cast<uint16_t>((format == Format::Q8_0 ? 0x1e00 : 0x2e00) + rng() % 512); };
    if (!g.quantized) {
        for (size_t i = 1; i < bytes.size(); i += 2) bytes[i] = static_cast<uint8_t>((bytes[i] & 0x83) | 0x34);
        return bytes;
    }
    for (size_t block = 0; block < bytes.size(); block += static_cast<size_t>(g.bytes)) {
        for (int at : {0, 2, 80, 82, 108, 208}) {
            const bool legacy = g.elements == 32;
            const bool used = legacy ? at == 0 || (at == 2 && (format == Format::Q4_1 || format == Format::Q5_1))
                              : format == Format::Q2_K ? at == 80 || at == 82
                              : format == Format::Q3_K ? at == 108
                              : format == Format::Q6_K ? at == 208
                                                       : at <= 2;
            const uint16_t fresh = scale();
            if (used) std::memcpy(&bytes[block + static_cast<size_t>(at)], &fresh, 2);
        }
    }
    return bytes;
}

Matrix packed(Format format, int rows, int columns, std::vector<uint8_t>& bytes) {
    bytes = random_weights(format, rows, columns);
    Matrix m = make_matrix(format, rows, columns);
    for (int t = 0; t < m.n_tiles(); ++t) pack_tile(m, t, bytes.data());
    return m;
}

bool near(float a, double b, double scale) { return std::abs(a - b) <= 2e-5 * scale + 1e-12; }

// Short texts of three tokens, whose repeats are many, against the definition.
void check_repeats() {
    bool same = true;
    std::uniform_int_distribution<int> draw(0, 2), size(0, 40), few(0, 4);
    for (int round = 0; round < 300; ++round) {
        std::vector<int32_t> tokens(static_cast<size_t>(size(rng)));
        for (int32_t& token : tokens) token = draw(rng);
        const std::vector<int32_t> breakers(static_cast<size_t>(round % 2), draw(rng));
        const auto breaks = [&](int32_t token) { return !breakers.empty() && breakers[0] == token; };
        const int n = static_cast<int>(tokens.size()), least = few(rng);
        std::map<int32_t, int> longest;
        for (int at = 1; at < n; ++at) {
            int length = 0;
            while (length < at && tokens[n - 1 - length] == tokens[at - 1 - length] &&
                   !breaks(tokens[n - 1 - length])) {
                ++length;
            }
            if (length < least || breaks(tokens[at])) continue;
            longest[tokens[at]] = std::max(longest[tokens[at]], length);
        }
        std::map<int32_t, int> found;
        for (const Repeat& each :
             find_repeats(tokens.data(), n, least, breakers.data(), static_cast<int>(breakers.size()))) {
            found[each.token] = each.length;
        }
        same = same && found == longest;
    }
    check(same, "repeats are found");
}

void check_tiles(const Kernels& k, Format format) {
    const bool quantized = geometry(format).quantized;
    const int columns = quantized ? 512 : 39, rows = 75;
    std::vector<uint8_t> bytes;
    const Matrix m = packed(format, rows, columns, bytes);
    const int most = quantized ? k.max_quant_rows : k.max_float_rows;
    const std::vector<float> x = normal(static_cast<size_t>(most * m.padded_columns));
    std::vector<XBlock> q(static_cast<size_t>(most * (columns / kBlock + 1)));
    const ptrdiff_t stride = columns / kBlock;
    if (quantized) {
        for (int r = 0; r < most; ++r)
            k.quantize(&x[static_cast<size_t>(r * m.padded_columns)], columns, &q[static_cast<size_t>(r * stride)]);
    }
    std::vector<float> w(static_cast<size_t>(columns));
    bool ok = true;
    for (int n = 1; n <= most; ++n) {
        const int widest = quantized ? k.tiles_at_once[n - 1] : 1;
        for (int n_tiles : {1, widest}) {
            float out[kMaxQuantRows * kMaxTiles * kLanes];
            if (!quantized)
                k.float_tile[static_cast<int>(format)][n - 1](m.tile(0), m.padded_columns, x.data(), m.padded_columns,
                                                              out);
            else
                (n_tiles == 1 ? k.quant_tile : k.quant_tiles)[static_cast<int>(format)][n - 1](
                    m.tile(0), m.tile_bytes, m.n_blocks(), q.data(), stride, out);
            for (int r = 0; r < n; ++r) {
                for (int lane = 0; lane < n_tiles * kLanes; ++lane) {
                    unpack_row(m, lane, w.data());
                    double sum = 0, size = 0;
                    for (int c = 0; c < columns; ++c) {
                        const XBlock& b = q[static_cast<size_t>(r * stride + c / kBlock)];
                        const double v = quantized ? double{b.d} * b.q[c % kBlock]
                                                   : x[static_cast<size_t>(r * m.padded_columns + c)];
                        sum += v * w[static_cast<size_t>(c)];
                        size += std::abs(v * w[static_cast<size_t>(c)]);
                    }
                    ok = ok && near(out[r * n_tiles * kLanes + lane], sum, size);
                }
            }
        }
    }
    check(ok, std::string(k.name) + " tiles of format " + std::to_string(static_cast<int>(format)));
}

// Sets with fused multiply-add: rows of one set done together are those of another done alone, to the bit.
void check_alike(const Kernels& k, const Kernels& other, Format format) {
    constexpr int kRows = kMaxQuantRows, columns = 768;
    std::vector<uint8_t> bytes;
    const Matrix m = packed(format, kLanes, columns, bytes);
    const std::vector<float> x = normal(static_cast<size_t>(kRows * columns));
    std::vector<XBlock> q(static_cast<size_t>(kRows * m.n_blocks()));
    k.quantize(x.data(), kRows * columns, q.data());
    const auto multiply = [&](const Kernels& set, int first, int n, float* out) {
        set.quant_tile[static_cast<int>(format)][n - 1](
            m.tile(0), m.tile_bytes, m.n_blocks(), &q[static_cast<size_t>(first * m.n_blocks())], m.n_blocks(), out);
    };
    float alone[kRows * kLanes], together[kRows * kLanes];
    for (int r = 0; r < kRows; ++r) multiply(other, r, 1, alone + r * kLanes);
    bool ok = true;
    for (int n = 1; n <= k.max_quant_rows; ++n) {
        multiply(k, kRows - n, n, together);
        ok = ok &&
             std::memcmp(together, alone + (kRows - n) * kLanes, sizeof(float) * static_cast<size_t>(n) * kLanes) == 0;
    }
    check(ok, std::string(k.name) + " like " + other.name + " to the bit, format " +
                  std::to_string(static_cast<int>(format)));
}

// Tiles unpacked for many rows: each row's result is that of the row alone, to the bit.
void check_panels(const Kernels& k, Format format) {
    const bool floats = !geometry(format).quantized;
    const int columns = floats ? 299 : 768;
    std::vector<uint8_t> bytes;
    const Matrix m = packed(format, kMaxTiles * kLanes, columns, bytes);
    std::vector<float> x = normal(static_cast<size_t>(kMaxPanelRows * m.padded_columns));
    std::vector<XBlock> q(static_cast<size_t>(kMaxPanelRows * (columns / kBlock + 1)));
    if (!floats) k.quantize(x.data(), kMaxPanelRows * columns, q.data());
    const Activations rows = {q.data(), m.n_blocks(), x.data(), m.padded_columns};
    bool ok = true;
    for (int n : {kFewestPanelRows, kMaxPanelRows - 1, kMaxPanelRows}) {
        for (int n_tiles : {1, tiles_of_call(k, floats, n)}) {
            std::vector<float> together(static_cast<size_t>(n * n_tiles * kLanes));
            multiply_tiles(k, m, {0, n_tiles}, rows, 0, n, together.data());
            for (int r = 0; r < n; ++r) {
                for (int t = 0; t < n_tiles; ++t) {
                    float alone[kLanes];
                    multiply_tiles(k, m, {t, 1}, rows, r, 1, alone);
                    ok = ok && std::memcmp(&together[static_cast<size_t>((r * n_tiles + t) * kLanes)], alone,
                                           sizeof(alone)) == 0;
                }
            }
        }
    }
    check(ok, std::string(k.name) + " panels of format " + std::to_string(static_cast<int>(format)));
}

// Tiles that others have read: each row's result is that of the row alone, to the bit.
void check_again(const Kernels& k, Format format) {
    constexpr int columns = 768;
    std::vector<uint8_t> bytes;
    const Matrix m = packed(format, kAgainTiles * kLanes, columns, bytes);
    const int n = 2 * rows_again(k, m);
    const std::vector<float> x = normal(static_cast<size_t>(n * columns));
    std::vector<XBlock> q(static_cast<size_t>(n * m.n_blocks()));
    k.quantize(x.data(), n * columns, q.data());
    const Activations rows = {q.data(), m.n_blocks(), x.data(), columns};
    std::vector<float> together(static_cast<size_t>(n * kAgainTiles * kLanes));
    multiply_again(k, m, {0, kAgainTiles}, rows, 0, n, together.data());
    bool ok = true;
    for (int r = 0; r < n; ++r) {
        for (int t = 0; t < kAgainTiles; ++t) {
            float alone[kLanes];
            multiply_tiles(k, m, {t, 1}, rows, r, 1, alone);
            ok = ok &&
                 std::memcmp(&together[static_cast<size_t>((r * kAgainTiles + t) * kLanes)], alone, sizeof(alone)) == 0;
        }
    }
    check(ok, std::string(k.name) + " tiles read before, format " + std::to_string(static_cast<int>(format)));
}

void check_rows(const Kernels& k, const Kernels& portable) {
    for (int n : {1, 15, 16, 50, 576}) {
        const std::vector<float> x = normal(static_cast<size_t>(n)), w = normal(static_cast<size_t>(n));
        std::vector<float> a(x.size()), b(x.size());
        k.rms_norm(x.data(), w.data(), 1e-5f, n, a.data());
        portable.rms_norm(x.data(), w.data(), 1e-5f, n, b.data());
        bool ok = true;
        for (int i = 0; i < n; ++i) ok = ok && near(a[static_cast<size_t>(i)], b[static_cast<size_t>(i)], 5);
        a = b = x;
        k.silu_mul(a.data(), w.data(), n);
        portable.silu_mul(b.data(), w.data(), n);
        for (int i = 0; i < n; ++i) ok = ok && near(a[static_cast<size_t>(i)], b[static_cast<size_t>(i)], 5);
        check(ok, std::string(k.name) + " norm and activation of " + std::to_string(n));
    }
    const std::vector<float> x = normal(256, 1e-3f);
    std::vector<XBlock> a(8), b(8);
    k.quantize(x.data(), 256, a.data());
    portable.quantize(x.data(), 256, b.data());
    check(std::memcmp(a.data(), b.data(), sizeof(XBlock) * 8) == 0, std::string(k.name) + " quantizes alike");
}

// Weights of logits and what is found of their chunks, against float64.
void check_logits(const Kernels& k) {
    constexpr int kChunks = 5, kSize = kChunks * kRowChunk;
    std::vector<float> x = normal(kSize, 9.0f), weights(kSize), sums(kChunks), bare(kChunks), maxima(kChunks);
    x[70] = -INFINITY;
    x[3] = 40.0f;
    k.weigh(x.data(), kChunks, 40.0f, 0.7f, weights.data(), sums.data());
    k.weigh(x.data(), kChunks, 40.0f, 0.7f, nullptr, bare.data());
    k.chunk_maxima(x.data(), kChunks, maxima.data());
    bool weighed = weights[70] == 0 && weights[3] == 1, summed = sums == bare, largest = true;
    for (size_t c = 0; c < kChunks; ++c) {
        double sum = 0;
        float top = -INFINITY;
        for (size_t i = c * kRowChunk; i < (c + 1) * kRowChunk; ++i) {
            const double want = std::exp((static_cast<double>(x[i]) - 40.0) * 0.7);
            weighed = weighed && std::abs(weights[i] - want) <= 3e-6 * want + 1e-14;  // 3e-6 of e^-20
            sum += weights[i];
            top = std::max(top, x[i]);
        }
        summed = summed && std::abs(sums[c] - sum) <= 5e-7 * sum;
        largest = largest && maxima[c] == top;
    }
    check(weighed, std::string(k.name) + " weighs logits");
    check(summed, std::string(k.name) + " sums their weights");
    check(largest, std::string(k.name) + " finds the largest of their chunks");
}

float to_bf16(float x) {  // nearest, ties to even
    uint32_t u;
    std::memcpy(&u, &x, 4);
    u = (u + 0x7fff + (u >> 16 & 1)) & 0xffff0000;
    std::memcpy(&x, &u, 4);
    return x;
}

// Attention on a matrix unit against float64: two chunks, rows in two batches, a head that leaves part of a tile.
// Maxima and sums of exponentials are never rounded to bfloat16, and are held to float32's accuracy.
void check_unit_attention(const Kernels& k) {
    constexpr int kDim = 24, kPad = 32, kHeads = 2, kGroup = 3, kTokens = 20, kPosition = 500, kBlocks = 33;
    constexpr int kRows = kTokens * kGroup, kStride = kPad + 2;
    const KvLayer layout = kv_layout(KvType::F16, 1, kHeads, kDim);
    std::vector<uint8_t> memory(kv_bytes(layout, kBlocks));
    const KvLayer kv = kv_layer(layout, memory.data(), 0);
    std::vector<std::vector<float>> key, value;
    std::vector<int32_t> table(kBlocks);
    for (int b = 0; b < kBlocks; ++b) table[static_cast<size_t>(b)] = kBlocks - 1 - b;
    for (int j = 0; j < kPosition + kTokens; ++j) {
        key.push_back(normal(kDim * kHeads));
        value.push_back(normal(kDim * kHeads));
        for (auto* each : {&key.back(), &value.back()}) {
            for (float& x : *each) x = to_bf16(x);
        }
        k.write_kv(kv, table[static_cast<size_t>(j / kLanes)], j % kLanes, key.back().data(), value.back().data());
    }
    const std::vector<float> q = normal(static_cast<size_t>(kRows * kDim), 0.7f);
    std::vector<float> partial(static_cast<size_t>(kRows * kStride));
    const Buffer scratch(k.unit->attend_scratch);
    k.unit->begin();
    k.unit->attend({kv, table.data(), 1, kGroup, q.data(), kGroup * kDim, kPosition, kTokens, 0, 2,
                    reinterpret_cast<float*>(const_cast<uint8_t*>(scratch.data())), partial.data()});
    k.unit->end();
    // Integers have steps of 1/5792 of the largest of 64 numbers, and a maximum of their own to refer to.
    const bool integers = k.unit->multiply == nullptr;
    bool sums = true, outputs = true;
    for (int r = 0; r < kRows; ++r) {
        const float* got = &partial[static_cast<size_t>(r * kStride)];
        std::vector<double> score;
        for (int j = 0; j <= kPosition + r / kGroup; ++j) {
            double sum = 0;
            for (int d = 0; d < kDim; ++d) {
                const float each = q[static_cast<size_t>(r * kDim + d)] * 1.4426950408889634f;
                sum += double{integers ? each : to_bf16(each)} *
                       key[static_cast<size_t>(j)][static_cast<size_t>(kDim + d)];
            }
            score.push_back(sum);
        }
        const double top = *std::max_element(score.begin(), score.end());
        double sum = 0;
        for (double& each : score) sum += each = std::exp2(each - top);
        if (integers) {
            sums = sums && std::abs(got[0] + std::log(got[1]) - top * std::log(2.0) - std::log(sum)) < 1e-2;
        } else {
            sums = sums && std::abs(got[0] - top * std::log(2.0)) < 1e-5 && std::abs(got[1] - sum) < 2e-5 * sum;
        }
        for (int d = 0; d < kDim; ++d) {
            double out = 0, size = 0;
            for (size_t j = 0; j < score.size(); ++j) {
                out += score[j] * value[j][static_cast<size_t>(kDim + d)];
                size += score[j] * std::abs(value[j][static_cast<size_t>(kDim + d)]);
            }
            const double unit = integers ? sum / got[1] : 1.0;
            outputs = outputs && std::abs(got[2 + d] * unit - out) < size / 256;
        }
    }
    check(sums, std::string(k.name) + " attention on its unit: maxima and sums");
    check(outputs, std::string(k.name) + " attention on its unit: outputs");
}

// Attention over both kinds of cache; heads that fill vectors, leave part of one, and mix in blocks of 2 to 64.
void check_cached_attention(const Kernels& k, const Kernels& portable) {
    constexpr int kTokens = 5, kPositions = 531;
    for (KvType type : {KvType::F16, KvType::Q8_0}) {
        for (int dim : {10, 24, 64}) {
            const AttentionShape shape{type, 6, 2, dim, kTokens, kPositions};
            const size_t n = static_cast<size_t>(kTokens * 6 * dim), cached = static_cast<size_t>(kPositions * 2 * dim);
            const std::vector<float> q = normal(n, 0.2f), keys = normal(cached), values = normal(cached);
            std::vector<int32_t> table((kPositions + kLanes - 1) / kLanes);
            for (size_t i = 0; i < table.size(); ++i) table[i] = static_cast<int32_t>(table.size() - i);
            std::vector<float> a(n), b(n);
            attend_alone(k, false, shape, q.data(), keys.data(), values.data(), table.data(), a.data());
            attend_alone(portable, false, shape, q.data(), keys.data(), values.data(), table.data(), b.data());
            bool ok = true;
            for (size_t i = 0; i < n; ++i) ok = ok && std::abs(a[i] - b[i]) < 1e-5;
            check(ok,
                  std::string(k.name) + " attention over " + kv_type_name(type) + ", heads of " + std::to_string(dim));
        }
    }
}

// Many rows done together: each token's result is that of the token alone, to the bit. Jobs that are split, groups that
// are not filled, rows that begin in one chunk and end in another, and some that see none of the second.
void check_many_rows(const Kernels& k) {
    constexpr int kTokens = 23;
    for (KvType type : {KvType::F16, KvType::Q8_0}) {
        for (const auto& [dim, n_positions] : {std::pair{24, 23}, {64, 520}, {256, 531}}) {
            const size_t query = static_cast<size_t>(6 * dim), kv = static_cast<size_t>(2 * dim);
            const size_t cached = static_cast<size_t>(n_positions) * kv;
            const std::vector<float> q = normal(kTokens * query, 0.2f), keys = normal(cached), values = normal(cached);
            std::vector<int32_t> table(static_cast<size_t>((n_positions + kLanes - 1) / kLanes));
            for (size_t i = 0; i < table.size(); ++i) table[i] = static_cast<int32_t>(table.size() - i);
            std::vector<float> together(kTokens * query), alone(query);
            attend_alone(k, false, {type, 6, 2, dim, kTokens, n_positions}, q.data(), keys.data(), values.data(),
                         table.data(), together.data());
            bool ok = true;
            for (int token : {0, 1, 14, 15, 22}) {
                const size_t at = static_cast<size_t>(token) * query;
                attend_alone(k, false, {type, 6, 2, dim, 1, n_positions - kTokens + 1 + token}, &q[at], keys.data(),
                             values.data(), table.data(), alone.data());
                ok = ok && std::memcmp(&together[at], alone.data(), query * sizeof(float)) == 0;
            }
            check(ok, std::string(k.name) + " attention of many rows over " + kv_type_name(type) + ", heads of " +
                          std::to_string(dim));
        }
    }
}

// A model small enough for an emulator; its matrices and norms are random, but the same each time.
// Q8_0 is run with a cache of 8 bits, too. All rows divide into blocks of 32, without which nothing would run on a
// matrix unit.
constexpr Shape kShape{64, 2, 8, 2, 24, 96, 40, 1e-5f, 1e4, 1.0};

void load(Model& model, Format format) {
    rng.seed(11);
    const auto add = [&](Slot slot, int layer, int rows, int columns) {
        const std::vector<uint8_t> bytes = random_weights(format, rows, columns);
        model.add_matrix(slot, layer, geometry(format).ggml_type, rows, columns, bytes.data(), bytes.size());
        check(model.pack() == -1, "weights are finite");
    };
    add(Slot::tok_embeddings, -1, 40, 64);
    const std::vector<float> ones(64, 0.05f);
    for (int layer = 0; layer < kShape.n_layers; ++layer) {
        add(Slot::wq, layer, 192, 64);
        add(Slot::wk, layer, 48, 64);
        add(Slot::wv, layer, 48, 64);
        add(Slot::wo, layer, 64, 192);
        add(Slot::w1, layer, 96, 64);
        add(Slot::w3, layer, 96, 64);
        add(Slot::w2, layer, 64, 96);
        model.set_norm(NormSlot::attention_norm, layer, ones.data(), 64);
        model.set_norm(NormSlot::ffn_norm, layer, ones.data(), 64);
    }
    model.set_norm(NormSlot::norm, -1, ones.data(), 64);
    model.check_complete();
    model.allocate_cache(40, format == Format::Q8_0 ? KvType::Q8_0 : KvType::F16);
}

// A text in chunks, with a past that crosses a chunk of the attention; the last token's logits.
std::vector<float> run(Model& model, const std::vector<int>& chunks) {
    std::vector<int32_t> table(40);
    for (int i = 0; i < 40; ++i) table[static_cast<size_t>(i)] = 39 - i;
    std::vector<float> logits(40);
    int past = 0;
    for (int n : chunks) {
        std::vector<int32_t> tokens(static_cast<size_t>(n));
        for (int i = 0; i < n; ++i) tokens[static_cast<size_t>(i)] = (past + i) * 7 % 40;
        const int32_t starts[] = {0, n}, pasts[] = {past}, rows[] = {n - 1};
        model.step({tokens.data(), starts, pasts, table.data(), rows, n, 1, 40, 1, 0}, logits.data(), nullptr);
        past += n;
    }
    return logits;
}

std::vector<float> logits_of(const std::string& isa, int n_threads, Format format, const std::vector<int>& chunks) {
    Model model(kShape, n_threads, choose_kernels(isa));
    load(model, format);
    return run(model, chunks);
}

const std::vector<float>& portable_logits(Format format) {  // the slowest body under sanitizers: once per format
    static std::map<Format, std::vector<float>> known;
    const auto [at, fresh] = known.try_emplace(format);
    if (fresh) at->second = logits_of("portable", 1, format, {530});
    return at->second;
}

void check_forward(const std::string& isa) {
    for (Format format : {Format::F32, Format::Q4_0, Format::Q8_0}) {
        const std::vector<float> whole = isa == "portable" ? portable_logits(format) : logits_of(isa, 1, format, {530});
        const std::string name = isa + " forward of format " + std::to_string(static_cast<int>(format));
        check(whole == logits_of(isa, 3, format, {200, 17, 311, 1, 1}), name + " in chunks on 3 threads, to the bit");
        check(whole == logits_of(isa, 5, format, {530}), name + " at once on 5 threads, to the bit");
        const std::vector<float>& portable = portable_logits(format);
        double error = 0, size = 0;
        for (size_t i = 0; i < whole.size(); ++i) {
            error += std::pow(whole[i] - portable[i], 2);
            size += std::pow(portable[i], 2);
        }
        // A last-bit difference may round an activation to the next of 127 codes.
        const double ceiling = geometry(format).quantized ? 3e-2 : 1e-3;
        check(size > 0 && std::sqrt(error / size) < ceiling, name + " near the portable one");
    }
}

// Scratch follows the matrices: a unit's attention needs fifty times that of the others.
void check_replaced(const std::string& isa) {
    Model model(kShape, 2, choose_kernels(isa));
    bool ok = true;
    for (Format format : {Format::F32, Format::Q8_0, Format::F16}) {
        load(model, format);
        ok = ok && run(model, {40}) == logits_of(isa, 2, format, {40});
    }
    check(ok, isa + " after its matrices were replaced by others");
}

// An answer's token and a stranger's prompt in one step, as in two.
void check_beside(const std::string& isa) {
    constexpr int kPast = 20, kPrompt = 37;
    std::vector<int32_t> tokens(1 + kPrompt);
    for (int i = 0; i <= kPrompt; ++i) tokens[static_cast<size_t>(i)] = i * 11 % 40;
    const int32_t tables[] = {39, 38, 37, 0, 1, 2}, pasts[] = {kPast, 0}, both[] = {0, 1, 1 + kPrompt};
    const auto loaded = [&](Model& model) {
        load(model, Format::Q4_0);
        run(model, {kPast});
    };
    std::vector<float> together(80), apart(80);
    Model one(kShape, 3, choose_kernels(isa)), two(kShape, 1, choose_kernels(isa));
    loaded(one);
    loaded(two);
    const int32_t rows[] = {0, kPrompt}, answer[] = {0, 1}, prompt[] = {0, kPrompt}, last[] = {kPrompt - 1};
    one.step({tokens.data(), both, pasts, tables, rows, 1 + kPrompt, 2, 3, 2, 1}, together.data(), nullptr);
    two.step({tokens.data(), answer, pasts, tables, rows, 1, 1, 3, 1, 1}, apart.data(), nullptr);
    two.step({tokens.data() + 1, prompt, pasts + 1, tables + 3, last, kPrompt, 1, 3, 1, 0}, apart.data() + 40, nullptr);
    check(together == apart, isa + " an answer beside a prompt, to the bit");
}

void check_pool() {
    ThreadPool pool(4);
    bool ok = true;
    for (int round = 0; round < 200; ++round) {
        int shared = 0;
        std::atomic<int> seen{0};
        pool.run([&](int thread) {
            for (int turn = 0; turn < 4; ++turn) {
                if (thread == turn) shared += 1;  // unsynchronised but for the barrier
                pool.barrier();
                if (shared == turn + 1) seen.fetch_add(1);
                pool.barrier();
            }
        });
        ok = ok && shared == 4 && seen == 16;
    }
    check(ok, "the pool's barrier separates phases");
}

// Every line once, piece after piece, and an end.
void check_ahead() {
    const Buffer buffer(4096);
    Ahead ahead;
    bool ok = !ahead.fetch();
    ahead.add(buffer.data(), 1000);
    ahead.add(buffer.data() + 2048, 0);  // nothing to fetch
    ahead.add(buffer.data() + 2048, 300);
    int looks = 0;
    while (looks < 100 && ahead.fetch()) ++looks;
    ok = ok && looks == 6;  // four lines of 64 a look: 4 looks and 2
    ahead.add(buffer.data(), 64);
    ahead.clear();
    check(ok && !ahead.fetch(), "what is ahead is fetched once");
}

// Whatever their number, threads share all rows, each once, and each keeps to the part that it begins with.
void check_parts() {
    bool ok = true;
    for (int size : {0, 1, 2, 31, 33, 127, 128, 255, 256, 300, 512, 701}) {
        for (int threads : {1, 2, 3, 5, 16}) {
            for (int fewest : {1, 32, 128, 256}) {
                const Rows rows = Rows::cut(7, size, fewest, threads);
                ok = ok && rows.n_parts >= 1 && rows.n_parts <= threads && (rows.n_parts - 1) * fewest <= size;
                std::vector<int> owners(static_cast<size_t>(rows.end()), 0);
                for (int thread = 0; thread < threads; ++thread) {
                    const Range own = rows.own(thread), part = rows.part(rows.part_of(thread));
                    ok = ok && own.begin <= own.end && part.begin <= own.begin && own.end <= part.end;
                    for (int r = own.begin; r < own.end; ++r) ++owners[static_cast<size_t>(r)];
                }
                for (int r = 0; r < rows.end(); ++r) ok = ok && owners[static_cast<size_t>(r)] == (r >= 7 ? 1 : 0);
                int next = rows.first;
                for (int i = 0; i < rows.n_parts; ++i) {
                    ok = ok && rows.part(i).begin == next;
                    ok = ok && (next == rows.end() || (next - rows.first) % Rows::kStep == 0);
                    next = rows.part(i).end;
                }
                ok = ok && next == rows.end();
            }
        }
    }
    check(ok, "threads share all rows");
    check(Rows::cut(0, 1, 128, 4).own(0).size() == 1, "a single row is the first thread's");
}

void check_set(const std::string& isa, const std::vector<std::string>& present) {
    const Kernels& k = *choose_kernels(isa);
    for (int f = 0; f < kFormats; ++f) {
        const Format format = static_cast<Format>(f);
        check_tiles(k, format);
        if (geometry(format).quantized ? k.quant_panels : k.float_panels) check_panels(k, format);
        if (k.again_rows[f] > 0) check_again(k, format);
    }
    for (const std::string& other : present) {
        if (isa == "portable" || other == "portable" || other == isa) continue;
        for (int f = 0; f < kFormats; ++f) {
            const Format format = static_cast<Format>(f);
            if (geometry(format).quantized) check_alike(k, *choose_kernels(other), format);
        }
    }
    check_rows(k, *choose_kernels("portable"));
    check_logits(k);
    check_cached_attention(k, *choose_kernels("portable"));
    check_many_rows(k);
    if (k.unit != nullptr) check_unit_attention(k);
    check_forward(isa);
    check_replaced(isa);
    check_beside(isa);
    std::printf("%s checked\n", isa.c_str());
}

}  // namespace

int main(int argc, char** argv) {
    std::setvbuf(stdout, nullptr, _IONBF, 0);  // what was checked shows even where a sanitizer ends the program
    const std::vector<std::string> present = available_isas(), wanted(argv + 1, argv + argc);
    try {
        check_pool();
        check_ahead();
        check_parts();
        check_repeats();
        for (const std::string& isa : wanted.empty() ? present : wanted) check_set(isa, present);
    } catch (const std::exception& error) { check(false, error.what()); }
    std::printf("%d passed, %d failed\n", passed, failed);
    return failed == 0 ? 0 : 1;
}
