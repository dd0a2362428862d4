// What a step's rows do and in which shares: by vectors or by a matrix unit, in parts, in jobs of attention; and which
// of them the last layer goes on with. Arithmetic only. See forward.cpp for the order of phases.

#include <algorithm>

#include "forward.h"

namespace codellama {
namespace {

// Fewest rows of a part of those that run on vectors.
constexpr int kPartRows = 128;

}  // namespace

void Model::prepare(const Step& step) {
    reserve(step.n_tokens);
    segments_.clear();
    for (int s = 0; s < step.n_sequences; ++s) {
        segments_.push_back({s, step.starts_S1[s], step.starts_S1[s + 1] - step.starts_S1[s], step.past_S[s]});
        for (int t = step.starts_S1[s]; t < step.starts_S1[s + 1]; ++t) {
            sequence_T_[static_cast<size_t>(t)] = s;
            position_T_[static_cast<size_t>(t)] = step.past_S[s] + t - step.starts_S1[s];
        }
    }
    plan(step.n_tokens, step.n_exact);
    n_parts_ = std::max(exact_.n_parts, prompts_.n_parts);
    counters_ = std::make_unique<std::atomic<int>[]>(static_cast<size_t>((9 * shape_.n_layers + 2) * n_parts_));
    wanted_R_.assign(step.rows_R, step.rows_R + step.n_rows);
    kept_ = wanted_R_;
    std::sort(kept_.begin(), kept_.end());
    kept_.erase(std::unique(kept_.begin(), kept_.end()), kept_.end());
    narrows_ = 2 * static_cast<int>(kept_.size()) <= step.n_tokens;
}

// In the last layer, once all keys and values are in the cache, rows whose logits nobody wants are left behind: of a
// prompt of 512 all but one, a thirtieth of SmolLM2's work.
void Model::narrow(const Step& step) {
    const auto keep = [&](auto& rows, int columns) {
        for (size_t i = 0; i < kept_.size(); ++i) {
            std::copy_n(rows.begin() + ptrdiff_t{kept_[i]} * columns, columns,
                        rows.begin() + static_cast<ptrdiff_t>(i) * columns);
        }
    };
    keep(x_TD_, shape_.dim);
    keep(q_T_, shape_.n_heads * shape_.head_dim);
    keep(sequence_T_, 1);
    keep(position_T_, 1);
    segments_.clear();
    for (int i = 0; i < static_cast<int>(kept_.size()); ++i) {
        const int sequence = sequence_T_[static_cast<size_t>(i)], position = position_T_[static_cast<size_t>(i)];
        if (!segments_.empty() && segments_.back().continues(sequence, position)) ++segments_.back().n;
        else segments_.push_back({sequence, i, 1, position});
    }
    const auto place = [&](int row) {
        return static_cast<int>(std::lower_bound(kept_.begin(), kept_.end(), row) - kept_.begin());
    };
    for (int32_t& row : wanted_R_) row = place(row);
    plan(static_cast<int>(kept_.size()), place(step.n_exact));
}

// The first n_exact of n_rows rows are not a prompt's.
void Model::plan(int n_rows, int n_exact) {
    const int on_vectors = prompts_on_unit_ ? n_exact : n_rows;
    unit_attends_ = attention_on_unit_ ? n_exact : n_rows;
    exact_ = Rows::cut(0, on_vectors, kPartRows, pool_.size());
    prompts_ = Rows::cut(on_vectors, n_rows - on_vectors, fewest_prompt_rows(shape_.dim), pool_.size());
    plan_attention();
}

// Jobs of (sequence, kv head, tile of tokens). Where these are too few to keep the threads busy, each chunk of the past
// becomes a job of its own; collect() then merges them in the order in which one job would have.
void Model::plan_attention() {
    jobs_.clear();
    splits_.clear();
    const int group = shape_.n_heads / shape_.n_kv_heads;
    const auto tile_of = [&](const Segment& s) {
        return std::max(1, (s.first >= unit_attends_ ? kUnitAttendRows : kAttendRows) / group);
    };
    const ptrdiff_t slot = kv_.head_pad + 2;
    int whole_jobs = 0;
    for (const Segment& s : segments_) whole_jobs += (s.n + tile_of(s) - 1) / tile_of(s) * shape_.n_kv_heads;
    const bool scarce = whole_jobs < 8 * pool_.size();
    ptrdiff_t used = 0;
    for (const Segment& s : segments_) {
        const int n = s.n, tile = tile_of(s), chunks = (s.past + n + kChunk - 1) / kChunk;
        const bool split = scarce && n <= tile && chunks > 1;
        if (split) splits_.push_back({s.first, n, s.past, used});
        for (int h = 0; h < shape_.n_kv_heads; ++h) {
            for (int t = 0; t < n; t += tile) {
                const int m = std::min(tile, n - t);
                const int end = (s.past + t + m + kChunk - 1) / kChunk;
                for (int c = 0; c < end; c += split ? 1 : end) {
                    jobs_.push_back({s.sequence, h, s.first + t, m, c, split ? c + 1 : end, used, split});
                    used += slot * m * group;
                }
            }
        }
    }
    if (partials_.size() < static_cast<size_t>(used)) partials_.resize(static_cast<size_t>(used));
}

}  // namespace codellama
