#include "quantized.h"

#include <algorithm>

namespace codellama {

int rows_of_call(const Kernels& kernels, int n_rows) {
    if (kernels.has_panels && n_rows >= kFewestPanelRows) return std::min(n_rows, kMaxPanelRows);
    return std::min(n_rows, kernels.max_quant_rows);
}

int tiles_of_call(const Kernels& kernels, int n_rows) {
    return n_rows > kernels.max_quant_rows ? kMaxTiles : kernels.tiles_at_once[n_rows - 1];
}

void multiply_quantized(const Kernels& kernels, const Matrix& weight, int tile, int n_tiles, const XBlock* x,
                        ptrdiff_t x_stride, int n_rows, float* out) {
    const int format = static_cast<int>(weight.format);
    if (n_rows > kernels.max_quant_rows) {
        kernels.quant_panel[format](weight.tile(tile), weight.tile_bytes, n_tiles, weight.n_blocks(), x, x_stride,
                                    n_rows, out);
        return;
    }
    const auto& table = n_tiles == 1 ? kernels.quant_tile : kernels.quant_tiles;
    table[format][n_rows - 1](weight.tile(tile), weight.tile_bytes, weight.n_blocks(), x, x_stride, out);
}

}  // namespace codellama
