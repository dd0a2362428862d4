// The layout of the KV cache by type: how many bytes a block takes, and what the types are called.

#pragma once

#include <string>

#include "kernels.h"

namespace codellama {

// "f16" or "q8_0". Throws std::invalid_argument for other names.
KvType kv_type_of(const std::string& name);
const char* kv_type_name(KvType type);

// The layout of a layer of so many blocks; its memory is still to be given.
KvLayer kv_layout(KvType type, int n_kv_heads, int head_dim, size_t n_blocks);

// Bytes of all keys, or all values, of a layer.
size_t key_layer_bytes(const KvLayer& kv);
size_t value_layer_bytes(const KvLayer& kv);

}  // namespace codellama
