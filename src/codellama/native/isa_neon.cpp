// The kernels for one instruction set: the bodies, inside a namespace of their own, compiled with that set's flags.
// Includes no header with inline code of the standard library, lest the linker keep a copy that other units then run.

#include <arm_neon.h>

#include <utility>

#include "kernels.h"

namespace codellama::neon {
#include "simd/neon.inc"
#include "simd/lanes.inc"
#include "simd/codes.inc"
#include "bodies.inc"
}  // namespace codellama::neon

const codellama::Kernels* codellama::kernels_neon() {
    static const Kernels table = neon::make_table("neon");
    return &table;
}
