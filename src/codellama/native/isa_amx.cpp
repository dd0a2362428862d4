// The kernels for AVX-512 with AMX tiles (Sapphire Rapids 2023 and later): those of AVX-512, and a matrix unit for
// prompts. See isa_avx512.cpp for what may be included here.

#include <immintrin.h>

#include <utility>

#include "kernels.h"

namespace codellama::amx {
#include "simd/avx512.inc"
#include "matmul.inc"
#include "elementwise.inc"
#include "attention.inc"
#include "matmul_amx.inc"
#include "attention_amx.inc"
#include "table.inc"
}  // namespace codellama::amx

const codellama::Kernels* codellama::kernels_amx() {
    static const MatrixUnit unit = amx::make_unit();
    static const Kernels table = [] {
        Kernels all = amx::make_table("amx");
        all.unit = &unit;
        return all;
    }();
    return &table;
}
