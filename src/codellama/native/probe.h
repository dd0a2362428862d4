// What this machine can do at most: bytes read from memory and multiply-adds a second, measured.
//
// Shares no code with the kernels, so that a slow kernel cannot lower the limit it is judged by.

#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace codellama {

// Bytes a second that n_threads read together, each its own part of `bytes` fresh memory, over and over.
double read_bandwidth(size_t bytes, int n_threads, double seconds);

// Instructions that peak_rate knows and this machine has: "amx_int8", "amx_bf16", "avx512_vnni", "avx512_bf16",
// "avx2_int8", "neon_i8mm", "neon_dotprod".
std::vector<std::string> peak_instructions();

// Operations (a multiply and an add are two) a second on registers alone; std::invalid_argument for an instruction
// that is not in peak_instructions().
double peak_rate(const std::string& instruction, int n_threads, double seconds);

}  // namespace codellama
