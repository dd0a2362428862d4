// What the kernels compute on, and the table of functions that each instruction set fills in.
//
// Knows shapes and bytes; knows no model, no scheduling and no Python. Everything here is plain data, so that units
// compiled for different instruction sets can share it without sharing inline code (one-definition rule).
//
// The weight layout ("tiles") is the same on every instruction set and lossless. A tile is 16 rows of a matrix, one
// per 32-bit lane. Along the columns it is cut into blocks of 32; a block's codes are 8 groups of 4 columns, so that a
// 64-byte vector holds 4 consecutive columns of 16 rows: the operand of a 4-way byte dot product. Codes of fewer than
// 8 bits lie in planes (pack.cpp has the bit positions). Two blocks' codes are followed by their scales, so that what
// is read next is what lies next; a last odd block leaves half of such a pair empty. The scales per 256 columns come
// before these, a line of 64 bytes for 256 or 512 columns. Matrices whose rows are no multiple of 16 end in rows of
// zero scale.

#pragma once

#include <cstddef>
#include <cstdint>

namespace codellama {

constexpr int kLanes = 16;             // rows of a tile; positions of a KV block
constexpr int kBlock = 32;             // columns that share one activation scale
constexpr size_t kTileAlignment = 64;  // bytes: tiles start on cache lines
constexpr int kSuperBlock = 256;       // columns that share a K-quant's float scale
constexpr int kChunk = 512;            // KV positions whose softmax is computed at once; see attention.inc
constexpr int kRowChunk = 64;          // logits whose weights are summed as one

enum class Format : uint8_t { F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, kCount };
constexpr int kFormats = static_cast<int>(Format::kCount);

// 32 activations of one row, quantized to int8 with a float32 scale: x ≈ d · q. The sums serve formats with a zero
// point (negated, exact in int32) and formats with a minimum (times d). One cache line.
struct alignas(64) XBlock {
    int8_t q[kBlock];
    float d;
    float ds;                 // d · Σ q
    int32_t neg_sum;          // −Σ q
    int32_t neg_sum_half[2];  // −Σ q of the first and second 16 columns
    float ds_half[2];
    int32_t bias;  // −128 Σ q: what codes with a zero point of 128 are to be corrected by
};
static_assert(sizeof(XBlock) == 64);

// A few tiles, `stride` bytes apart, against a few activation rows: out[row][tile][lane] = Σ_k w[tile][lane][k] ·
// x[row][k]. The float32 additions happen in the same order whatever these numbers are, so a row's result does not
// depend on its neighbours.
using QuantTile = void (*)(const uint8_t* tile, ptrdiff_t stride, int n_blocks, const XBlock* x, ptrdiff_t x_stride,
                           float* out);
// The same for many rows, of any number of tiles up to kMaxTiles.
using QuantPanel = void (*)(const uint8_t* tile, ptrdiff_t stride, int n_tiles, int n_blocks, const XBlock* x,
                            ptrdiff_t x_stride, int n_rows, float* out);
using FloatTile = void (*)(const uint8_t* tile, int columns, const float* x, ptrdiff_t x_stride, float* out);
using FloatPanel = void (*)(const uint8_t* tile, int columns, const float* x, ptrdiff_t x_stride, int n_rows,
                            float* out);

constexpr int kMaxQuantRows = 16;
constexpr int kMaxPanelRows = 64;    // of a call: their sums, 16 KB for 4 tiles, live on the stack
constexpr int kFewestPanelRows = 8;  // from here on unpacking a tile for all rows pays
constexpr int kMaxFloatRows = 4;
constexpr int kMaxTiles = 4;
constexpr int kAgainTiles = 2;

// How the cache keeps keys and values. F16: float16. Q8_0: int8 codes, then a float32 scale for each of the block's 16
// positions; keys (and queries, which changes no product) are mixed first, see Kernels::mix. Of SmolLM2 with its heads
// of 64, int8 keys as they come cost 0.00111 nats a token, with a scale per 32 numbers 0.00080, mixed 0.00024, because
// a few large dimensions no longer set the step of all. Values have none: 0.00006 with one scale a head. 68 bytes
// instead of 128, as many as a float16 scale per 32 would take.
enum class KvType : uint8_t { F16, Q8_0 };

// Blocks of the cache that lie together: of each layer and head one after the other, as a sequence's mostly follow each
// other and the processor fetches what follows; then the next so many. So memory is used as sequences grow, even in
// pages of 2 MB: 6 MB of SmolLM2, 134 of a 7B model. Segments twice as long are no faster.
constexpr int kSegmentBlocks = 16;

// One layer's keys and values: [segment] at a stride of all layers', in it [head][kSegmentBlocks], in a block keys
// transposed to [head_dim][16 positions], so that a vector of scores needs no horizontal sum; values as [16
// positions][head_pad]. head_pad = head_dim rounded up to 16.
struct KvLayer {
    uint8_t* keys;
    uint8_t* values;
    KvType type;
    size_t key_bytes, value_bytes;  // of one head's block
    size_t segment_stride;          // from a segment to the next one
    int n_kv_heads, head_dim, head_pad;

