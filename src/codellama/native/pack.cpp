// Bit positions of the tile layout. A "quad" is the codes of 4 consecutive columns in the 4 bytes of a word; a block of
// 32 columns is 8 quads. In a tile, lane r of a 64-byte vector is row r's quad:
//   plane of 8 bits   vector g: quad g                                                  512 bytes
//   plane of 4 bits   vector j (< 4): quad j | quad j+4 << 4                            256
//   plane of 2 bits   vector h (< 2): quads 4h … 4h+3 at bits 0, 2, 4, 6                128
//   plane of 1 bit    64-bit word g: bit 4·r + i is column i of quad g, row r            64

#include "pack.h"

#include <cstring>
#include <stdexcept>
#include <string>

namespace codellama {
namespace {

constexpr Geometry kGeometry[kFormats] = {
    {0, 1, 4, 0, 0, 0, false},          // F32
    {1, 1, 2, 0, 0, 0, false},          // F16
    {30, 1, 2, 0, 0, 0, false},         // BF16
    {2, 32, 18, 256, 32, 0, true},      // Q4_0
    {3, 32, 20, 256, 64, 0, true},      // Q4_1
    {6, 32, 22, 320, 32, 0, true},      // Q5_0
    {7, 32, 24, 320, 64, 0, true},      // Q5_1
    {8, 32, 34, 512, 32, 0, true},      // Q8_0
    {10, 256, 84, 128, 32, 64, true},   // Q2_K
    {11, 256, 110, 192, 32, 32, true},  // Q3_K
    {12, 256, 144, 256, 32, 64, true},  // Q4_K
    {13, 256, 176, 320, 32, 64, true},  // Q5_K
    {14, 256, 210, 384, 32, 32, true},  // Q6_K
};

uint32_t word(const uint8_t* p) {
    uint32_t w;
    std::memcpy(&w, p, 4);
    return w;
}
uint16_t half(const uint8_t* p) {
    uint16_t h;
    std::memcpy(&h, p, 2);
    return h;
}
void put_half(uint8_t* p, int lane, uint16_t value) { std::memcpy(p + 2 * lane, &value, 2); }

// ---- planes ------------------------------------------------------------------------------------------------------

void put8(uint8_t* codes, int lane, const uint32_t (&quad)[8]) {
    for (int g = 0; g < 8; ++g) std::memcpy(codes + 64 * g + 4 * lane, &quad[g], 4);
}
void put4(uint8_t* codes, int lane, const uint32_t (&quad)[8]) {
    for (int j = 0; j < 4; ++j) {
        const uint32_t pair = quad[j] | quad[j + 4] << 4;
        std::memcpy(codes + 64 * j + 4 * lane, &pair, 4);
    }
}
void put2(uint8_t* codes, int lane, const uint32_t (&quad)[8]) {
    for (int h = 0; h < 2; ++h) {
        const uint32_t* q = quad + 4 * h;
        const uint32_t four = q[0] | q[1] << 2 | q[2] << 4 | q[3] << 6;
        std::memcpy(codes + 64 * h + 4 * lane, &four, 4);
    }
}
void put1(uint8_t* codes, int lane, const uint32_t (&quad)[8]) {
    for (int g = 0; g < 8; ++g) {
        const uint32_t bits = (quad[g] * 0x01020408u) >> 24 & 0xf;  // byte i of the quad → bit i
        uint8_t& byte = codes[8 * g + lane / 2];
        const int shift = 4 * (lane % 2);
        byte = static_cast<uint8_t>((byte & ~(0xf << shift)) | bits << shift);
    }
}

// ---- one block of 32 columns, one row ----------------------------------------------------------------------------

// 6-bit scale and minimum number `s` of a Q4_K or Q5_K super-block.
void scale_min_k4(const uint8_t* packed, int s, uint8_t& scale, uint8_t& minimum) {
    if (s < 4) {
        scale = packed[s] & 63;
        minimum = packed[s + 4] & 63;
    } else {
        scale = static_cast<uint8_t>((packed[s + 4] & 0x0f) | packed[s - 4] >> 6 << 4);
        minimum = static_cast<uint8_t>(packed[s + 4] >> 4 | packed[s] >> 6 << 4);
    }
}
// Signed 6-bit scale number `i` of a Q3_K super-block.
uint8_t scale_q3k(const uint8_t* packed, int i) {
    const int low = i < 8 ? packed[i] & 0x0f : packed[i - 8] >> 4;
    const int high = packed[8 + i % 4] >> 2 * (i / 4) & 3;
    return static_cast<uint8_t>((low | high << 4) - 32);
}

struct Place {  // where a row's block goes in its tile
    uint8_t *codes, *scales, *super;
    int lane;
    int s;  // block of 32 within the file's block of 256
};

void legacy_quads(const uint8_t* nibbles, uint32_t (&quad)[8]) {
    for (int j = 0; j < 4; ++j) {
        quad[j] = word(nibbles + 4 * j) & 0x0f0f0f0f;
        quad[j + 4] = word(nibbles + 4 * j) >> 4 & 0x0f0f0f0f;
    }
}
void legacy_high_bits(uint32_t high, uint8_t* plane, int lane) {
    uint32_t quad[8];
    for (int g = 0; g < 8; ++g) {
        const uint32_t bits = high >> 4 * g & 0xf;
        quad[g] = (bits * 0x00204081u) & 0x01010101u;  // bit i → byte i
    }
    put1(plane, lane, quad);
}

template <Format format>
void pack_block(const uint8_t* block, const Place& to) {
    uint32_t quad[8], high[8];
    const int lane = to.lane, s = to.s;
    switch (format) {
        case Format::Q4_0:
        case Format::Q4_1:
        case Format::Q5_0:
        case Format::Q5_1: {
            const bool min = format == Format::Q4_1 || format == Format::Q5_1;
            const bool five = format == Format::Q5_0 || format == Format::Q5_1;
            const uint8_t* rest = block + (min ? 4 : 2);
            put_half(to.scales, lane, half(block));
            if (min) put_half(to.scales + 32, lane, half(block + 2));
            legacy_quads(rest + (five ? 4 : 0), quad);
            put4(to.codes, lane, quad);
            if (five) legacy_high_bits(word(rest), to.codes + 256, lane);
            return;
        }
        case Format::Q8_0:
            put_half(to.scales, lane, half(block));
            for (int g = 0; g < 8; ++g) quad[g] = word(block + 2 + 4 * g) ^ 0x80808080u;
            put8(to.codes, lane, quad);
            return;
        case Format::Q4_K:
        case Format::Q5_K: {
            const uint8_t* codes = block + (format == Format::Q5_K ? 48 : 16) + 32 * (s / 2);
            for (int g = 0; g < 8; ++g) quad[g] = word(codes + 4 * g) >> 4 * (s % 2) & 0x0f0f0f0f;
            put4(to.codes, lane, quad);
            if (format == Format::Q5_K) {
                for (int g = 0; g < 8; ++g) high[g] = word(block + 16 + 4 * g) >> s & 0x01010101;
                put1(to.codes + 256, lane, high);
            }
            scale_min_k4(block + 4, s, to.scales[lane], to.scales[16 + lane]);
            put_half(to.super, lane, half(block));
            put_half(to.super + 32, lane, half(block + 2));
            return;
        }
        case Format::Q6_K:
            for (int g = 0; g < 8; ++g) {
                quad[g] = word(block + 64 * (s / 4) + 32 * (s % 2) + 4 * g) >> 4 * (s / 2 % 2) & 0x0f0f0f0f;
                high[g] = word(block + 128 + 32 * (s / 4) + 4 * g) >> 2 * (s % 4) & 0x03030303;
            }
            put4(to.codes, lane, quad);
            put2(to.codes + 256, lane, high);
            to.scales[lane] = block[192 + 2 * s];
            to.scales[16 + lane] = block[192 + 2 * s + 1];
            put_half(to.super, lane, half(block + 208));
            return;
        case Format::Q2_K:
            for (int g = 0; g < 8; ++g) quad[g] = word(block + 16 + 32 * (s / 4) + 4 * g) >> 2 * (s % 4) & 0x03030303;
            put2(to.codes, lane, quad);
            to.scales[lane] = block[2 * s];
            to.scales[16 + lane] = block[2 * s + 1];
            put_half(to.super, lane, half(block + 80));
            put_half(to.super + 32, lane, half(block + 82));
            return;
        case Format::Q3_K:
            for (int g = 0; g < 8; ++g) {
                quad[g] = word(block + 32 + 32 * (s / 4) + 4 * g) >> 2 * (s % 4) & 0x03030303;
                high[g] = word(block + 4 * g) >> s & 0x01010101;
            }
            put2(to.codes, lane, quad);
            put1(to.codes + 128, lane, high);
            to.scales[lane] = scale_q3k(block + 96, 2 * s);
            to.scales[16 + lane] = scale_q3k(block + 96, 2 * s + 1);
            put_half(to.super, lane, half(block + 108));
            return;
        default: return;
    }
}

// All blocks of a quantized tile, the format known to the compiler: packing's arithmetic takes half as long.
template <Format format>
void pack_blocks(const uint8_t* rows, size_t row_bytes, int lanes, int blocks, uint8_t* base) {
    constexpr Geometry g = kGeometry[static_cast<int>(format)];
    constexpr int per_block = g.elements / kBlock;
    for (int b = 0; b < blocks; ++b) {
        const uint8_t* column = rows + static_cast<size_t>(b / per_block * g.bytes);
        const BlockPlace to = place_of(g, b);
        for (int lane = 0; lane < lanes; ++lane) {
            pack_block<format>(column + static_cast<size_t>(lane) * row_bytes,
                               {base + to.codes, base + to.scales, base + to.super, lane, b % per_block});
        }
    }
}

using PackBlocks = void (*)(const uint8_t*, size_t, int, int, uint8_t*);
constexpr PackBlocks kPackBlocks[kFormats] = {nullptr,
                                              nullptr,
                                              nullptr,
                                              pack_blocks<Format::Q4_0>,
                                              pack_blocks<Format::Q4_1>,
                                              pack_blocks<Format::Q5_0>,
                                              pack_blocks<Format::Q5_1>,
                                              pack_blocks<Format::Q8_0>,
                                              pack_blocks<Format::Q2_K>,
                                              pack_blocks<Format::Q3_K>,
                                              pack_blocks<Format::Q4_K>,
                                              pack_blocks<Format::Q5_K>,
                                              pack_blocks<Format::Q6_K>};

}  // namespace

const Geometry& geometry(Format format) { return kGeometry[static_cast<int>(format)]; }

Format format_of(int ggml_type) {
    for (int i = 0; i < kFormats; ++i) {
        if (kGeometry[i].ggml_type == ggml_type) return static_cast<Format>(i);
    }
    throw std::invalid_argument("no kernel for storage type " + std::to_string(ggml_type));
}

Matrix make_matrix(Format format, int rows, int columns, Arena* arena) {
    const Geometry& g = geometry(format);
    if (rows <= 0 || columns <= 0 || columns % g.elements != 0) {
        throw std::invalid_argument("a " + std::to_string(rows) + " x " + std::to_string(columns) +
                                    " matrix does not divide into blocks of " + std::to_string(g.elements));
    }
    Matrix m;
    m.format = format;
    m.rows = rows;
    m.columns = columns;
    m.padded_columns = (columns + 3) / 4 * 4;
    const int blocks = columns / kBlock;
    const size_t bytes = g.quantized ? quantized_tile_bytes(g, blocks)
                                     : static_cast<size_t>(m.padded_columns) * kLanes * static_cast<size_t>(g.bytes);
    m.tile_bytes = (bytes + kTileAlignment - 1) / kTileAlignment * kTileAlignment;
    const size_t total = m.tile_bytes * static_cast<size_t>(m.n_tiles());
    m.tiles = arena != nullptr ? arena->take(total) : Buffer(total);
    return m;
}

size_t source_row_bytes(Format format, int columns) {
    const Geometry& g = geometry(format);
    return static_cast<size_t>(columns / g.elements) * static_cast<size_t>(g.bytes);
}

void pack_tile(Matrix& matrix, int tile, const uint8_t* source) {
    const Geometry& g = geometry(matrix.format);
    uint8_t* base = matrix.tiles.data() + static_cast<size_t>(tile) * matrix.tile_bytes;
    const int lanes = matrix.rows - tile * kLanes < kLanes ? matrix.rows - tile * kLanes : kLanes;
    const size_t row_bytes = source_row_bytes(matrix.format, matrix.columns);
    const uint8_t* rows = source + static_cast<size_t>(tile) * kLanes * row_bytes;
    if (lanes < kLanes || !g.quantized) std::memset(base, 0, matrix.tile_bytes);
    if (!g.quantized) {
        for (int lane = 0; lane < lanes; ++lane) {
            for (int k = 0; k < matrix.columns; ++k) {
                std::memcpy(base + static_cast<size_t>(k * kLanes + lane) * static_cast<size_t>(g.bytes),
                            rows + static_cast<size_t>(lane) * row_bytes +
                                static_cast<size_t>(k) * static_cast<size_t>(g.bytes),
                            static_cast<size_t>(g.bytes));
            }
        }
        return;
    }
    kPackBlocks[static_cast<int>(matrix.format)](rows, row_bytes, lanes, matrix.n_blocks(), base);
}

}  // namespace codellama
