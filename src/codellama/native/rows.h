// Passes over one row of logits, for sampling: what a vocabulary of 49,152 makes too slow in NumPy.
//
// Float sums run in 16 lanes and then in double, in an order that no instruction set changes.

#pragma once

#include <cstdint>

namespace codellama {

// All take the largest of the logits (`peak`) and weigh a token exp((logit − peak) / temperature), to a relative error
// of 3e-6 where that is above e^-20, and 0 below 2^-125. n ≥ 1, temperature > 0, logits without NaN.

// The token at which running sums of the weights exceed `share`, from [0, 1), of their total, by rising id, over what
// `nucleus` would keep. Never one of weight 0.
int draw(const float* logits, int n, float peak, float temperature, double top_p, float min_p, double share);

// log Σ exp(logits), to an error of 1e-6.
double log_sum_exp(const float* logits, int n, float peak);

// Ids of the k largest values, largest first, equal ones by id. Returns how many: min(k, n).
int top(const float* values, int n, int k, int32_t* ids);

// The fewest heaviest tokens that hold the share top_p of all weights (1: all of them), without those that weigh less
// than min_p: ids by rising id, and weights. Of equal logits the lower ids. Returns how many; at least one if
// min_p ≤ 1. Both arrays must have room for n.
int nucleus(const float* logits, int n, float peak, float temperature, double top_p, float min_p, int32_t* ids,
            float* weights);

}  // namespace codellama
