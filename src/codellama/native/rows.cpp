#include "rows.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

// One body, compiled for what the processor may have; the compiler turns lanes into vectors.
#if defined(__x86_64__) && defined(__GNUC__)
#define CODELLAMA_ROWS_X86
#include <immintrin.h>
#define INLINE inline __attribute__((always_inline))
#else
#define INLINE inline
#endif

namespace codellama {
namespace {

constexpr int kLanes = 16, kRowChunk = 64;
constexpr float kLight = 1e-3f;

// 2^x for x ≤ 0, 0 below 2^-125: 2^n · p(f) with |f| ≤ ½, p of degree 5 with p(0) = 1 and a relative error of 1e-7.
INLINE float exp2_negative(float x) {
    constexpr float kRound = 12582912.0f;  // 1.5 · 2^23: adding it leaves the nearest integer in the lowest bits
    const float clamped = x < -125.0f ? -125.0f : x;
    const float shifted = clamped + kRound;
    const float f = clamped - (shifted - kRound);
    float p = 1.326472845e-03f;
    p = p * f + 9.671512701e-03f;
    p = p * f + 5.550733739e-02f;
    p = p * f + 2.402224208e-01f;
    p = p * f + 6.931469776e-01f;
    p = p * f + 1.0f;
    uint32_t bits, n;
    std::memcpy(&bits, &p, sizeof bits);
    std::memcpy(&n, &shifted, sizeof n);
    bits += n << 23;
    std::memcpy(&p, &bits, sizeof p);
    return x < -125.0f ? 0.0f : p;
}

INLINE void weigh_body(const float* __restrict logits, int n, float peak, float scale, float* __restrict weights,
                       double* sums) {
    const float log2_scale = scale * 1.44269504f;
    const int whole = n / kRowChunk * kRowChunk;
    for (int at = 0; at < whole; at += kRowChunk) {
        for (int i = at; i < at + kRowChunk; ++i) weights[i] = exp2_negative((logits[i] - peak) * log2_scale);
        float lanes[kLanes] = {};
        for (int i = at; i < at + kRowChunk; i += kLanes) {
            for (int l = 0; l < kLanes; ++l) lanes[l] += weights[i + l];
        }
        double sum = 0;
        for (float lane : lanes) sum += lane;
        sums[at / kRowChunk] = sum;
    }
    if (whole == n) return;
    double sum = 0;
    for (int i = whole; i < n; ++i) sum += weights[i] = exp2_negative((logits[i] - peak) * log2_scale);
    sums[whole / kRowChunk] = sum;
}

// The largest value of each whole chunk.
INLINE void maxima_body(const float* __restrict values, int n_chunks, float* __restrict maxima) {
    for (int c = 0; c < n_chunks; ++c) {
        const float* chunk = values + static_cast<ptrdiff_t>(c) * kRowChunk;
        float lanes[kLanes];
        for (int l = 0; l < kLanes; ++l) {
            const float a = chunk[l] < chunk[l + 16] ? chunk[l + 16] : chunk[l];
            const float b = chunk[l + 32] < chunk[l + 48] ? chunk[l + 48] : chunk[l + 32];
            lanes[l] = a < b ? b : a;
        }
        float best = lanes[0];
        for (float lane : lanes) best = best < lane ? lane : best;
        maxima[c] = best;
    }
}

// The ids of values ≥ bound, rising. Most chunks have none.
INLINE int at_least_body(const float* __restrict values, int n, float bound, int32_t* __restrict ids) {
    int count = 0;
    const int whole = n / kLanes * kLanes;
    for (int at = 0; at < whole; at += kLanes) {
        int32_t any = 0;
        for (int l = 0; l < kLanes; ++l) any |= values[at + l] >= bound ? 1 : 0;
        if (any == 0) continue;
        for (int i = at; i < at + kLanes; ++i) {
            ids[count] = i;
            count += values[i] >= bound ? 1 : 0;
        }
    }
    for (int i = whole; i < n; ++i) {
        if (values[i] >= bound) ids[count++] = i;
    }
    return count;
}

#if defined(CODELLAMA_ROWS_X86)
// As at_least_body. Never stores beyond at + 16, since no more ids than values have been seen.
__attribute__((target("avx512f"))) int at_least_avx512(const float* values, int n, float bound, int32_t* ids) {
    const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512 least = _mm512_set1_ps(bound);
    int count = 0, at = 0;
    for (; at + kLanes <= n; at += kLanes) {
        const __mmask16 found = _mm512_cmp_ps_mask(_mm512_loadu_ps(values + at), least, _CMP_GE_OQ);
        if (found == 0) continue;
        const __m512i each = _mm512_add_epi32(_mm512_set1_epi32(at), lanes);
        _mm512_storeu_si512(ids + count, _mm512_maskz_compress_epi32(found, each));
        count += __builtin_popcount(found);
    }
    for (; at < n; ++at) {
        if (values[at] >= bound) ids[count++] = at;
    }
    return count;
}
#endif

struct Passes {
    void (*weigh)(const float*, int, float, float, float*, double*);
    void (*maxima)(const float*, int, float*);
    int (*at_least)(const float*, int, float, int32_t*);
};

#define CODELLAMA_ROWS(name, attributes)                                                                   \
    attributes void weigh_##name(const float* x, int n, float peak, float scale, float* w, double* sums) { \
        weigh_body(x, n, peak, scale, w, sums);                                                            \
    }                                                                                                      \
    attributes void maxima_##name(const float* x, int n, float* maxima) { maxima_body(x, n, maxima); }

CODELLAMA_ROWS(plain, )
int at_least_plain(const float* values, int n, float bound, int32_t* ids) {
    return at_least_body(values, n, bound, ids);
}
constexpr Passes k_plain = {weigh_plain, maxima_plain, at_least_plain};
#if defined(CODELLAMA_ROWS_X86)
CODELLAMA_ROWS(avx2, __attribute__((target("avx2"))))
CODELLAMA_ROWS(avx512, __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,prefer-vector-width=512"))))
__attribute__((target("avx2"))) int at_least_avx2(const float* values, int n, float bound, int32_t* ids) {
    return at_least_body(values, n, bound, ids);
}
constexpr Passes k_avx2 = {weigh_avx2, maxima_avx2, at_least_avx2};
constexpr Passes k_avx512 = {weigh_avx512, maxima_avx512, at_least_avx512};
#endif
#undef CODELLAMA_ROWS

const Passes& passes() {
#if defined(CODELLAMA_ROWS_X86)
    static const Passes& best = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                                        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq")
                                    ? k_avx512
                                : __builtin_cpu_supports("avx2") ? k_avx2
                                                                 : k_plain;
    return best;
#else
    return k_plain;
#endif
}

// A row's weights and the sums of its chunks, in memory that each thread keeps.
struct Weights {
    std::vector<float> each;
    std::vector<double> sums;
    double total = 0;
};

const Weights& weigh(const float* logits, int n, float peak, float temperature) {
    thread_local Weights w;
    w.each.resize(static_cast<size_t>(n));
    w.sums.resize(static_cast<size_t>((n + kRowChunk - 1) / kRowChunk));
    passes().weigh(logits, n, peak, 1.0f / temperature, w.each.data(), w.sums.data());
    w.total = 0;
    for (double sum : w.sums) w.total += sum;
    return w;
}

// A weight's power of two: 127 for those in [1, 2), 0 for 0.
int exponent(float weight) {
    uint32_t bits;
    std::memcpy(&bits, &weight, sizeof bits);
    return static_cast<int>(std::min<uint32_t>(bits >> 23, 127));
}

// The k largest maxima of chunks bound the k-th largest value from below: few ids are left to sort.
struct Maxima {
    std::vector<float> each;  // of whole chunks
    float peak = -INFINITY;   // of all
};

Maxima find_maxima(const float* values, int n) {
    Maxima found;
    found.each.resize(static_cast<size_t>(n / kRowChunk));
    passes().maxima(values, n / kRowChunk, found.each.data());
    for (float each : found.each) found.peak = std::max(found.peak, each);
    for (int i = n / kRowChunk * kRowChunk; i < n; ++i) found.peak = std::max(found.peak, values[i]);
    return found;
}

// k ≤ n. The maxima are left in another order.
void top_below(const float* values, int n, int k, Maxima& maxima, int32_t* ids) {
    thread_local std::vector<int32_t> found;
    found.resize(static_cast<size_t>(n));
    float bound = -INFINITY;
    if (k < static_cast<int>(maxima.each.size())) {
        const auto last = maxima.each.begin() + k - 1;
        std::nth_element(maxima.each.begin(), last, maxima.each.end(), std::greater<>());
        bound = *last;
    }
    const int count = passes().at_least(values, n, bound, found.data());
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
    const int begin = static_cast<int>(chunk) * kRowChunk, end = std::min(n, begin + kRowChunk);
    for (int i = begin; i < end; ++i) {
        before += w.each[static_cast<size_t>(i)];
        if (before > point && w.each[static_cast<size_t>(i)] > 0) return i;
    }
    // Rounding left none above the point: the last one up to here that weighs anything is meant.
    int last = end - 1;
    while (last > 0 && w.each[static_cast<size_t>(last)] == 0) --last;
    return last;
}

double log_sum_exp(const float* logits, int n, int k, int32_t* ids) {
    Maxima maxima = find_maxima(logits, n);
    const float peak = maxima.peak;
    if (k > 0) top_below(logits, n, k, maxima, ids);
    return static_cast<double>(peak) + std::log(weigh(logits, n, peak, 1.0f).total);
}

int top(const float* values, int n, int k, int32_t* ids) {
    Maxima maxima = find_maxima(values, n);
    k = std::min(k, n);
    top_below(values, n, k, maxima, ids);
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
    const Weights& w = weigh(logits, n, peak, temperature);
    const float* each = w.each.data();
    const double mass = top_p < 1 ? top_p * w.total : INFINITY;
    // Tokens below (total − mass) / n weigh less, all together, than what may be left out: the others hold the mass.
    // Most often far fewer do, and those below a thousandth of the likeliest one need not be looked at.
    const float spare = top_p < 1 ? static_cast<float>((w.total - mass) / n * (1 - 1e-6)) : 0.0f;
    int count = 0;
    for (const float bound : {std::max(spare, kLight), spare}) {
        count = passes().at_least(each, n, std::max(min_p, bound), ids);
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
