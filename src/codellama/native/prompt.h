// Pairs of weight tiles on a matrix unit: the one step that the engine's prompts and the tests of single products
// share.
//
// Knows packed matrices and tiles; knows no model, no threads and no shares of work.

#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels.h"
#include "pack.h"

namespace codellama {

constexpr int unit_blocks(int columns) { return (columns + kUnitColumns - 1) / kUnitColumns; }
constexpr int unit_tiles(int rows) { return (rows + kLanes - 1) / kLanes; }

// Blocks of columns [first, last) of a pair of tiles, dequantized into `weights` (room for as many blocks of kUnitPair
// tiles) and multiplied with m_tiles tiles of activations; added to what is in `sums` unless first is 0. `x` has all
// columns of the matrix; `sums` is [m tile][kUnitPair][16][16].
void multiply_pair(const MatrixUnit& unit, const Matrix& weight, int pair, int first, int last, int m_tiles,
                   const uint16_t* x, uint16_t* weights, float* sums);

}  // namespace codellama