    uint8_t* key_block(int head, int32_t block) const { return keys + place(head, block, key_bytes); }
    uint8_t* value_block(int head, int32_t block) const { return values + place(head, block, value_bytes); }

   private:
    size_t place(int head, int32_t block, size_t bytes) const {
        const int32_t segment = block / kSegmentBlocks;
        return static_cast<size_t>(segment) * segment_stride +
               static_cast<size_t>(head * kSegmentBlocks + block - segment * kSegmentBlocks) * bytes;
    }
};

// What a thread probably attends to next: n_blocks of a table from first_block on. Fetched meanwhile, into the second
// level; another guess changes times only.
struct AttendNext {
    const int32_t* table = nullptr;
    int kv_head = 0, first_block = 0, n_blocks = 0;

    // Positions of a chunk of a sequence of so many.
    static AttendNext chunk(const int32_t* table, int kv_head, int chunk, int positions) {
        const int first = chunk * kChunk, n = positions - first < kChunk ? positions - first : kChunk;
        return {table, kv_head, first / kLanes, (n + kLanes - 1) / kLanes};
    }
};

// The attention of consecutive query tokens of one sequence that share one kv head.
struct Attend {
    KvLayer kv;
    const int32_t* table;  // block table of the sequence
    int kv_head, group;    // group: query heads per kv head
    const float* q;        // first query token, first head of the group; already scaled by 1/sqrt(head_dim)
    ptrdiff_t q_stride;    // floats from one token to the next
    int position;          // of the first query token
    int n_tokens;
    int chunk_begin, chunk_end;  // KV chunks of kChunk positions to cover; every token must see the first one
    float* scratch;              // kAttendScratch floats
    float* partial;              // out: [n_tokens · group][head_pad + 2]: maximum, sum, unnormalised output
    AttendNext next = {};        // after the last chunk
};

// Prompts on a matrix unit, or on what stands in for one: products of bfloat16 tiles, summed in float32. A tile of
// activations is [16 rows][32 columns], a tile of weights [16 pairs of columns][16 rows][2 columns], a tile of sums [16
// activation rows][16 weight rows]; the tiles of a matrix lie column by column. Call `begin` on a thread before the
// others and `end` after.
constexpr int kUnitColumns = 32;
constexpr int kUnitTile = kLanes * kUnitColumns;  // elements of a bfloat16 tile: 1 KB
constexpr int kUnitSums = kLanes * kLanes;        // elements of a tile of sums: 1 KB
constexpr int kUnitPair = 2;                      // weight tiles done at once

// One tile of 16 weight rows, blocks of 32 columns [first, last), dequantized and rounded to the nearest bfloat16.
using UnpackTile = void (*)(const uint8_t* tile, int n_blocks, int first, int last, uint16_t* out);

struct UnitProduct {
    const uint16_t* x;   // activation tile (m, k) at x + m · x_stride + k · kUnitTile
    ptrdiff_t x_stride;  // elements
    const uint16_t* w;   // weight tile (n, k) at w + n · w_stride + k · kUnitTile
    ptrdiff_t w_stride;
    int m_tiles, n_tiles, n_k;
    float* sums;  // tile (m, n) at sums + (m · kUnitPair + n) · kUnitSums
    bool add;     // to what is there
};

struct MatrixUnit {
    void (*begin)();
    void (*end)();
    void (*pack_row)(const float* x, int columns, uint16_t* out);  // a row of a tile; out: its first column
    UnpackTile unpack[kFormats];                                   // null where products stay what they are without
    void (*multiply)(const UnitProduct& product);
    // A pair of tiles of sums, done with: n_rows x width of it to float32 rows, or gate · up to a bfloat16 tile.
    void (*store)(const float* sums, int n_rows, int width, float* out, ptrdiff_t stride);
    void (*add)(const float* sums, int n_rows, int width, float* out, ptrdiff_t stride);
    void (*swiglu)(const float* gate, const float* up, uint16_t* out);
    void (*attend)(const Attend& job);  // as Kernels::attend, with attend_scratch bytes of scratch
    size_t attend_scratch;
};

struct Kernels {
    const char* name;
    const MatrixUnit* unit;  // null without one
    int max_quant_rows, max_float_rows;
    int tiles_at_once[kMaxQuantRows];                // by number of rows − 1
    QuantTile quant_tile[kFormats][kMaxQuantRows];   // one tile; null for float formats
    QuantTile quant_tiles[kFormats][kMaxQuantRows];  // tiles_at_once[rows − 1] tiles
    int again_rows[kFormats];                        // of quant_again, by kAgainTiles tiles; 0: there is none
    QuantTile quant_again[kFormats];                 // of tiles that other rows have just read
    FloatTile float_tile[kFormats][kMaxFloatRows];   // null for quantized formats
    bool quant_panels, float_panels;                 // for many rows; else the tiles' kernels serve them as well
    bool pair_panels;                                // quant_panel takes kAgainTiles tiles; see exact.cpp
    QuantPanel quant_panel[kFormats];
    FloatPanel float_panel[kFormats];

