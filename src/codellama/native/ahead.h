// What a thread is to read next, fetched into its second-level cache while it waits for others.
//
// A step of few rows is bound by memory, and memory rests while threads meet or share out work that needs no weights.
// Knows addresses only. Nothing breaks where the lines are not read after all, or are evicted before.

#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace codellama {

class Ahead {
   public:
    // Bytes fetched before a product: a quarter of a second-level cache of 1 MB.
    static constexpr size_t kBytes = 256 * 1024;

    void clear() { n_ = 0; }
    // The first bytes of another piece, after those already noted.
    void add(const uint8_t* begin, size_t bytes) {
        if (n_ < kPieces && bytes > 0) pieces_[n_++] = {begin, begin + bytes};
    }
    // Asks for a few lines; false where all are on their way.
    bool fetch() {
        while (n_ > 0 && pieces_[0].at >= pieces_[0].end) {
            std::copy(pieces_ + 1, pieces_ + n_, pieces_);
            --n_;
        }
        if (n_ == 0) return false;
        for (int line = 0; line < kLines; ++line) {
            prefetch(pieces_[0].at);
            pieces_[0].at += 64;
        }
        return true;
    }

   private:
    static constexpr int kPieces = 12;  // of three products, each in four places
    static constexpr int kLines = 4;    // between looks at the barrier
    struct Piece {
        const uint8_t *at, *end;
    };

    static void prefetch(const uint8_t* p) {
#if defined(__x86_64__)
        asm volatile("prefetcht1 %0" ::"m"(*p));  // spelled out: GCC 12 drops functions of nothing but prefetches
#else
        __builtin_prefetch(p, 0, 2);
#endif
    }

    Piece pieces_[kPieces] = {};
    int n_ = 0;
};

}  // namespace codellama
