// Owned memory for weights, caches and scratch.

#pragma once

#include <cstddef>
#include <cstdint>

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
    void* allocation_ = nullptr;
    uint8_t* data_ = nullptr;
    size_t size_ = 0;
};

}  // namespace codellama
