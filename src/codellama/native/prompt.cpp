// The products of a step's prompt rows on a matrix unit. See forward.cpp for the order of phases.
//
// A unit of work is a few pairs of weight tiles. For each run of columns the pair is dequantized once, into the first
// level cache, and multiplied with the activations of a part of the rows, which stay in the second. Sums wait in the
// thread's scratch between runs of columns; adding a run to them rounds as if there were one run.

#include "prompt.h"

#include <algorithm>
#include <limits>

#include "forward.h"

namespace codellama {
namespace {

// Columns of a run: a dequantized pair of tiles then takes 24 KB of a 48 KB first-level cache.
constexpr int kRunBlocks = 12;
// Activations of a step that fit the second-level cache (2 MB) beside sums and weights; more are fetched again for
// every unit, so that a unit is then kGroup pairs.
constexpr size_t kActivationBytes = size_t{5} << 18;
constexpr int kGroup = 8;
// Fewest rows of a part.
constexpr int kPartRows = 256;

int pairs_of(const Matrix& m) { return (m.n_tiles() + kUnitPair - 1) / kUnitPair; }

}  // namespace

void multiply_pair(const MatrixUnit& unit, const Matrix& weight, int pair, int first, int last, int m_tiles,
                   const uint16_t* x, uint16_t* weights, float* sums) {
    const UnpackTile unpack = unit.unpack[static_cast<int>(weight.format)];
    const int tile = pair * kUnitPair, n_tiles = std::min(kUnitPair, weight.n_tiles() - tile), n_k = last - first;
    for (int n = 0; n < n_tiles; ++n) {
        unpack(weight.tile(tile + n), weight.n_blocks(), first, last, weights + n * n_k * kUnitTile);
    }
    unit.multiply({x + first * kUnitTile, static_cast<ptrdiff_t>(unit_blocks(weight.columns)) * kUnitTile, weights,
                   ptrdiff_t{n_k} * kUnitTile, m_tiles, n_tiles, n_k, sums, first > 0});
}

bool Model::on_unit(const Matrix& weight) const {
    return kernels_->unit->unpack[static_cast<int>(weight.format)] != nullptr && weight.columns % kUnitColumns == 0;
}

size_t Model::unit_tile_bytes(int n_rows, int columns) {
    return static_cast<size_t>(unit_tiles(n_rows)) * static_cast<size_t>(unit_blocks(columns)) * kUnitTile *
           sizeof(uint16_t);
}

// Prompt row r of the step's activations becomes a row of tiles.
void Model::pack_prompt_row(const float* x, int columns, int r, uint16_t* tiles) const {
    const ptrdiff_t stride = static_cast<ptrdiff_t>(unit_blocks(columns)) * kUnitTile;
    kernels_->unit->pack_row(x, columns, tiles + r / kLanes * stride + r % kLanes * kUnitColumns);
}

// Sums of one weight's pairs [first, last), all prompt rows: [pair][m tile][2][16][16].
void Model::sum_pairs(const Matrix& weight, Range pairs, int m_tiles, const uint16_t* x, UnitScratch& scratch,
                      float* sums) const {
    const int n_blocks = unit_blocks(weight.columns), n_runs = (n_blocks + kRunBlocks - 1) / kRunBlocks;
    for (int run = 0; run < n_runs; ++run) {
        const Range blocks = share(n_blocks, run, n_runs);
        for (int pair = pairs.begin; pair < pairs.end; ++pair) {
            multiply_pair(*kernels_->unit, weight, pair, blocks.begin, blocks.end, m_tiles, x, scratch.weights,
                          sums + static_cast<ptrdiff_t>(pair - pairs.begin) * m_tiles * kUnitPair * kUnitSums);
        }
    }
}

void Model::finish_pairs(const Product& product, Range pairs, Range rows, const float* sums, const float* up) const {
    const MatrixUnit& unit = *kernels_->unit;
    const int n_rows = rows.size(), m_tiles = unit_tiles(n_rows), first_tile = (rows.begin - prompts_.first) / kLanes;
    for (int pair = pairs.begin; pair < pairs.end; ++pair) {
        const int column = pair * kUnitPair * kLanes,
                  width = std::min(kUnitPair * kLanes, product.weight->rows - column);
        for (int m = 0; m < m_tiles; ++m) {
            const ptrdiff_t at = (static_cast<ptrdiff_t>(pair - pairs.begin) * m_tiles + m) * kUnitPair * kUnitSums;
            if (product.gate_up != nullptr) {
                const ptrdiff_t stride = static_cast<ptrdiff_t>(unit_blocks(product.weight->rows)) * kUnitTile;
                unit.swiglu(sums + at, up + at, product.tiles + (first_tile + m) * stride + pair * kUnitTile);
                continue;
            }
            float* out = product.out + (rows.begin + m * kLanes) * product.out_stride + column;
            (product.accumulate ? unit.add : unit.store)(sums + at, std::min(kLanes, n_rows - m * kLanes), width, out,
                                                         product.out_stride);
        }
    }
}

// Pairs of tiles that make a unit of work, given how many products share its scratch.
int Model::unit_group(const Matrix& weight, int n_rows) const {
    return unit_tile_bytes(n_rows, weight.columns) <= kActivationBytes ? 1 : kGroup;
}

// A part dequantizes all weights, which must pay: its activations stay in the cache.
int Model::fewest_prompt_rows(int columns) {
    return unit_tile_bytes(kPartRows, columns) <= kActivationBytes ? kPartRows : std::numeric_limits<int>::max();
}

void Model::multiply_prompts(Progress& at, const Product* products, int n_products, const Rows& rows,
                             const uint16_t* x) {
    std::atomic<int>* next = next_counters(at);
    if (rows.size == 0) return;
    for (int i = 0; i < rows.n_parts; ++i) {
        const int part = (rows.part_of(at.thread) + i) % rows.n_parts;
        multiply_prompt_part(next[part], at.thread, products, n_products, rows.part(part), x);
    }
}

void Model::multiply_prompt_part(std::atomic<int>& next, int thread, const Product* products, int n_products,
                                 Range rows, const uint16_t* x) {
    const int m_tiles = unit_tiles(rows.size()), first_tile = (rows.begin - prompts_.first) / kLanes;
    UnitScratch scratch = unit_scratch(thread);
    int taken = next++, index = 0;  // units of all products are numbered through
    for (int i = 0; i < n_products; ++i) {
        const Product& product = products[i];
        const int n_pairs = pairs_of(*product.weight);
        const int group = std::max(1, unit_group(*product.weight, rows.size()) / (product.gate_up != nullptr ? 2 : 1));
        const int n_units = (n_pairs + group - 1) / group;
        const uint16_t* own = x + ptrdiff_t{first_tile} * unit_blocks(product.weight->columns) * kUnitTile;
        for (; taken - index < n_units; taken = next++) {
            const int first = (taken - index) * group;
            const Range pairs = {first, std::min(n_pairs, first + group)};
            float* up = scratch.sums + static_cast<ptrdiff_t>(group) * m_tiles * kUnitPair * kUnitSums;
            sum_pairs(*product.weight, pairs, m_tiles, own, scratch, scratch.sums);
            if (product.gate_up != nullptr) sum_pairs(*product.gate_up, pairs, m_tiles, own, scratch, up);
            finish_pairs(product, pairs, rows, scratch.sums, up);
        }
        index += n_units;
    }
}

// Grows with the largest step: dequantized weights, then the sums of kGroup pairs (gate and up: of half as many each).
Model::UnitScratch Model::unit_scratch(int thread) {
    uint8_t* base = unit_scratch_[static_cast<size_t>(thread)].data();
    return {reinterpret_cast<uint16_t*>(base),
            reinterpret_cast<float*>(base + kUnitPair * kRunBlocks * kUnitTile * sizeof(uint16_t))};
}
size_t Model::unit_scratch_bytes(int n_rows) {
    return kUnitPair * kRunBlocks * kUnitTile * sizeof(uint16_t) +
           static_cast<size_t>(kGroup * unit_tiles(n_rows) * kUnitPair * kUnitSums) * sizeof(float);
}

}  // namespace codellama
