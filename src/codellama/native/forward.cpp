// Loading, planning and the order of phases; the phases themselves are in phases.cpp.

#include "forward.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <string>

namespace codellama {
namespace {

[[noreturn]] void refuse(const std::string& what) { throw std::invalid_argument(what); }

// Fewest rows of a part of those that run on vectors.
constexpr int kPartRows = 128;

int round_up(int n, int to) { return (n + to - 1) / to * to; }

bool positive(double x) { return x > 0 && std::isfinite(x); }

const Shape& checked(const Shape& shape) {
    for (int n : {shape.dim, shape.n_layers, shape.n_heads, shape.n_kv_heads, shape.head_dim, shape.ffn_dim,
                  shape.vocab_size}) {
        if (n <= 0) refuse("a model's sizes are positive numbers; " + std::to_string(n) + " is not");
    }
    if (shape.head_dim % 2 != 0 || shape.head_dim > kMaxHeadPad) {
        refuse("head_dim " + std::to_string(shape.head_dim) + " must be even and at most " +
               std::to_string(kMaxHeadPad));
    }
    if (shape.n_heads % shape.n_kv_heads != 0) refuse("heads do not share kv heads evenly");
    if (!positive(shape.rope_theta) || !positive(shape.rope_factor)) refuse("rope_theta and rope_factor are positive");
    if (!std::isfinite(shape.norm_eps) || shape.norm_eps < 0) refuse("norm_eps is not negative");
    return shape;
}

}  // namespace

Model::Model(const Shape& shape, int n_threads, const Kernels* kernels)
    : shape_(checked(shape)),
      kernels_(kernels),
      pool_(n_threads),
      layers_(static_cast<size_t>(shape.n_layers)),
      kv_(kv_layout(KvType::F16, shape.n_kv_heads, shape.head_dim)) {
    for (int i = 0; i < shape.head_dim / 2; ++i) {
        inverse_frequency_.push_back(std::pow(shape.rope_theta, -2.0 * i / shape.head_dim));
    }
}

Matrix& Model::matrix(Slot slot, int layer) {
    if (slot == Slot::tok_embeddings) return tok_embeddings_;
    if (slot == Slot::output) return output_;
    if (layer < 0 || layer >= shape_.n_layers) refuse("layer " + std::to_string(layer) + " does not exist");
    Layer& l = layers_[static_cast<size_t>(layer)];
    switch (slot) {
        case Slot::wq: return l.wq;
        case Slot::wk: return l.wk;
        case Slot::wv: return l.wv;
        case Slot::wo: return l.wo;
        case Slot::w1: return l.w1;
        case Slot::w2: return l.w2;
        case Slot::w3: return l.w3;
        default: refuse("unknown matrix slot");
    }
}

void Model::add_matrix(Slot slot, int layer, int ggml_type, int rows, int columns, const uint8_t* source,
                       size_t bytes) {
    const Format format = format_of(ggml_type);
    const bool divides = rows > 0 && columns > 0 && columns % geometry(format).elements == 0;
    const size_t expected = divides ? source_row_bytes(format, columns) * static_cast<size_t>(rows) : 0;
    if (divides && bytes != expected) {
        refuse("matrix has " + std::to_string(bytes) + " bytes, " + std::to_string(expected) + " expected");
    }
    matrix(slot, layer);  // refuses layers that do not exist
    noted_.push_back({slot, layer, make_matrix(format, rows, columns, &arena_), source});
    complete_ = false;
}

int Model::pack() {
    std::vector<int> starts{0};  // number of each matrix's first tile
    for (const Noted& each : noted_) starts.push_back(starts.back() + each.matrix.n_tiles());
    std::atomic<int> next{0}, bad{-1};
    pool_.run([&](int) {
        for (int tile = next++; tile < starts.back(); tile = next++) {
            const auto place = std::upper_bound(starts.begin(), starts.end(), tile) - starts.begin() - 1;
            Noted& each = noted_[static_cast<size_t>(place)];
            const int own = tile - starts[static_cast<size_t>(place)];
            pack_tile(each.matrix, own, each.source);
            if (!tile_is_finite(each.matrix, own)) bad.store(static_cast<int>(place));
        }
    });
    if (bad.load() < 0) {
        for (Noted& each : noted_) matrix(each.slot, each.layer) = std::move(each.matrix);
    }
    noted_.clear();
    return bad.load();
}

void Model::set_norm(NormSlot slot, int layer, const float* weight, int n) {
    if (n != shape_.dim)
        refuse("norm weight has " + std::to_string(n) + " values, dim is " + std::to_string(shape_.dim));
    if (!std::all_of(weight, weight + n, [](float w) { return std::isfinite(w); })) {
        refuse("the weights contain NaN or infinite values");
    }
    if (slot != NormSlot::norm && (layer < 0 || layer >= shape_.n_layers)) refuse("no such layer");
    std::vector<float>& target = slot == NormSlot::norm             ? norm_
                                 : slot == NormSlot::attention_norm ? layers_[static_cast<size_t>(layer)].attention_norm
                                                                    : layers_[static_cast<size_t>(layer)].ffn_norm;
    target.assign(weight, weight + n);
}

void Model::set_rope_frequency_factors(const float* factors, int n) {
    if (n != shape_.head_dim / 2) refuse("one rope factor per pair of head dimensions is needed");
    if (!std::all_of(factors, factors + n, positive)) refuse("rope factors are positive");
    for (int i = 0; i < n; ++i) inverse_frequency_[static_cast<size_t>(i)] /= factors[i];
}

void Model::check_complete() {
    const auto need = [](const Matrix& m, int rows, int columns, const char* name) {
        if (m.rows == rows && m.columns == columns) return;
        refuse(std::string(name) + " is " + std::to_string(m.rows) + " x " + std::to_string(m.columns) + ", " +
               std::to_string(rows) + " x " + std::to_string(columns) + " expected");
    };
    const int query = shape_.n_heads * shape_.head_dim, kv = shape_.n_kv_heads * shape_.head_dim;
    need(tok_embeddings_, shape_.vocab_size, shape_.dim, "tok_embeddings");
    need(head(), shape_.vocab_size, shape_.dim, "output");
    if (norm_.empty()) refuse("norm is missing");
    complete_ = false;
    prompts_on_unit_ = kernels_->unit != nullptr;
    capacity_ = 0;  // scratch follows
    for (const Layer& l : layers_) {
        for (const Matrix* m : {&l.wq, &l.wk, &l.wv, &l.wo, &l.w1, &l.w2, &l.w3}) {
            prompts_on_unit_ = prompts_on_unit_ && on_unit(*m);
        }
        need(l.wq, query, shape_.dim, "wq");
        need(l.wk, kv, shape_.dim, "wk");
        need(l.wv, kv, shape_.dim, "wv");
        need(l.wo, shape_.dim, query, "wo");
        need(l.w1, shape_.ffn_dim, shape_.dim, "w1");
        need(l.w3, shape_.ffn_dim, shape_.dim, "w3");
        need(l.w2, shape_.dim, shape_.ffn_dim, "w2");
        if (l.attention_norm.empty() || l.ffn_norm.empty()) refuse("a layer's norm is missing");
    }
    const size_t unit = prompts_on_unit_ ? kernels_->unit->attend_scratch : 0;
    thread_scratch_.clear();
    for (int i = 0; i < pool_.size(); ++i) thread_scratch_.emplace_back(std::max(unit, kAttendScratch * sizeof(float)));
    complete_ = true;
}

size_t Model::weight_bytes() const {
    size_t total = tok_embeddings_.tiles.size() + output_.tiles.size();
    for (const Layer& l : layers_) {
        for (const Matrix* m : {&l.wq, &l.wk, &l.wv, &l.wo, &l.w1, &l.w2, &l.w3}) total += m->tiles.size();
    }
    return total;
}

void Model::allocate_cache(int n_blocks, KvType type) {
    if (n_blocks <= 0) refuse("the cache needs at least one block");
    n_blocks_ = 0;  // should the allocation throw
    cache_ = Buffer();
    kv_ = kv_layout(type, shape_.n_kv_heads, shape_.head_dim);
    cache_ = Buffer(static_cast<size_t>(n_blocks) * block_bytes());
    n_blocks_ = n_blocks;
}

KvLayer Model::kv_layer(int layer) {
    const size_t n = static_cast<size_t>(n_blocks_), keys = key_block_bytes(kv_), values = value_block_bytes(kv_);
    KvLayer kv = kv_;
    kv.keys = cache_.data() + n * (keys + values) * static_cast<size_t>(layer);
    kv.values = kv.keys + n * keys;
    return kv;
}

size_t Model::block_bytes() const {
    return static_cast<size_t>(shape_.n_layers) * (key_block_bytes(kv_) + value_block_bytes(kv_));
}

template <class Visit>
void Model::visit_block(int block, const Visit& visit) {
    if (block < 0 || block >= n_blocks_) refuse("no such block");
    for (int layer = 0; layer < shape_.n_layers; ++layer) {
        const KvLayer kv = kv_layer(layer);
        const size_t keys = key_block_bytes(kv), values = value_block_bytes(kv);
        visit(kv.keys + keys * static_cast<size_t>(block), keys);
        visit(kv.values + values * static_cast<size_t>(block), values);
    }
}

void Model::copy_block(int source, int target) {
    if (target < 0 || target >= n_blocks_) refuse("no such block");
    visit_block(source, [&](uint8_t* part, size_t n) {
        std::memmove(part + (target - source) * static_cast<ptrdiff_t>(n), part, n);
    });
}

void Model::read_block(int block, uint8_t* out) {
    visit_block(block, [&](const uint8_t* part, size_t n) {
        std::memcpy(out, part, n);
        out += n;
    });
}

void Model::write_block(int block, const uint8_t* in) {
    visit_block(block, [&](uint8_t* part, size_t n) {
        std::memcpy(part, in, n);
        in += n;
    });
}

void Model::check(const Step& step) const {
    if (!complete_) refuse("check_complete comes first");
    if (n_blocks_ == 0) refuse("allocate_cache comes first");
    if (step.n_tokens <= 0 || step.n_sequences <= 0) refuse("an empty step");
    if (step.starts_S1[0] != 0 || step.starts_S1[step.n_sequences] != step.n_tokens) {
        refuse("starts do not cover the tokens");
    }
    for (int t = 0; t < step.n_tokens; ++t) {
        if (step.tokens_T[t] < 0 || step.tokens_T[t] >= shape_.vocab_size) {
            refuse("token id " + std::to_string(step.tokens_T[t]) + " is outside the vocabulary");
        }
    }
    for (int s = 0; s < step.n_sequences; ++s) {
        const int64_t n = int64_t{step.starts_S1[s + 1]} - step.starts_S1[s];
        if (n <= 0 || step.past_S[s] < 0) refuse("a sequence without tokens, or with a negative past");
        const int64_t last = step.past_S[s] + n;
        if (last > int64_t{step.table_width} * kLanes) refuse("a block table is too short for its sequence");
        for (int b = 0; b < (last + kLanes - 1) / kLanes; ++b) {
            const int32_t block = step.blocks_SB[static_cast<ptrdiff_t>(s) * step.table_width + b];
            if (block < 0 || block >= n_blocks_) refuse("block " + std::to_string(block) + " does not exist");
        }
    }
    if (std::find(step.starts_S1, step.starts_S1 + step.n_sequences + 1, step.n_exact) ==
        step.starts_S1 + step.n_sequences + 1) {
        refuse("prompts begin inside a sequence or outside the step");
    }
    if (step.n_rows > step.n_tokens) refuse("more rows wanted than there are tokens");
    for (int r = 0; r < step.n_rows; ++r) {
        if (step.rows_R[r] < 0 || step.rows_R[r] >= step.n_tokens) refuse("a wanted row is outside the step");
    }
}

void Model::reserve(int n_tokens) {
    if (n_tokens <= capacity_) return;
    capacity_ = n_tokens;
    const auto grow = [&](std::vector<float>& v, int columns) {
        v.assign(static_cast<size_t>(n_tokens) * static_cast<size_t>(columns), 0.0f);
    };
    const int query = shape_.n_heads * shape_.head_dim, kv = shape_.n_kv_heads * shape_.head_dim;
    grow(x_TD_, shape_.dim);
    grow(norm_TD_, round_up(shape_.dim, 4));
    grow(q_T_, query);
    grow(k_T_, kv);
    grow(v_T_, kv);
    grow(att_T_, round_up(query, 4));
    grow(ffn_TF_, round_up(shape_.ffn_dim, 4));
    grow(cos_T_, shape_.head_dim);
    grow(sin_T_, shape_.head_dim);
    x_blocks_ = std::max({shape_.dim, query, shape_.ffn_dim}) / kBlock + 1;
    quantized_ = Buffer(static_cast<size_t>(n_tokens) * static_cast<size_t>(x_blocks_) * sizeof(XBlock));
    if (prompts_on_unit_) {
        x_tiles_ = Buffer(unit_tile_bytes(n_tokens, std::max(shape_.dim, query)));
        ffn_tiles_ = Buffer(unit_tile_bytes(n_tokens, shape_.ffn_dim));
        unit_scratch_.clear();
        for (int i = 0; i < pool_.size(); ++i) unit_scratch_.emplace_back(unit_scratch_bytes(n_tokens));
    }
    sequence_T_.resize(static_cast<size_t>(n_tokens));
    position_T_.resize(static_cast<size_t>(n_tokens));
}

void Model::prepare(const Step& step) {
    reserve(step.n_tokens);
    const int n_exact = prompts_on_unit_ ? step.n_exact : step.n_tokens;
    exact_ = Rows::cut(0, n_exact, kPartRows, pool_.size());
    prompts_ = Rows::cut(n_exact, step.n_tokens - n_exact, fewest_prompt_rows(shape_.dim), pool_.size());
    for (int s = 0; s < step.n_sequences; ++s) {
        for (int t = step.starts_S1[s]; t < step.starts_S1[s + 1]; ++t) {
            sequence_T_[static_cast<size_t>(t)] = s;
            position_T_[static_cast<size_t>(t)] = step.past_S[s] + t - step.starts_S1[s];
        }
    }
    plan_attention(step);
    const int n_counters = (9 * shape_.n_layers + 2) * n_parts();
    counters_ = std::make_unique<std::atomic<int>[]>(static_cast<size_t>(n_counters));
}

// Jobs of (sequence, kv head, tile of tokens). Where these are too few to keep the threads busy, each chunk of the past
// becomes a job of its own; collect() then merges them in the order in which one job would have.
void Model::plan_attention(const Step& step) {
    jobs_.clear();
    splits_.clear();
    const int group = shape_.n_heads / shape_.n_kv_heads;
    const auto tile_of = [&](int s) {
        return std::max(1, (step.starts_S1[s] >= prompts_.first ? kUnitAttendRows : kAttendRows) / group);
    };
    const ptrdiff_t slot = round_up(shape_.head_dim, kLanes) + 2;
    int whole_jobs = 0;
    for (int s = 0; s < step.n_sequences; ++s) {
        const int n = step.starts_S1[s + 1] - step.starts_S1[s];
        whole_jobs += (n + tile_of(s) - 1) / tile_of(s) * shape_.n_kv_heads;
    }
    const bool scarce = whole_jobs < 8 * pool_.size();
    ptrdiff_t used = 0;
    for (int s = 0; s < step.n_sequences; ++s) {
        const int first = step.starts_S1[s], n = step.starts_S1[s + 1] - first, tile = tile_of(s);
        const int chunks = (step.past_S[s] + n + kChunk - 1) / kChunk;
        const bool split = scarce && n <= tile && chunks > 1;
        if (split) splits_.push_back({first, n, step.past_S[s], used});
        for (int h = 0; h < shape_.n_kv_heads; ++h) {
            for (int t = 0; t < n; t += tile) {
                const int m = std::min(tile, n - t);
                const int end = (step.past_S[s] + t + m + kChunk - 1) / kChunk;
                for (int c = 0; c < end; c += split ? 1 : end) {
                    jobs_.push_back({s, h, first + t, m, c, split ? c + 1 : end, used, split});
                    used += slot * m * group;
                }
            }
        }
    }
    if (partials_.size() < static_cast<size_t>(used)) partials_.resize(static_cast<size_t>(used));
}

void Model::step(const Step& step, float* logits_RV, float* hidden_RD) {
    check(step);
    prepare(step);
    pool_.run([&](int thread) { run_thread(thread, step, logits_RV, hidden_RD); });
}

void Model::run_thread(int thread, const Step& step, float* logits_RV, float* hidden_RD) {
    Progress at{thread, 0, {}};
    if (prompts_.size > 0) kernels_->unit->begin();
    look_ahead(at, {&layers_[0].wq, &layers_[0].wk, &layers_[0].wv}, false, exact_.size);
    for (const Rows* rows : {&exact_, &prompts_}) {
        embed(rows->own(thread), step);
        compute_rope(rows->own(thread));
    }
    meet(at);
    for (int layer = 0; layer < shape_.n_layers; ++layer) run_layer(at, layer, step);
    if (step.n_rows > 0) run_head(at, step, logits_RV, hidden_RD);
    if (kernels_->unit != nullptr) kernels_->unit->end();
}

void Model::run_layer(Progress& at, int layer, const Step& step) {
    const Layer& l = layers_[static_cast<size_t>(layer)];
    const int dim = shape_.dim, query = l.wq.rows, kv = l.wk.rows, ffn = shape_.ffn_dim;
    const ptrdiff_t norm_stride = round_up(dim, 4), att_stride = round_up(query, 4), ffn_stride = round_up(ffn, 4);
    uint16_t* x_tiles = reinterpret_cast<uint16_t*>(x_tiles_.data());
    uint16_t* ffn_tiles = reinterpret_cast<uint16_t*>(ffn_tiles_.data());

    normalise(at.thread, nullptr, exact_, prompts_, l.attention_norm);
    meet(at);
    const Product qkv[] = {
        {&l.wq, q_T_.data(), query, false}, {&l.wk, k_T_.data(), kv, false}, {&l.wv, v_T_.data(), kv, false}};
    multiply(at, qkv, 3, exact_, prompts_, norm_TD_.data(), norm_stride, x_tiles);
    look_ahead(at, {&l.wo}, false, exact_.size);
    meet(at);
    rotate_and_cache(at.thread, layer, step);
    meet(at);
    attend(at, layer, step);
    meet(at);
    if (!splits_.empty()) {
        collect(at.thread);
        meet(at);
    }
    quantize_rows(at.thread, att_T_.data(), att_stride, query, exact_, prompts_, x_tiles);
    meet(at);
    const Product wo[] = {{&l.wo, x_TD_.data(), dim, true}};
    multiply(at, wo, 1, exact_, prompts_, att_T_.data(), att_stride, x_tiles);
    look_ahead(at, {&l.w1, &l.w3}, true, exact_.size);
    meet(at);
    normalise(at.thread, nullptr, exact_, prompts_, l.ffn_norm);
    meet(at);
    const Product gate_up[] = {{&l.w1, ffn_TF_.data(), ffn_stride, false, &l.w3, ffn_tiles}};
    multiply(at, gate_up, 1, exact_, prompts_, norm_TD_.data(), norm_stride, x_tiles);
    look_ahead(at, {&l.w2}, false, exact_.size);
    meet(at);
    quantize_rows(at.thread, ffn_TF_.data(), ffn_stride, ffn, exact_, {}, nullptr);
    meet(at);
    const Product w2[] = {{&l.w2, x_TD_.data(), dim, true}};
    multiply(at, w2, 1, exact_, prompts_, ffn_TF_.data(), ffn_stride, ffn_tiles);
    if (layer + 1 == shape_.n_layers) {
        if (step.n_rows > 0) look_ahead(at, {&head()}, false, step.n_rows);
    } else {
        const Layer& next = layers_[static_cast<size_t>(layer) + 1];
        look_ahead(at, {&next.wq, &next.wk, &next.wv}, false, exact_.size);
    }
    meet(at);
}

void Model::run_head(Progress& at, const Step& step, float* logits_RV, float* hidden_RD) {
    const ptrdiff_t stride = round_up(shape_.dim, 4);
    const Rows rows = {0, step.n_rows, 1, pool_.size()};
    normalise(at.thread, step.rows_R, rows, {}, norm_);
    meet(at);
    if (hidden_RD != nullptr && at.thread == 0) {
        for (int r = 0; r < step.n_rows; ++r) {
            std::memcpy(hidden_RD + static_cast<ptrdiff_t>(r) * shape_.dim, norm_TD_.data() + r * stride,
                        static_cast<size_t>(shape_.dim) * sizeof(float));
        }
    }
    if (logits_RV == nullptr) return;
    const Product product[] = {{&head(), logits_RV, shape_.vocab_size, false}};
    multiply(at, product, 1, rows, {}, norm_TD_.data(), stride, nullptr);
}

}  // namespace codellama
