// The kernels for one instruction set: the bodies, inside a namespace of their own, compiled with that set's flags.
// Includes no header with inline code of the standard library, lest the linker keep a copy that other units then run.

#include <immintrin.h>

#include <utility>

#include "kernels.h"

namespace codellama::avxvnni {
#include "simd/avxvnni.inc"
#include "bodies.inc"
#include "panel.inc"
}  // namespace codellama::avxvnni

const codellama::Kernels* codellama::kernels_avxvnni() {
    static const Kernels table = [] {
        Kernels all = avxvnni::make_table("avxvnni");
        avxvnni::use_panels(all);
        return all;
    }();
    return &table;
}
