// The kernels for AVX-512 with products of bfloat16 (Cooper Lake 2020, Zen 4 2022 and later): those of isa_avx512.cpp,
// weights fetched as AMD's processors like it, and these products in the place of a matrix unit. See there for what may
// be included here.

#include <immintrin.h>

#include <utility>

#include "kernels.h"

namespace codellama::avx512bf16 {
#include "simd/fetch_far.inc"
#include "simd/avx512.inc"
#include "bodies.inc"
#include "panel.inc"
#include "unit.inc"
#include "matmul_pairs.inc"
#include "attention_unit.inc"
#include "unit_table.inc"
}  // namespace codellama::avx512bf16

const codellama::Kernels* codellama::kernels_avx512bf16() {
    static const MatrixUnit unit = avx512bf16::make_unit();
    static const Kernels table = [] {
        Kernels all = avx512bf16::make_table("avx512bf16");
        avx512bf16::use_again(all);
        avx512bf16::use_float_panels(all);
        all.attend = avx512bf16::attend_ahead;
        all.unit = &unit;
        return all;
    }();
    return &table;
}
