// The kernels for one instruction set: the bodies, inside a namespace of their own, compiled with that set's flags.
// Includes no header with inline code of the standard library, lest the linker keep a copy that other units then run.

#include <utility>

#include "kernels.h"

namespace codellama::portable {
#include "simd/portable.inc"
#include "simd/lanes.inc"
#include "simd/codes.inc"
#include "bodies.inc"
}  // namespace codellama::portable

const codellama::Kernels* codellama::kernels_portable() {
    static const Kernels table = portable::make_table("portable");
    return &table;
}
