// The kernels for AVX-512 with products of bfloat16 (Cooper Lake 2020, Zen 4 2022 and later): those of isa_avx512.cpp,
// and these products in the place of a matrix unit. See there for what may be included here.

#include <immintrin.h>

#include <utility>

#include "kernels.h"

namespace codellama::avx512bf16 {
#include "simd/avx512.inc"
#include "formats.inc"
#include "functions.inc"
#include "kv.inc"
#include "partials.inc"
#include "unit.inc"
#include "matmul_bf16.inc"
#include "attention_unit.inc"
}  // namespace codellama::avx512bf16

const codellama::Kernels* codellama::kernels_avx512bf16() {
    static const MatrixUnit unit = avx512bf16::make_unit();
    static const Kernels table = [] {
        Kernels all = *kernels_avx512();
        all.name = "avx512bf16";
        all.unit = &unit;
        return all;
    }();
    return &table;
}
