// Passes over one row of logits, for sampling: what a vocabulary of 49,152 makes too slow in NumPy.
//
// Sums of 64 weights run in 16 lanes, those of sums in double, in an order that no instruction set changes; weights are
// rounded as its multiply-adds are.

#pragma once

#include <cstdint>

namespace codellama {

// All take the largest of the logits (`peak`) and weigh a token exp((logit − peak) / temperature), to a relative error
// of 3e-6 where that is above e^-20, and 0 below 2^-126.5. n ≥ 1, temperature > 0, logits without NaN.

// What is left to draw from: of the top_k likeliest tokens (0, or as many as there are: all), the fewest likeliest that
// hold the share top_p of their weights (1: all), without those that weigh less than min_p.
struct Cuts {
    int top_k;
    double top_p;
    float min_p;

    bool keeps_top(int n) const { return top_k > 0 && top_k < n; }
};

// The token at which running sums of the weights exceed `share`, from [0, 1), of their total, in the order of
// `nucleus`. Never one of weight 0.
int draw(const float* logits, int n, float peak, float temperature, const Cuts& cuts, double share);

// log Σ exp(logits), to an error of 1e-6, and the ids of the k largest, 0 ≤ k ≤ n, as `top` has them.
double log_sum_exp(const float* logits, int n, int k, int32_t* ids);

// Ids of the k largest values, largest first, equal ones by id. Returns how many: min(k, n).
int top(const float* values, int n, int k, int32_t* ids);

// What the cuts leave, ids and weights: with top_k the likeliest first, else by rising id. Of equal logits the lower
// ids. Returns how many; at least one if min_p ≤ 1. Both arrays must have room for n.
int nucleus(const float* logits, int n, float peak, float temperature, const Cuts& cuts, int32_t* ids, float* weights);

// out ← logits, less for each token of `tokens`: positive ones divided by and negative ones multiplied with
// `repetition`, then less `presence` and, for each occurrence, `frequency` (llama.cpp's formulas).
struct Penalties {
    float repetition, frequency, presence;
};
void penalize(const float* logits, int n, const int32_t* tokens, int n_tokens, const Penalties& penalties, float* out);

}  // namespace codellama
