#include "rows.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <functional>
#include <vector>

#include "dispatch.h"
#include "kernels.h"

namespace codellama {
namespace {

constexpr float kLight = 1e-3f;

const Kernels& best_kernels() {
    static const Kernels& best = *choose_kernels("");
    return best;
}

// The row's last chunk, where it is not whole, with −∞ in the place of what it lacks.
struct LastChunk {
    float values[kRowChunk];

    LastChunk(const float* row, int n) {
        std::fill_n(values, kRowChunk, -INFINITY);
        std::copy(row + n / kRowChunk * kRowChunk, row + n, values);
    }
};

// What tokens weigh, summed by chunks, in memory that each thread keeps.
struct Weights {
    float peak = 0, scale = 1;
    std::vector<float> sums;
    double total = 0;
};

// `each` gets the weights where it is not null.
const Weights& weigh(const float* logits, int n, float peak, float temperature, float* each = nullptr) {
    thread_local Weights w;
    const int whole = n / kRowChunk;
    w.peak = peak;
    w.scale = 1.0f / temperature;
    w.sums.resize(static_cast<size_t>((n + kRowChunk - 1) / kRowChunk));
    best_kernels().weigh(logits, whole, peak, w.scale, each, w.sums.data());
    if (whole * kRowChunk < n) {
        LastChunk last(logits, n);
        best_kernels().weigh(last.values, 1, peak, w.scale, last.values, &w.sums.back());
        if (each != nullptr) std::copy_n(last.values, n - whole * kRowChunk, each + whole * kRowChunk);
    }
    w.total = 0;
    for (float sum : w.sums) w.total += sum;
    return w;
}

// The largest values of a row's chunks, the last of which may be short.
struct Maxima {
    std::vector<float> each;
    float peak = -INFINITY;  // of all
};

const Maxima& find_maxima(const float* values, int n) {
    thread_local Maxima found;
    const int whole = n / kRowChunk;
    found.each.resize(static_cast<size_t>((n + kRowChunk - 1) / kRowChunk));
    best_kernels().chunk_maxima(values, whole, found.each.data());
    if (whole * kRowChunk < n) best_kernels().chunk_maxima(LastChunk(values, n).values, 1, &found.each.back());
    found.peak = *std::max_element(found.each.begin(), found.each.end());
    return found;
}

// The ids of values ≥ bound, rising, of a row none of whose chunks has one above its limit.
int at_least(const float* values, int n, float bound, const std::vector<float>& limits, int32_t* ids) {
    int count = 0;
    for (int begin = 0, c = 0; begin < n; begin += kRowChunk, ++c) {
        if (limits[static_cast<size_t>(c)] < bound) continue;
        for (int i = begin; i < std::min(n, begin + kRowChunk); ++i) {
            ids[count] = i;
            count += values[i] >= bound ? 1 : 0;
        }
    }
    return count;
}

// A weight's power of two: 127 for those in [1, 2), 0 for 0.
int exponent(float weight) {
    uint32_t bits;
    std::memcpy(&bits, &weight, sizeof bits);
    return static_cast<int>(std::min<uint32_t>(bits >> 23, 127));
}

// k ≤ n. The k largest maxima of chunks bound the k-th largest value from below: few ids are left to sort.
void top_below(const float* values, int n, int k, const Maxima& maxima, int32_t* ids) {
    thread_local std::vector<int32_t> found;
    thread_local std::vector<float> sorted;
    found.resize(static_cast<size_t>(n));
    float bound = -INFINITY;
    if (k < static_cast<int>(maxima.each.size())) {
        sorted = maxima.each;
        const auto last = sorted.begin() + k - 1;
        std::nth_element(sorted.begin(), last, sorted.end(), std::greater<>());
        bound = *last;
    }
    const int count = at_least(values, n, bound, maxima.each, found.data());
    std::partial_sort(found.data(), found.data() + k, found.data() + count, [values](int32_t a, int32_t b) {
        return values[a] > values[b] || (values[a] == values[b] && a < b);
    });
    std::copy_n(found.data(), k, ids);
}

// As `nucleus` for 0 < top_k < n: the likeliest first.
int likeliest(const float* logits, int n, float peak, float temperature, const Cuts& cuts, int32_t* ids,
              float* weights) {
    const int k = top(logits, n, cuts.top_k, ids);
    double total = 0;
    for (int i = 0; i < k; ++i) {
        weights[i] = static_cast<float>(std::exp((static_cast<double>(logits[ids[i]]) - peak) / temperature));
        total += weights[i];
    }
    const double mass = cuts.top_p < 1 ? cuts.top_p * total : INFINITY;
    int count = 0;
    for (double before = 0; count < k && (before < mass || count == 0); ++count) before += weights[count];
    while (count > 0 && weights[count - 1] < cuts.min_p) --count;
    return count;
}

// Among what `nucleus` keeps.
int draw_kept(const float* logits, int n, float peak, float temperature, const Cuts& cuts, double share) {
    thread_local std::vector<int32_t> ids;
    thread_local std::vector<float> weights;
    ids.resize(static_cast<size_t>(n));
    weights.resize(static_cast<size_t>(n));
    const int count = nucleus(logits, n, peak, temperature, cuts, ids.data(), weights.data());
    double total = 0, before = 0;
    for (int i = 0; i < count; ++i) total += weights[static_cast<size_t>(i)];
    int last = 0;
    for (int i = 0; i < count; ++i) {
        const double weight = weights[static_cast<size_t>(i)];
        if (weight > 0) last = i;
        before += weight;
        if (before > share * total && weight > 0) break;
    }
    return ids[static_cast<size_t>(last)];
}

// The place, in a chunk that weighs something, at which its running sums exceed `point`: else its last that weighs.
int draw_of_chunk(const float* logits, int n, int chunk, const Weights& w, double point) {
    const int begin = chunk * kRowChunk, size = std::min(n - begin, kRowChunk);
    float each[kRowChunk], sum;
    const float* values = logits + begin;
    const LastChunk last(logits, n);
    best_kernels().weigh(size < kRowChunk ? last.values : values, 1, w.peak, w.scale, each, &sum);
    int token = 0;
    double before = 0;
    for (int i = 0; i < size; ++i) {
        if (each[i] == 0) continue;
        token = i;
        before += each[i];
        if (before > point) break;
    }
    return token;
}

}  // namespace

int draw(const float* logits, int n, float peak, float temperature, const Cuts& cuts, double share) {
    if (cuts.top_p < 1 || cuts.min_p > 0 || cuts.keeps_top(n)) {
        return draw_kept(logits, n, peak, temperature, cuts, share);
    }
    const Weights& w = weigh(logits, n, peak, temperature);
    const double point = share * w.total;
    double before = 0;
    size_t chunk = 0;
    for (; chunk + 1 < w.sums.size() && before + w.sums[chunk] <= point; ++chunk) before += w.sums[chunk];
    // Rounding left none above the point, or `peak` was not the largest and nothing weighs anything.
    while (chunk > 0 && w.sums[chunk] == 0) before -= w.sums[--chunk];
    return static_cast<int>(chunk) * kRowChunk + draw_of_chunk(logits, n, static_cast<int>(chunk), w, point - before);
}

double log_sum_exp(const float* logits, int n, int k, int32_t* ids) {
    const Maxima& maxima = find_maxima(logits, n);
    if (k > 0) top_below(logits, n, k, maxima, ids);
    return static_cast<double>(maxima.peak) + std::log(weigh(logits, n, maxima.peak, 1.0f).total);
}

int top(const float* values, int n, int k, int32_t* ids) {
    k = std::min(k, n);
    top_below(values, n, k, find_maxima(values, n), ids);
    return k;
}

void penalize(const float* logits, int n, const int32_t* tokens, int n_tokens, const Penalties& penalties, float* out) {
    std::copy_n(logits, n, out);
    std::vector<int32_t> recent(tokens, tokens + n_tokens);
    std::sort(recent.begin(), recent.end());
    for (size_t i = 0, next = 0; i < recent.size(); i = next) {
        while (next < recent.size() && recent[next] == recent[i]) ++next;
        const float logit = logits[recent[i]];
        const float scaled = logit > 0 ? logit / penalties.repetition : logit * penalties.repetition;
        out[recent[i]] = scaled - (static_cast<float>(next - i) * penalties.frequency + penalties.presence);
    }
}

int nucleus(const float* logits, int n, float peak, float temperature, const Cuts& cuts, int32_t* ids, float* weights) {
    if (cuts.keeps_top(n)) return likeliest(logits, n, peak, temperature, cuts, ids, weights);
    const double top_p = cuts.top_p;
    const float min_p = cuts.min_p;
    thread_local std::vector<float> memory;
    memory.resize(static_cast<size_t>(n));
    float* each = memory.data();
    const Weights& w = weigh(logits, n, peak, temperature, each);
    const double mass = top_p < 1 ? top_p * w.total : INFINITY;
    // Tokens below (total − mass) / n weigh less, all together, than what may be left out: the others hold the mass.
    // Most often far fewer do, and those below a thousandth of the likeliest one need not be looked at.
    const float spare = top_p < 1 ? static_cast<float>((w.total - mass) / n * (1 - 1e-6)) : 0.0f;
    int count = 0;
    for (const float bound : {std::max(spare, kLight), spare}) {
        count = at_least(each, n, std::max(min_p, bound), w.sums, ids);
        double found = 0;
        for (int i = 0; i < count; ++i) found += each[ids[i]];
        if (found >= mass || min_p >= bound || bound == spare) break;
    }
    // Masses by power of two tell in which one the sum is reached; only there tokens must be sorted.
    double masses[128] = {};
    for (int i = 0; i < count; ++i) masses[exponent(each[ids[i]])] += each[ids[i]];
    int edge = 127;
    double held = 0;
    for (; edge > 0 && held + masses[edge] < mass; --edge) held += masses[edge];
    std::vector<int32_t> last;
    for (int i = 0; i < count; ++i) {
        if (exponent(each[ids[i]]) == edge) last.push_back(ids[i]);
    }
    std::sort(last.begin(), last.end(),
              [logits](int32_t a, int32_t b) { return logits[a] > logits[b] || (logits[a] == logits[b] && a < b); });
    size_t kept = 0;
    for (; kept < last.size() && (held < mass || (kept == 0 && edge == 127)); ++kept) held += each[last[kept]];
    last.resize(kept);
    std::sort(last.begin(), last.end());
    int out = 0;
    size_t next = 0;
    for (int i = 0; i < count; ++i) {
        const int32_t id = ids[i];
        const bool of_last = next < last.size() && last[next] == id;
        if (of_last) ++next;
        if (!of_last && exponent(each[id]) <= edge) continue;
        ids[out] = id;
        weights[out++] = each[id];
    }
    return out;
}

}  // namespace codellama
