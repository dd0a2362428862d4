// Products of any number of activation rows, by whichever kernel of a set is best for that number.

#pragma once

#include "kernels.h"
#include "pack.h"

namespace codellama {

// Rows as the kernels read them: quantized ones by quantized weights, floats (columns padded with zeros to a multiple
// of 4) by float weights. What no weight reads may be null.
struct Activations {
    const XBlock* blocks;
    ptrdiff_t block_stride;
    const float* floats;
    ptrdiff_t float_stride;
};

constexpr int kMaxRowsOfCall = kMaxPanelRows;

bool is_float(const Matrix& weight);
// The most rows of a call where n_rows are to be multiplied, and how many tiles a call of n_rows rows takes. floats:
// whether a float weight is among those that the call is for.
int rows_of_call(const Kernels& kernels, bool floats, int n_rows);
int tiles_of_call(const Kernels& kernels, bool floats, int n_rows);

// kAgainTiles tiles that other rows have just read, for so many rows or a multiple. 0: there is no such product.
int rows_again(const Kernels& kernels, const Matrix& weight);
// Tiles first, first + step, …: n of them. A thread that reads weights once reads its part in as many places at once as
// its kernel takes tiles, each from tile to tile as they lie, which is what processors fetch ahead.
struct Tiles {
    int first, n, step = 1;
};

void multiply_again(const Kernels& kernels, const Matrix& weight, Tiles tiles, const Activations& x, int row,
                    int n_rows, float* out);

// kAgainTiles tiles, from `tile` on, for many rows, where kernels have pair_panels.
void multiply_panels(const Kernels& kernels, const Matrix& weight, int tile, const Activations& x, int row, int n_rows,
                     float* out);

// out[row][tile][lane] of rows [row, row + n_rows) and of tiles whose number is 1 or tiles_of_call(n_rows).
void multiply_tiles(const Kernels& kernels, const Matrix& weight, Tiles tiles, const Activations& x, int row,
                    int n_rows, float* out);

}  // namespace codellama
