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

// Where a block's bytes lie in its tile: as formats.inc's Places.
struct BlockPlace {
    size_t codes, scales, super;
};
inline BlockPlace place_of(const Geometry& g, int block) {
    const size_t codes = static_cast<size_t>(g.code_bytes), scales = static_cast<size_t>(g.scale_bytes);
    const size_t super = static_cast<size_t>(g.super_bytes), b = static_cast<size_t>(block);
    const size_t pair = 2 * (codes + scales), front = super == 0 ? 0 : kTileAlignment;
    const size_t group = super == 0 ? 8 : 8 * front / super, at = (b / group + 1) * front + b / 2 * pair;
    return {at + b % 2 * codes, at + 2 * codes + b % 2 * scales,
            b / group * (front + group / 2 * pair) + b % group / 8 * super};
}
inline size_t quantized_tile_bytes(const Geometry& g, int blocks) {
    const BlockPlace last = place_of(g, (blocks - 1) / 2 * 2 + 1);
    return last.scales + static_cast<size_t>(g.scale_bytes);
}
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
    ptrdiff_t stride(int n) const { return n * static_cast<ptrdiff_t>(tile_bytes); }  // of n tiles
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
