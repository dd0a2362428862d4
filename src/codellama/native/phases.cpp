// The phases of a layer, each spread over the threads of the pool. See forward.cpp for their order.

#include <algorithm>
#include <cmath>

#include "forward.h"

namespace codellama {
namespace {

// Columns quantized as one unit, so that a single long row is shared among threads.
constexpr int kQuantizeColumns = 512;

}  // namespace

void Model::embed(Range rows, const Step& step) {
    for (int t = rows.begin; t < rows.end; ++t) {
        unpack_row(tok_embeddings_, step.tokens_T[t], x_TD_.data() + static_cast<ptrdiff_t>(t) * shape_.dim);
    }
}

// Angles in double precision: at position 16,000 float32's are off by a thousandth.
void Model::compute_rope(Range rows) {
    for (int t = rows.begin; t < rows.end; ++t) {
        const double position = position_T_[static_cast<size_t>(t)] / shape_.rope_factor;
        float *cos = cos_T_.data() + t * shape_.head_dim, *sin = sin_T_.data() + t * shape_.head_dim;
        for (int i = 0; i < shape_.head_dim / 2; ++i) {
            const double angle = position * inverse_frequency_[static_cast<size_t>(i)];
            cos[2 * i] = cos[2 * i + 1] = static_cast<float>(std::cos(angle));
            sin[2 * i + 1] = static_cast<float>(std::sin(angle));
            sin[2 * i] = -sin[2 * i + 1];
        }
    }
}

// norm_TD ← RMSNorm(x_TD[rows_R]), and what the products read.
void Model::normalise(int thread, const int32_t* rows_R, const Rows& exact, const Rows& prompts,
                      const std::vector<float>& weight) {
    const ptrdiff_t stride = (shape_.dim + 3) / 4 * 4;
    const auto norm = [&](int r) {
        const ptrdiff_t source = rows_R != nullptr ? rows_R[r] : r;
        float* out = norm_TD_.data() + r * stride;
        kernels_->rms_norm(x_TD_.data() + source * shape_.dim, weight.data(), shape_.norm_eps, shape_.dim, out);
        return out;
    };
    XBlock* quantized = reinterpret_cast<XBlock*>(quantized_.data());
    const Range own = exact.own(thread), packed = prompts.own(thread);
    for (int r = own.begin; r < own.end; ++r) {
        const float* x = norm(r);
        if (shape_.dim % kBlock == 0) kernels_->quantize(x, shape_.dim, quantized + r * x_blocks_);
    }
    uint16_t* tiles = reinterpret_cast<uint16_t*>(x_tiles_.data());
    for (int r = packed.begin; r < packed.end; ++r) pack_prompt_row(norm(r), shape_.dim, r - prompts.first, tiles);
}

void Model::quantize_rows(int thread, const float* x, ptrdiff_t stride, int columns, const Rows& exact,
                          const Rows& prompts, uint16_t* tiles) {
    const Range packed = prompts.own(thread);
    for (int r = packed.begin; r < packed.end; ++r) pack_prompt_row(x + r * stride, columns, r - prompts.first, tiles);
    if (columns % kBlock != 0) return;  // then the weights are floats and read x itself
    XBlock* quantized = reinterpret_cast<XBlock*>(quantized_.data());
    if (exact.n_parts > 1) {
        const Range own = exact.own(thread);
        for (int r = own.begin; r < own.end; ++r) {
            kernels_->quantize(x + r * stride, columns, quantized + r * x_blocks_);
        }
        return;
    }
    const int per_row = (columns + kQuantizeColumns - 1) / kQuantizeColumns;
    for (int unit = thread; unit < exact.size * per_row; unit += pool_.size()) {
        const int row = unit / per_row, first = unit % per_row * kQuantizeColumns;
        kernels_->quantize(x + row * stride + first, std::min(kQuantizeColumns, columns - first),
                           quantized + row * x_blocks_ + first / kBlock);
    }
}

void Model::look_ahead(Progress& at, std::initializer_list<const Matrix*> weights, bool side_by_side,
                       int n_rows) const {
    at.ahead.clear();
    if (n_rows == 0 || n_rows >= kDynamicRows) return;
    int n_tiles = 0, index = 0;
    for (const Matrix* weight : weights) n_tiles += side_by_side ? 0 : weight->n_tiles();
    size_t left = Ahead::kBytes;
    for (const Matrix* weight : weights) {
        const int n = weight->n_tiles();
        const Range all = share(side_by_side ? n : n_tiles, at.thread, pool_.size());
        const Range own = {std::max(all.begin - index, 0), std::min(all.end - index, n)};
        if (own.begin < own.end) {
            const size_t most = side_by_side ? Ahead::kBytes / weights.size() : left;
            const bool floats = is_float(*weight);
            const int at_once = tiles_of_call(*kernels_, floats, rows_of_call(*kernels_, floats, n_rows));
            const int places = own.size() >= at_once ? at_once : 1, tiles = own.size() / places;
            const size_t bytes =
                std::min(most / static_cast<size_t>(places), static_cast<size_t>(weight->stride(tiles)));
            for (int i = 0; i < places; ++i) at.ahead.add(weight->tile(own.begin + i * tiles), bytes);
            left -= std::min(left, bytes * static_cast<size_t>(places));
        }
        if (!side_by_side) index += n;
    }
}

void Model::rotate_and_cache(int thread, int layer, const Step& step) {
    for (const Rows* rows : {&exact_, &prompts_}) rotate_rows(rows->own(thread), layer, step);
}

// Successive tokens, which share the lines of a block's keys.
void Model::rotate_rows(Range rows, int layer, const Step& step) {
    const KvLayer kv = layer_cache(layer);
    const float query_scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(shape_.head_dim)));
    for (int t = rows.begin; t < rows.end; ++t) {
        const float *cos = cos_T_.data() + t * shape_.head_dim, *sin = sin_T_.data() + t * shape_.head_dim;
        float* q = q_T_.data() + static_cast<ptrdiff_t>(t) * shape_.n_heads * shape_.head_dim;
        float* k = k_T_.data() + static_cast<ptrdiff_t>(t) * shape_.n_kv_heads * shape_.head_dim;
        const float* v = v_T_.data() + static_cast<ptrdiff_t>(t) * shape_.n_kv_heads * shape_.head_dim;
        kernels_->rope(q, cos, sin, shape_.n_heads, shape_.head_dim, query_scale);
        kernels_->rope(k, cos, sin, shape_.n_kv_heads, shape_.head_dim, 1.0f);
        if (kv.type == KvType::Q8_0) {
            kernels_->mix(q, shape_.n_heads, shape_.head_dim);
            kernels_->mix(k, shape_.n_kv_heads, shape_.head_dim);
        }
        const int position = position_T_[static_cast<size_t>(t)];
        const ptrdiff_t table = static_cast<ptrdiff_t>(sequence_T_[static_cast<size_t>(t)]) * step.table_width;
        kernels_->write_kv(kv, step.blocks_SB[table + position / kLanes], position % kLanes, k, v);
    }
}

