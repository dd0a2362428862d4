// Which tokens would repeat what a text has already said.

#pragma once

#include <cstdint>
#include <vector>

namespace codellama {

struct Repeat {
    int32_t token;
    int32_t length;
};

// The tokens that would continue a repeat, by rising id, each with the longest: `length` ≥ `least` ≥ 0 tokens that end
// the n tokens also stand earlier among them, just before `token`. Neither they nor the token are among `breakers`,
// which must be sorted. Time: n log n at worst.
std::vector<Repeat> find_repeats(const int32_t* tokens, int n, int least, const int32_t* breakers, int n_breakers);

}  // namespace codellama
