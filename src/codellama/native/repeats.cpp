#include "repeats.h"

#include <algorithm>
#include <vector>

namespace codellama {
namespace {

// For every k, how many of the last tokens equal those that end k before the end (the Z function of the text read
// backwards; Gusfield, "Algorithms on Strings, Trees, and Sequences", 1.4), at most `limit`.
std::vector<int> matches(const int32_t* tokens, int n, int limit) {
    const auto back = [&](int i) { return tokens[n - 1 - i]; };
    std::vector<int> length(static_cast<size_t>(n), 0);
    // [left, right) is the match that reaches furthest.
    for (int k = 1, left = 0, right = 0; k < n; ++k) {
        int same = k < right ? std::min(length[k - left], right - k) : 0;
        while (same < limit && k + same < n && back(same) == back(k + same)) ++same;
        length[k] = same;
        if (k + same > right) left = k, right = k + same;
    }
    return length;
}

}  // namespace

std::vector<Repeat> find_repeats(const int32_t* tokens, int n, int least, const int32_t* breakers, int n_breakers) {
    const auto breaks = [&](int32_t token) { return std::binary_search(breakers, breakers + n_breakers, token); };
    std::vector<Repeat> found;
    int limit = 0;
    while (limit < n && !breaks(tokens[n - 1 - limit])) ++limit;
    if (limit < least) return found;
    const std::vector<int> length = matches(tokens, n, limit);
    for (int k = 1; k < n; ++k) {
        const int32_t token = tokens[n - k];
        if (length[k] >= least && !breaks(token)) found.push_back({token, length[k]});
    }
    std::sort(found.begin(), found.end(), [](const Repeat& a, const Repeat& b) {
        return a.token != b.token ? a.token < b.token : a.length > b.length;
    });
    const auto same = [](const Repeat& a, const Repeat& b) { return a.token == b.token; };
    found.erase(std::unique(found.begin(), found.end(), same), found.end());
    return found;
}

}  // namespace codellama
