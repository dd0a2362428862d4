// From the tile layout back to floats, one row at a time: embedding lookup, and the proof that packing loses nothing.
// The bit positions are pack.cpp's.

#include <cstring>

#include "pack.h"

namespace codellama {
namespace {

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

void get8(const uint8_t* codes, int lane, uint32_t (&quad)[8]) {
    for (int g = 0; g < 8; ++g) quad[g] = word(codes + 64 * g + 4 * lane);
}
void get4(const uint8_t* codes, int lane, uint32_t (&quad)[8]) {
    for (int j = 0; j < 4; ++j) {
        const uint32_t pair = word(codes + 64 * j + 4 * lane);
        quad[j] = pair & 0x0f0f0f0f;
        quad[j + 4] = pair >> 4 & 0x0f0f0f0f;
    }
}
void get2(const uint8_t* codes, int lane, uint32_t (&quad)[8]) {
    for (int g = 0; g < 8; ++g) quad[g] = word(codes + 64 * (g / 4) + 4 * lane) >> 2 * (g % 4) & 0x03030303;
}
void or1(const uint8_t* codes, int lane, int shift, uint32_t (&quad)[8]) {
    for (int g = 0; g < 8; ++g) {
        const uint32_t bits = codes[8 * g + lane / 2] >> 4 * (lane % 2);
        for (int i = 0; i < 4; ++i) quad[g] |= (bits >> i & 1) << (8 * i + shift);
    }
}

float f16(const uint8_t* p, int lane) {
    const uint32_t h = half(p + 2 * lane), sign = (h & 0x8000) << 16, rest = h & 0x7fff;
    uint32_t bits = rest << 13;
    float value;
    std::memcpy(&value, &bits, 4);
    value *= 5.192296858534828e33f;  // 2^112: the exponent's new bias, subnormals included
    std::memcpy(&bits, &value, 4);
    bits = sign | (rest >= 0x7c00 ? 0x7f800000u | (rest & 0x3ff) << 13 : bits);
    std::memcpy(&value, &bits, 4);
    return value;
}

void read_codes(Format format, const uint8_t* codes, int lane, uint32_t (&quad)[8]) {
    switch (format) {
        case Format::Q8_0: return get8(codes, lane, quad);
        case Format::Q2_K: return get2(codes, lane, quad);
        case Format::Q3_K: get2(codes, lane, quad); return or1(codes + 128, lane, 2, quad);
        case Format::Q6_K: {
            uint32_t high[8];
            get4(codes, lane, quad);
            get2(codes + 256, lane, high);
            for (int g = 0; g < 8; ++g) quad[g] |= high[g] << 4;
            return;
        }
        default:
            get4(codes, lane, quad);
            if (geometry(format).code_bytes == 320) or1(codes + 256, lane, 4, quad);
    }
}

struct Scale {
    float d[2], m[2];
};
Scale read_scale(Format format, const uint8_t* scales, const uint8_t* super, int lane) {
    switch (format) {
        case Format::Q4_1:
        case Format::Q5_1: {
            const float d = f16(scales, lane), m = f16(scales + 32, lane);
            return {{d, d}, {m, m}};
        }
        case Format::Q4_K:
        case Format::Q5_K: {
            const float d = f16(super, lane) * scales[lane], m = -(f16(super + 32, lane) * scales[16 + lane]);
            return {{d, d}, {m, m}};
        }
        case Format::Q2_K: {
            const float d = f16(super, lane), m = f16(super + 32, lane);
            const uint8_t a = scales[lane], b = scales[16 + lane];
            return {{d * (a & 0x0f), d * (b & 0x0f)}, {-(m * (a >> 4)), -(m * (b >> 4))}};
        }
        case Format::Q3_K:
        case Format::Q6_K: {
            const float d = f16(super, lane);
            return {{d * static_cast<int8_t>(scales[lane]), d * static_cast<int8_t>(scales[16 + lane])}, {0, 0}};
        }
        default: {
            const float d = f16(scales, lane);
            return {{d, d}, {0, 0}};
        }
    }
}
int zero_point(Format format) {
    switch (format) {
        case Format::Q4_0: return 8;
        case Format::Q5_0: return 16;
        case Format::Q8_0: return 128;
        case Format::Q3_K: return 4;
        case Format::Q6_K: return 32;
        default: return 0;
    }
}

float read_float(Format format, const uint8_t* p) {
    float value;
    if (format == Format::F16) return f16(p, 0);
    if (format == Format::F32) {
        std::memcpy(&value, p, 4);
        return value;
    }
    const uint32_t bits = static_cast<uint32_t>(half(p)) << 16;
    std::memcpy(&value, &bits, 4);
    return value;
}

// Exponent bits all set: infinite or not a number.
template <class Word>
bool all_finite(const uint8_t* p, size_t n, Word exponent) {
    bool bad = false;
    for (size_t i = 0; i < n; ++i) {
        Word w;
        std::memcpy(&w, p + i * sizeof(Word), sizeof(Word));
        bad |= (w & exponent) == exponent;
    }
    return !bad;
}

}  // namespace

bool tile_is_finite(const Matrix& matrix, int tile) {
    constexpr uint16_t kHalf = 0x7c00, kBrain = 0x7f80;
    const Geometry& g = geometry(matrix.format);
    const uint8_t* base = matrix.tile(tile);
    if (!g.quantized) {
        const size_t n = static_cast<size_t>(matrix.padded_columns) * kLanes;
        if (matrix.format == Format::F32) return all_finite<uint32_t>(base, n, 0x7f800000u);
        return all_finite<uint16_t>(base, n, matrix.format == Format::F16 ? kHalf : kBrain);
    }
    const int blocks = matrix.n_blocks();
    bool finite = true;
    for (int b = 0; b < blocks; b += g.super_bytes == 0 ? 1 : 8) {
        const BlockPlace at = place_of(g, b);
        finite = finite && (g.super_bytes == 0
                                ? all_finite<uint16_t>(base + at.scales, static_cast<size_t>(g.scale_bytes) / 2, kHalf)
                                : all_finite<uint16_t>(base + at.super, static_cast<size_t>(g.super_bytes) / 2, kHalf));
    }
    return finite;
}

void unpack_row(const Matrix& matrix, int row, float* out) {
    const Geometry& g = geometry(matrix.format);
    const uint8_t* base = matrix.tile(row / kLanes);
    const int lane = row % kLanes, blocks = matrix.n_blocks();
    if (!g.quantized) {
        for (int k = 0; k < matrix.columns; ++k) {
            out[k] =
                read_float(matrix.format, base + static_cast<size_t>(k * kLanes + lane) * static_cast<size_t>(g.bytes));
        }
        return;
    }
    const int zero = zero_point(matrix.format);
    for (int b = 0; b < blocks; ++b) {
        uint32_t quad[8];
        const BlockPlace at = place_of(g, b);
        read_codes(matrix.format, base + at.codes, lane, quad);
        const Scale s = read_scale(matrix.format, base + at.scales, base + at.super, lane);
        for (int k = 0; k < kBlock; ++k) {
            const int code = static_cast<int>(quad[k / 4] >> 8 * (k % 4) & 0xff) - zero;
            out[b * kBlock + k] = s.d[k / 16] * static_cast<float>(code) + s.m[k / 16];
        }
    }
}

}  // namespace codellama
