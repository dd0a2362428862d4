// The kernels for one instruction set: the bodies, inside a namespace of their own, compiled with that set's flags.
// Includes no header with inline code of the standard library, lest the linker keep a copy that other units then run.

#include <immintrin.h>

#include <utility>

#include "kernels.h"

namespace codellama::avx2 {
#include "simd/avx2.inc"
#include "bodies.inc"
#include "panel.inc"
}  // namespace codellama::avx2

const codellama::Kernels* codellama::kernels_avx2() {
    static const Kernels table = [] {
        Kernels all = avx2::make_table("avx2");
        avx2::use_panels(all);
        return all;
    }();
    return &table;
}
