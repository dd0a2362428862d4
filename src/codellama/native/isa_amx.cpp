// The kernels for AVX-512 with AMX tiles (Sapphire Rapids 2023 and later): those of isa_avx512.cpp, a matrix
// unit for prompts, and tiles for integer products of many rows. See there for what may be included here.

#include <immintrin.h>

#include <utility>

#include "kernels.h"

namespace codellama::amx {
#include "simd/fetch_near.inc"
#include "simd/avx512.inc"
#include "formats.inc"
#include "functions.inc"
#include "kv.inc"
#include "partials.inc"
#include "unit.inc"
#include "matmul_amx.inc"
#include "matmul_amx_int8.inc"
#include "attention.inc"
#include "attention_rows.inc"
#include "attention_unit.inc"
#include "unit_table.inc"
}  // namespace codellama::amx

const codellama::Kernels* codellama::kernels_amx() {
    static const MatrixUnit unit = [] {
        MatrixUnit all = amx::make_unit();
        amx::use_quantized(all);
        return all;
    }();
    static const Kernels table = [] {
        Kernels all = *kernels_avx512();
        all.name = "amx";
        all.unit = &unit;
        all.attend = amx::attend;
        amx::use_exact(all);
        return all;
    }();
    return &table;
}
