// The kernels for NEON with the matrix multiplication of bytes (Graviton 3 2022, Apple M2 2022, Cortex-X2 and later):
// those of isa_neon.cpp, and products of several rows by smmla. See isa_avx512.cpp for what may be included here.

#include <arm_neon.h>

#include <utility>

#include "kernels.h"

namespace codellama::i8mm {
#include "simd/neon.inc"
#include "formats.inc"
#include "matmul_i8mm.inc"
}  // namespace codellama::i8mm

const codellama::Kernels* codellama::kernels_i8mm() {
    static const Kernels table = [] {
        Kernels all = *kernels_neon();
        all.name = "i8mm";
        i8mm::use_pairs(all);
        return all;
    }();
    return &table;
}
