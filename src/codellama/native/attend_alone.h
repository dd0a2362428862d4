// The attention without a model, for the tests: keys and values into a cache of its own, then queries against it.

#pragma once

#include "kernels.h"

namespace codellama {

struct AttentionShape {
    KvType kv_type;
    int n_heads, n_kv_heads, head_dim;
    int n_tokens;     // T, the last of
    int n_positions;  // S
};

// q and out [T, n_heads, head_dim], k and v [S, n_kv_heads, head_dim]; `table` places the blocks. Queries are used as
// they are, not divided by √head_dim.
void attend_alone(const Kernels& kernels, bool on_unit, const AttentionShape& shape, const float* q, const float* k,
                  const float* v, const int32_t* table, float* out);

}  // namespace codellama
