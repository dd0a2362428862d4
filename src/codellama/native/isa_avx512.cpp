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
}  // namespace codellama::avx512

const codellama::Kernels* codellama::kernels_avx512() {
    static const Kernels table = [] {
        Kernels all = avx512::make_table("avx512");
        avx512::use_panels(all);
        all.attend = avx512::attend_ahead;
        return all;
    }();
    return &table;
}
