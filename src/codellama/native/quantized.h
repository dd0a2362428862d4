// Quantized products of any number of activation rows, by whichever kernel of a set is best for that number.

#pragma once

#include "kernels.h"
#include "pack.h"

namespace codellama {

constexpr int kMaxRowsOfCall = kMaxPanelRows;

// The most rows of a call where n_rows are to be multiplied, and how many tiles a call of n_rows rows takes.
int rows_of_call(const Kernels& kernels, int n_rows);
int tiles_of_call(const Kernels& kernels, int n_rows);

// out[row][tile][lane] of n_tiles tiles, which is 1 or tiles_of_call(n_rows).
void multiply_quantized(const Kernels& kernels, const Matrix& weight, int tile, int n_tiles, const XBlock* x,
                        ptrdiff_t x_stride, int n_rows, float* out);

}  // namespace codellama