    void (*quantize)(const float* x, int n, XBlock* out);  // n multiple of 32
    void (*rms_norm)(const float* x, const float* weight, float eps, int n, float* out);
    void (*silu_mul)(float* gate, const float* up, int n);  // gate ← silu(gate) · up
    // n_rows x width of [row][pitch] to float32 rows, in their place or added to what is there.
    void (*put_rows)(const float* sums, int n_rows, int pitch, int width, float* out, ptrdiff_t stride);
    void (*add_rows)(const float* sums, int n_rows, int pitch, int width, float* out, ptrdiff_t stride);
    void (*rope)(float* x, const float* cos, const float* sin, int n_heads, int head_dim, float scale);
    // Every head times an orthonormal Hadamard matrix, of the largest power of two that divides head_dim, in blocks: a
    // single large number is spread over all. Dot products stay what they are.
    void (*mix)(float* x, int n_heads, int head_dim);
    void (*write_kv)(const KvLayer& kv, int32_t block, int slot, const float* k, const float* v);
    void (*attend)(const Attend& job);
    void (*merge)(float* into, const float* from, int head_pad);     // two partials of one row
    void (*finish)(const float* partial, int head_dim, float* out);  // out = o / sum

    // Of every chunk of a row of logits: Σ exp((logit − peak) · scale), and the largest value. `weights` gets the
    // exponentials where it is not null.
    void (*weigh)(const float* logits, int n_chunks, float peak, float scale, float* weights, float* sums);
    void (*chunk_maxima)(const float* values, int n_chunks, float* maxima);
};

// Null where the machine lacks the instruction set or the build does not carry it.
const Kernels* kernels_amx();
const Kernels* kernels_avx512bf16();
const Kernels* kernels_avx512();
const Kernels* kernels_avxvnni();
const Kernels* kernels_avx2();
const Kernels* kernels_i8mm();
const Kernels* kernels_neon();
const Kernels* kernels_portable();

constexpr int kMaxHeadPad = 256;   // widest head the attention kernel keeps on its stack
constexpr int kAttendBatch = 6;    // query rows done at once: 6 x 4 sums and 4 values fill 32 registers
constexpr int kAttendRows = 48;    // most rows (tokens x group) of one Attend job, unless one token has more
constexpr int kAttendMargin = 12;  // rows that may be computed for nothing beside them
constexpr int kFewestMany = 12;    // rows for which unpacking keys and values once pays
constexpr int kQueryPitch = kMaxHeadPad + 16;  // floats: rows a power of two apart would share a few lines of the cache
constexpr size_t kAttendScratch =              // floats
    static_cast<size_t>(kAttendRows + kAttendMargin) * (kQueryPitch + kChunk + kMaxHeadPad + 2);
constexpr int kUnitAttendRows = 192;  // the same on a matrix unit, where a job first turns keys and values into tiles

}  // namespace codellama
