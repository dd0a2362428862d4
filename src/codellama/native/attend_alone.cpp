#include "attend_alone.h"

#include <algorithm>
#include <stdexcept>
#include <vector>

#include "buffer.h"
#include "kv.h"

namespace codellama {
namespace {

void fill(const Kernels& kernels, const KvLayer& kv, const AttentionShape& s, std::vector<float> k, const float* v,
          const int32_t* table) {
    if (kv.type == KvType::Q8_0) kernels.mix(k.data(), s.n_positions * s.n_kv_heads, s.head_dim);
    const ptrdiff_t row = s.n_kv_heads * s.head_dim;
    for (int j = 0; j < s.n_positions; ++j) {
        kernels.write_kv(kv, table[j / kLanes], j % kLanes, k.data() + j * row, v + j * row);
    }
}

}  // namespace

void attend_alone(const Kernels& kernels, bool on_unit, const AttentionShape& s, const float* q, const float* k,
                  const float* v, const int32_t* table, float* out) {
    const int width = (s.n_positions + kLanes - 1) / kLanes;
    if (s.head_dim <= 0 || s.head_dim > kMaxHeadPad || *std::min_element(table, table + width) < 0) {
        throw std::invalid_argument("a head or a block that cannot be");
    }
    const size_t n_blocks = static_cast<size_t>(*std::max_element(table, table + width)) + 1;
    const KvLayer layout = kv_layout(s.kv_type, 1, s.n_kv_heads, s.head_dim);
    Buffer memory(kv_bytes(layout, n_blocks));
    const KvLayer kv = kv_layer(layout, memory.data(), 0);
    fill(kernels, kv, s, {k, k + static_cast<ptrdiff_t>(s.n_positions) * s.n_kv_heads * s.head_dim}, v, table);

    const int group = s.n_heads / s.n_kv_heads, query = s.n_heads * s.head_dim, stride = kv.head_pad + 2;
    std::vector<float> mixed(q, q + static_cast<ptrdiff_t>(s.n_tokens) * query);
    if (kv.type == KvType::Q8_0) kernels.mix(mixed.data(), s.n_tokens * s.n_heads, s.head_dim);
    std::vector<float> partial(static_cast<size_t>(s.n_tokens * group * stride));
    Buffer scratch(std::max(on_unit ? kernels.unit->attend_scratch : 0, kAttendScratch * sizeof(float)));
    if (on_unit) kernels.unit->begin();
    for (int head = 0; head < s.n_kv_heads; ++head) {
        const Attend job{kv,
                         table,
                         head,
                         group,
                         mixed.data() + head * group * s.head_dim,
                         query,
                         s.n_positions - s.n_tokens,
                         s.n_tokens,
                         0,
                         (s.n_positions + kChunk - 1) / kChunk,
                         reinterpret_cast<float*>(scratch.data()),
                         partial.data()};
        (on_unit ? kernels.unit->attend : kernels.attend)(job);
        for (int row = 0; row < s.n_tokens * group; ++row) {
            kernels.finish(
                partial.data() + row * stride, s.head_dim,
                out + static_cast<ptrdiff_t>(row / group) * query + (head * group + row % group) * s.head_dim);
        }
    }
    if (on_unit) kernels.unit->end();
}

}  // namespace codellama
