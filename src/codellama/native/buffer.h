// Owned memory for weights, caches and scratch.

#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace codellama {

// Memory for weights and caches: 64-byte aligned, zeroed, taken from the system as it is touched, large pages where the
// system grants them on request.
class Buffer {
   public:
    Buffer() = default;
    explicit Buffer(size_t bytes);
    Buffer(Buffer&& other) noexcept;
    Buffer& operator=(Buffer&& other) noexcept;
    ~Buffer();
    uint8_t* data() { return data_; }
    const uint8_t* data() const { return data_; }
    size_t size() const { return size_; }

   private:
    friend class Arena;
    void* allocation_ = nullptr;
    uint8_t* data_ = nullptr;
    size_t size_ = 0;
};

// Buffers cut from large pieces, and valid as long as the arena: a small model's 210 matrices, of half a megabyte each,
// fill 2 MB pages then, and 17,000 page faults less cost half of packing them. Not for several threads at once.
class Arena {
   public:
    Buffer take(size_t bytes);

   private:
    std::vector<Buffer> pieces_;
    size_t used_ = 0;  // of the last piece
};

}  // namespace codellama
