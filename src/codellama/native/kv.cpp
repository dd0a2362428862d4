#include "kv.h"

#include <stdexcept>

namespace codellama {
namespace {

// One head's block of keys or values, `width` numbers a position.
size_t part_bytes(KvType type, int width) {
    const size_t numbers = static_cast<size_t>(width * kLanes);
    return type == KvType::F16 ? numbers * sizeof(uint16_t) : numbers + kLanes * sizeof(float);
}

}  // namespace

KvType kv_type_of(const std::string& name) {
    if (name == "f16") return KvType::F16;
    if (name == "q8_0") return KvType::Q8_0;
    throw std::invalid_argument("the KV cache is f16 or q8_0, not '" + name + "'");
}

const char* kv_type_name(KvType type) { return type == KvType::F16 ? "f16" : "q8_0"; }

KvLayer kv_layout(KvType type, int n_layers, int n_kv_heads, int head_dim) {
    const int head_pad = (head_dim + kLanes - 1) / kLanes * kLanes;
    const size_t key = part_bytes(type, head_dim), value = part_bytes(type, head_pad);
    const size_t heads = static_cast<size_t>(n_layers) * static_cast<size_t>(n_kv_heads);
    const size_t segment = heads * kSegmentBlocks * (key + value);
    return {nullptr, nullptr, type, key, value, segment, n_kv_heads, head_dim, head_pad};
}

size_t kv_bytes(const KvLayer& kv, size_t n_blocks) {
    return (n_blocks + kSegmentBlocks - 1) / kSegmentBlocks * kv.segment_stride;
}

KvLayer kv_layer(KvLayer kv, uint8_t* memory, int layer) {
    const size_t heads = static_cast<size_t>(kv.n_kv_heads * kSegmentBlocks);
    kv.keys = memory + static_cast<size_t>(layer) * heads * (kv.key_bytes + kv.value_bytes);
    kv.values = kv.keys + heads * kv.key_bytes;
    return kv;
}

}  // namespace codellama
