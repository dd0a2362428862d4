// Which rows of a step a thread keeps to.
//
// Many rows are cut into parts of consecutive rows. A thread normalises, quantizes, multiplies and rotates rows of its
// own part before it helps with another, so that activations stay in its second-level cache: two threads that shared
// all rows spent a quarter of a prompt of SmolLM2 on fetching them from one another. In return every part reads, and
// on a matrix unit dequantizes, all weights. Arithmetic only; knows no rows' contents and starts no threads.

#pragma once

#include <algorithm>
#include <cstdint>

namespace codellama {

struct Range {
    int begin = 0, end = 0;

    int size() const { return end - begin; }
};

// The i-th of n_shares nearly equal shares of n.
inline Range share(int n, int i, int n_shares) {
    return {static_cast<int>(int64_t{n} * i / n_shares), static_cast<int>(int64_t{n} * (i + 1) / n_shares)};
}

// Rows [first, first + size) of a step, for n_threads >= n_parts threads.
struct Rows {
    int first = 0, size = 0, n_parts = 1, n_threads = 1;

    static constexpr int kStep = 32;  // parts begin at multiples of it: whole pairs of a matrix unit's tiles

    // As many parts as have `fewest` rows each.
    static Rows cut(int first, int size, int fewest, int n_threads) {
        return {first, size, std::clamp(size / fewest, 1, n_threads), n_threads};
    }

    int end() const { return first + size; }
    int part_of(int thread) const { return static_cast<int>(int64_t{thread} * n_parts / n_threads); }
    Range part(int i) const {
        const Range steps = share((size + kStep - 1) / kStep, i, n_parts);
        return {first + std::min(size, steps.begin * kStep), first + std::min(size, steps.end * kStep)};
    }
    // The thread's share of its part; those of all threads are all rows, each once. A single row is the first thread's,
    // which is awake when a step begins.
    Range own(int thread) const {
        const int i = part_of(thread);
        const int begin = (i * n_threads + n_parts - 1) / n_parts, end = ((i + 1) * n_threads + n_parts - 1) / n_parts;
        const Range all = part(i), mine = share(all.size(), end - 1 - thread, end - begin);
        return {all.end - mine.end, all.end - mine.begin};
    }
};

}  // namespace codellama
