// The kernels for one instruction set: the bodies, inside a namespace of their own, compiled with that set's flags.
// Includes no header with inline code of the standard library, lest the linker keep a copy that other units then run.

#include <immintrin.h>

#include <utility>

#include "kernels.h"

namespace codellama::avx512 {
#include "simd/fetch_near.inc"
#include "simd/avx512.inc"
#include "bodies.inc"
#include "panel.inc"
#include "words_int16.inc"
#include "matmul_pairs.inc"
#include "attention_unit.inc"
}  // namespace codellama::avx512

const codellama::Kernels* codellama::kernels_avx512() {
    static const MatrixUnit unit = [] {  // for attention; no weights are its own
        MatrixUnit all = {};
        all.begin = avx512::unit_begin;
        all.end = avx512::unit_end;
        all.attend = avx512::unit_attend;
        all.attend_scratch = sizeof(avx512::UnitAttendScratch);
        return all;
    }();
    static const Kernels table = [] {
        Kernels all = avx512::make_table("avx512");
        avx512::use_panels(all);
        all.attend = avx512::attend_ahead;
        all.unit = &unit;
        return all;
    }();
    return &table;
}
