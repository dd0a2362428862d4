// The layout of the KV cache by type: how many bytes a block takes, and what the types are called.

#pragma once

#include <string>

#include "kernels.h"

namespace codellama {

// "f16" or "q8_0". Throws std::invalid_argument for other names.
KvType kv_type_of(const std::string& name);
const char* kv_type_name(KvType type);

// A layer's layout; its memory is still to be given.
KvLayer kv_layout(KvType type, int n_kv_heads, int head_dim);

// Bytes of one block of all heads.
size_t key_block_bytes(const KvLayer& kv);
size_t value_block_bytes(const KvLayer& kv);

}  // namespace codellama
