// Weight matrices in the kernels' tile layout, and the lossless way there and back.
//
// Knows the storage formats of GGUF by their bytes; knows no names, files or models. Packing only moves bits: a packed
// matrix holds the same codes and scales as the file's.

#pragma once

#include <cstddef>
#include <cstdint>

#include "buffer.h"
#include "kernels.h"

namespace codellama {

// Where the bytes of a format go. `elements` and `bytes` describe the file's block, the rest one tile's block of 32.
struct Geometry {
    int ggml_type;
    int elements, bytes;
    int code_bytes, scale_bytes, super_bytes;  // per 32 columns, per 32, per 256; for 16 rows
    bool quantized;
};
const Geometry& geometry(Format format);
// Throws std::invalid_argument for a type that has no kernel.
Format format_of(int ggml_type);

struct Matrix {
    Format format = Format::F32;
    int rows = 0, columns = 0;
    int padded_columns = 0;  // float formats: to a multiple of 4
    size_t tile_bytes = 0;
    Buffer tiles;

    int n_tiles() const { return (rows + kLanes - 1) / kLanes; }
    int n_blocks() const { return columns / kBlock; }
    const uint8_t* tile(int index) const { return tiles.data() + static_cast<size_t>(index) * tile_bytes; }
};

// An empty matrix of the right size. Throws std::invalid_argument when the columns do not divide into blocks.
// Its memory is cut from the arena, if there is one.
Matrix make_matrix(Format format, int rows, int columns, Arena* arena = nullptr);
size_t source_row_bytes(Format format, int columns);
// Fills one tile from the file's bytes (the whole matrix, row-major). Tiles may be filled from several threads.
void pack_tile(Matrix& matrix, int tile, const uint8_t* source);
// Whether every scale (or, in float formats, every value) of the tile is a finite number.
bool tile_is_finite(const Matrix& matrix, int tile);
// One row as float32, with the arithmetic of the format's reference: scale · (code − zero) + minimum.
void unpack_row(const Matrix& matrix, int row, float* out);

}  // namespace codellama
