// A model's weights and cache: what goes in, whether it is whole, and what is read back.

#include "forward.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <string>

namespace codellama {
namespace {

[[noreturn]] void refuse(const std::string& what) { throw std::invalid_argument(what); }

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
      kv_(kv_layout(KvType::F16, shape.n_layers, shape.n_kv_heads, shape.head_dim)) {
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
    prompts_on_unit_ = attention_on_unit_ = kernels_->unit != nullptr;
    capacity_ = 0;  // scratch follows
    for (const Layer& l : layers_) {
        for (const Matrix* m : {&l.wq, &l.wk, &l.wv, &l.wo, &l.w1, &l.w2, &l.w3}) {
            prompts_on_unit_ = prompts_on_unit_ && on_unit(*m);
            if (m->format == Format::F16 || m->format == Format::F32) attention_on_unit_ = false;
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
    const size_t unit = attention_on_unit_ ? kernels_->unit->attend_scratch : 0;
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
    kv_ = kv_layout(type, shape_.n_layers, shape_.n_kv_heads, shape_.head_dim);
    cache_ = Buffer(kv_bytes(kv_, static_cast<size_t>(n_blocks)));
    n_blocks_ = n_blocks;
}

KvLayer Model::layer_cache(int layer) { return kv_layer(kv_, cache_.data(), layer); }

size_t Model::block_bytes() const {
    return static_cast<size_t>(shape_.n_layers * shape_.n_kv_heads) * (kv_.key_bytes + kv_.value_bytes);
}

template <class Visit>
void Model::visit_blocks(int a, int b, const Visit& visit) {
    for (int block : {a, b}) {
        if (block < 0 || block >= n_blocks_) refuse("no such block");
    }
    for (int layer = 0; layer < shape_.n_layers; ++layer) {
        const KvLayer kv = layer_cache(layer);
        for (int head = 0; head < kv.n_kv_heads; ++head) {
            visit(kv.key_block(head, a), kv.key_block(head, b), kv.key_bytes);
        }
        for (int head = 0; head < kv.n_kv_heads; ++head) {
            visit(kv.value_block(head, a), kv.value_block(head, b), kv.value_bytes);
        }
    }
}

void Model::copy_block(int source, int target) {
    visit_blocks(source, target, [](const uint8_t* from, uint8_t* to, size_t n) { std::memmove(to, from, n); });
}

void Model::read_block(int block, uint8_t* out) {
    visit_blocks(block, block, [&](const uint8_t* part, const uint8_t*, size_t n) {
        std::memcpy(out, part, n);
        out += n;
    });
}

void Model::write_block(int block, const uint8_t* in) {
    visit_blocks(block, block, [&](uint8_t* part, const uint8_t*, size_t n) {
        std::memcpy(part, in, n);
        in += n;
    });
}

}  // namespace codellama
