// Checking and planning a step, and the order of its phases; the phases themselves are in phases.cpp.

#include "forward.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>

namespace codellama {
namespace {

[[noreturn]] void refuse(const std::string& what) { throw std::invalid_argument(what); }

int round_up(int n, int to) { return (n + to - 1) / to * to; }

}  // namespace

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
    ffn_blocks_ = Buffer(static_cast<size_t>(n_tokens) * static_cast<size_t>(shape_.ffn_dim / kBlock) * sizeof(XBlock));
    if (prompts_on_unit_) {
        x_tiles_ = Buffer(unit_tile_bytes(n_tokens, std::max(shape_.dim, query)));
        ffn_tiles_ = Buffer(unit_tile_bytes(n_tokens, shape_.ffn_dim));
        unit_scratch_.clear();
        for (int i = 0; i < pool_.size(); ++i) unit_scratch_.emplace_back(unit_scratch_bytes(n_tokens));
    }
    sequence_T_.resize(static_cast<size_t>(n_tokens));
    position_T_.resize(static_cast<size_t>(n_tokens));
}

void Model::step(const Step& step, float* logits_RV, float* hidden_RD) {
    check(step);
    prepare(step);
    pool_.run([&](int thread) { run_thread(thread, step, logits_RV, hidden_RD); });
}

void Model::run_thread(int thread, const Step& step, float* logits_RV, float* hidden_RD) {
    Progress at{thread, 0, {}};
    if (unit_attends_ < step.n_tokens) kernels_->unit->begin();
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
    const XBlock* blocks = reinterpret_cast<const XBlock*>(quantized_.data());

    normalise(at.thread, nullptr, exact_, prompts_, l.attention_norm);
    meet(at);
    const Product qkv[] = {
        {&l.wq, q_T_.data(), query, false}, {&l.wk, k_T_.data(), kv, false}, {&l.wv, v_T_.data(), kv, false}};
    multiply_exact(at, qkv, 3, exact_, {blocks, x_blocks_, norm_TD_.data(), norm_stride});
    multiply_prompts(at, qkv, 3, prompts_, x_tiles);
    look_ahead(at, {&l.wo}, false, exact_.size);
    meet(at);
    rotate_and_cache(at.thread, layer, step);
    meet(at);
    if (layer + 1 == shape_.n_layers && narrows_) {
        if (kept_.empty()) return;
        if (at.thread == 0) narrow(step);
        meet(at);
    }
    attend(at, layer, step);
    meet(at);
    if (!splits_.empty()) {
        collect(at.thread);
        meet(at);
    }
    quantize_rows(at.thread, att_T_.data(), att_stride, query, exact_, prompts_, x_tiles);
    meet(at);
    const Product wo[] = {{&l.wo, x_TD_.data(), dim, true}};
    multiply_exact(at, wo, 1, exact_, {blocks, x_blocks_, att_T_.data(), att_stride});
    multiply_prompts(at, wo, 1, prompts_, x_tiles);
    look_ahead(at, {&l.w1, &l.w3}, true, exact_.size);
    meet(at);
    normalise(at.thread, nullptr, exact_, prompts_, l.ffn_norm);
    meet(at);
    Product gate_up[] = {{&l.w1, ffn_TF_.data(), ffn_stride, false, &l.w3, ffn_tiles}};
    Activations activated = {blocks, x_blocks_, ffn_TF_.data(), ffn_stride};
    const bool quantizes = ffn % kBlock == 0 && !is_float(l.w2) && in_pairs(gate_up[0], exact_.size);
    if (quantizes) {
        activated.blocks = gate_up[0].blocks = reinterpret_cast<XBlock*>(ffn_blocks_.data());
        activated.block_stride = gate_up[0].block_stride = ffn / kBlock;
    }
    multiply_exact(at, gate_up, 1, exact_, {blocks, x_blocks_, norm_TD_.data(), norm_stride});
    multiply_prompts(at, gate_up, 1, prompts_, x_tiles);
    look_ahead(at, {&l.w2}, false, exact_.size);
    meet(at);
    if (exact_.size > 0 && !quantizes) {
        quantize_rows(at.thread, ffn_TF_.data(), ffn_stride, ffn, exact_, {}, nullptr);
        meet(at);
    }
    const Product w2[] = {{&l.w2, x_TD_.data(), dim, true}};
    multiply_exact(at, w2, 1, exact_, activated);
    multiply_prompts(at, w2, 1, prompts_, ffn_tiles);
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
    normalise(at.thread, wanted_R_.data(), rows, {}, norm_);
    meet(at);
    if (hidden_RD != nullptr && at.thread == 0) {
        for (int r = 0; r < step.n_rows; ++r) {
            std::memcpy(hidden_RD + static_cast<ptrdiff_t>(r) * shape_.dim, norm_TD_.data() + r * stride,
                        static_cast<size_t>(shape_.dim) * sizeof(float));
        }
    }
    if (logits_RV == nullptr) return;
    const Product product[] = {{&head(), logits_RV, shape_.vocab_size, false}};
    multiply_exact(at, product, 1, rows,
                   {reinterpret_cast<const XBlock*>(quantized_.data()), x_blocks_, norm_TD_.data(), stride});
}

}  // namespace codellama
