#include "products.h"

#include <algorithm>

namespace codellama {

bool is_float(const Matrix& weight) { return !geometry(weight.format).quantized; }

int rows_of_call(const Kernels& kernels, bool floats, int n_rows) {
    if ((floats ? kernels.float_panels : kernels.quant_panels) && n_rows >= kFewestPanelRows)
        return std::min(n_rows, kMaxPanelRows);
    return std::min(n_rows, floats ? kernels.max_float_rows : kernels.max_quant_rows);
}

int tiles_of_call(const Kernels& kernels, bool floats, int n_rows) {
    if (floats) return 1;
    return n_rows > kernels.max_quant_rows ? kMaxTiles : kernels.tiles_at_once[n_rows - 1];
}

int rows_again(const Kernels& kernels, const Matrix& weight) {
    return kernels.again_rows[static_cast<int>(weight.format)];
}

void multiply_again(const Kernels& kernels, const Matrix& weight, Tiles tiles, const Activations& x, int row,
                    int n_rows, float* out) {
    const int step = rows_again(kernels, weight);
    for (int r = 0; r < n_rows; r += step, out += step * kAgainTiles * kLanes) {
        kernels.quant_again[static_cast<int>(weight.format)](weight.tile(tiles.first), weight.stride(tiles.step),
                                                             weight.n_blocks(), x.blocks + (row + r) * x.block_stride,
                                                             x.block_stride, out);
    }
}

void multiply_panels(const Kernels& kernels, const Matrix& weight, int tile, const Activations& x, int row, int n_rows,
                     float* out) {
    kernels.quant_panel[static_cast<int>(weight.format)](weight.tile(tile), weight.stride(1), kAgainTiles,
                                                         weight.n_blocks(), x.blocks + row * x.block_stride,
                                                         x.block_stride, n_rows, out);
}

void multiply_tiles(const Kernels& kernels, const Matrix& weight, Tiles tiles, const Activations& x, int row,
                    int n_rows, float* out) {
    const int format = static_cast<int>(weight.format), n = n_rows - 1;
    const uint8_t* first = weight.tile(tiles.first);
    if (is_float(weight)) {
        const float* rows = x.floats + row * x.float_stride;
        if (n_rows > kernels.max_float_rows) {
            kernels.float_panel[format](first, weight.padded_columns, rows, x.float_stride, n_rows, out);
        } else {
            kernels.float_tile[format][n](first, weight.padded_columns, rows, x.float_stride, out);
        }
        return;
    }
    const XBlock* rows = x.blocks + row * x.block_stride;
    if (n_rows > kernels.max_quant_rows) {
        kernels.quant_panel[format](first, weight.stride(tiles.step), tiles.n, weight.n_blocks(), rows, x.block_stride,
                                    n_rows, out);
    } else {
        (tiles.n == 1 ? kernels.quant_tile : kernels.quant_tiles)[format][n](
            first, weight.stride(tiles.step), weight.n_blocks(), rows, x.block_stride, out);
    }
}

}  // namespace codellama
