// The layout of the KV cache by type: how many bytes a block takes, and what the types are called.

#pragma once

#include <string>

#include "kernels.h"

namespace codellama {

// "f16" or "q8_0". Throws std::invalid_argument for other names.
KvType kv_type_of(const std::string& name);
const char* kv_type_name(KvType type);

// The layout of a layer among so many; its memory is still to be given.
KvLayer kv_layout(KvType type, int n_layers, int n_kv_heads, int head_dim);

// Bytes that hold so many blocks of all layers.
size_t kv_bytes(const KvLayer& kv, size_t n_blocks);

// A layer's keys and values in that memory.
KvLayer kv_layer(KvLayer kv, uint8_t* memory, int layer);

}  // namespace codellama