// What the job that a thread probably takes next begins with.
AttendNext Model::after(int taken, const Step& step) const {
    if (taken >= static_cast<int>(jobs_.size())) return {};
    const AttentionJob& job = jobs_[jobs_.size() - 1 - static_cast<size_t>(taken)];
    return AttendNext::chunk(step.blocks_SB + static_cast<ptrdiff_t>(job.sequence) * step.table_width, job.kv_head,
                             job.chunk_begin, position_T_[static_cast<size_t>(job.token)] + job.n_tokens);
}

void Model::attend(Progress& at, int layer, const Step& step) {
    const int group = shape_.n_heads / shape_.n_kv_heads, query = shape_.n_heads * shape_.head_dim;
    const ptrdiff_t slot = (shape_.head_dim + kLanes - 1) / kLanes * kLanes + 2, att_stride = (query + 3) / 4 * 4;
    float* scratch = reinterpret_cast<float*>(thread_scratch_[static_cast<size_t>(at.thread)].data());
    std::atomic<int>& next = *next_counters(at);
    // Later tiles see more positions: the costly jobs come first, so that the threads finish together.
    for (int taken = next++; taken < static_cast<int>(jobs_.size()); taken = next++) {
        const AttentionJob& job = jobs_[jobs_.size() - 1 - static_cast<size_t>(taken)];
        Attend a;
        a.kv = layer_cache(layer);
        a.table = step.blocks_SB + static_cast<ptrdiff_t>(job.sequence) * step.table_width;
        a.kv_head = job.kv_head;
        a.group = group;
        a.q = q_T_.data() + static_cast<ptrdiff_t>(job.token) * query + job.kv_head * group * shape_.head_dim;
        a.q_stride = query;
        a.position = position_T_[static_cast<size_t>(job.token)];
        a.n_tokens = job.n_tokens;
        a.chunk_begin = job.chunk_begin;
        a.chunk_end = job.chunk_end;
        a.scratch = scratch;
        a.partial = partials_.data() + job.partial;
        a.next = after(taken + pool_.size(), step);
        (job.token >= unit_attends_ ? kernels_->unit->attend : kernels_->attend)(a);
        if (job.split) continue;
        for (int i = 0; i < job.n_tokens * group; ++i) {
            float* out = att_T_.data() + (job.token + i / group) * att_stride +
                         (job.kv_head * group + i % group) * shape_.head_dim;
            kernels_->finish(a.partial + i * slot, shape_.head_dim, out);
        }
    }
}

// Merges the chunks of split sequences, in order, into the partial of their first chunk.
void Model::collect(int thread) {
    const int group = shape_.n_heads / shape_.n_kv_heads, head_pad = (shape_.head_dim + kLanes - 1) / kLanes * kLanes;
    const ptrdiff_t slot = head_pad + 2, att_stride = (shape_.n_heads * shape_.head_dim + 3) / 4 * 4;
    for (const SplitSequence& s : splits_) {
        const int rows = s.n_tokens * group, chunks = (s.position + s.n_tokens + kChunk - 1) / kChunk;
        for (int unit = thread; unit < shape_.n_kv_heads * rows; unit += pool_.size()) {
            const int kv_head = unit / rows, row = unit % rows, token = row / group;
            const int seen = (s.position + token) / kChunk + 1;  // chunks this token looks into
            float* first =
                partials_.data() + s.partial + (static_cast<ptrdiff_t>(kv_head) * chunks * rows + row) * slot;
            for (int c = 1; c < seen; ++c) kernels_->merge(first, first + c * rows * slot, head_pad);
            float* out =
                att_T_.data() + (s.token + token) * att_stride + (kv_head * group + row % group) * shape_.head_dim;
            kernels_->finish(first, shape_.head_dim, out);
        }
    }
}

}  // namespace codellama
