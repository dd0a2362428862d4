// The products of a step's exact rows, by the vectors' kernels. See forward.cpp for the order of phases.
//
// Few rows: each thread keeps its share of the tiles, in the largest pieces that the kernels take. Many rows: units of
// tiles are handed out as threads ask, and meet the rows of a part.

#include <algorithm>

#include "forward.h"

namespace codellama {
namespace {

// Float16's worth of the activation rows that meet a tile before the next is fetched. More than a second-level cache of
// 1 MB holds: to read 7B's weights again for every 20 rows costs more (a prompt of 512 took 1.05 times as long with 512
// KB).
constexpr ptrdiff_t kActivationBytes = 2048 * 1024;
// Tiles handed out at a time when many rows are multiplied, unless the kernels take several at once, which then share
// the activations: more would only leave a thread waiting at the end (576 rows in fours are 9 units).
constexpr int kTilesPerUnit = 4;
// Rows whose sums with a pair of tiles are finished together: 4 KB of them, 12 KB with panels.
constexpr int kGroupRows = 32, kPanelGroupRows = 96;
// Rows from which on panels of pairs pay for answers: 12 sequences of SmolLM2 (two calls of 6 rows) were 0.92 to 0.99
// times as fast with them, 16 1.03 to 1.12, 32 1.11 to 1.19 (Emerald Rapids; Q4_0, Q8_0, Q4_K_M).
constexpr int kFewestPanelPairs = 13;
static_assert(kAgainTiles * kLanes == kBlock);  // a pair's sums of one row are a block of the next product's rows

// A pair of tiles by rows: out[row][tile][lane]. fresh: nobody has just read the tiles.
void sum_pair(const Kernels& kernels, const Matrix& weight, int tile, Range rows, const Activations& x, bool fresh,
              float* out) {
    if (kernels.pair_panels) return multiply_panels(kernels, weight, tile, x, rows.begin, rows.size(), out);
    const int again = rows_again(kernels, weight);
    for (int row = rows.begin; row < rows.end;) {
        const bool first = fresh && row == rows.begin;
        const int left = rows.end - row, most = std::min(left, kernels.max_quant_rows);
        const int n = first || left < again ? most : left / again * again;
        if (!first && n >= again) {
            multiply_again(kernels, weight, {tile, kAgainTiles}, x, row, n, out);
        } else if (tiles_of_call(kernels, false, n) == kAgainTiles) {
            multiply_tiles(kernels, weight, {tile, kAgainTiles}, x, row, n, out);
        } else {
            for (int i = 0; i < n * kAgainTiles; ++i) {
                multiply_tiles(kernels, weight, {tile + i % kAgainTiles, 1}, x, row + i / kAgainTiles, 1,
                               out + i * kLanes);
            }
        }
        row += n;
        out += n * kAgainTiles * kLanes;
    }
}

}  // namespace

bool Model::in_pairs(const Product& product, int n_rows) const {
    if (n_rows < kDynamicRows) return false;
    return kernels_->pair_panels ? !product.floats() : product.rows_again(*kernels_) > 0;
}

// Sums of a few tiles, [row][tile][lane], to where the product wants them.
void Model::finish_sums(const Product& product, Tiles tiles, Range rows, float* sums, const float* up) const {
    const int n_rows = rows.size(), pitch = tiles.n * kLanes;
    if (product.gate_up != nullptr) kernels_->silu_mul(sums, up, n_rows * pitch);
    if (product.blocks != nullptr) {
        XBlock blocks[kPanelGroupRows];
        kernels_->quantize(sums, n_rows * kBlock, blocks);
        XBlock* to = product.blocks + rows.begin * product.block_stride + tiles.first / kAgainTiles;
        for (int r = 0; r < n_rows; ++r) to[r * product.block_stride] = blocks[r];
        return;
    }
    const auto put = product.accumulate ? kernels_->add_rows : kernels_->put_rows;
    const int width = tiles.step == 1 ? pitch : kLanes;
    for (int t = 0; t < tiles.n; t += width / kLanes) {
        const int column = (tiles.first + t * tiles.step) * kLanes;
        put(sums + t * kLanes, n_rows, pitch, std::min(width, product.weight->rows - column),
            product.out + rows.begin * product.out_stride + column, product.out_stride);
    }
}

// One call of a kernel.
void Model::multiply_part(const Product& product, Tiles tiles, Range rows, const Activations& x) const {
    float out[kMaxRowsOfCall * kMaxTiles * kLanes], up[kMaxRowsOfCall * kMaxTiles * kLanes];
    multiply_tiles(*kernels_, *product.weight, tiles, x, rows.begin, rows.size(), out);
    if (product.gate_up != nullptr) {
        multiply_tiles(*kernels_, *product.gate_up, tiles, x, rows.begin, rows.size(), up);
    }
    finish_sums(product, tiles, rows, out, up);
}

// Some tiles for rows in the largest pieces that the kernels take. A remainder of fewer rows may take another number of
// tiles at once: one by one if that does not divide.
void Model::multiply_rows(const Product& product, Tiles tiles, Range rows, int most, const Activations& x) const {
    for (int row = rows.begin; row < rows.end; row += most) {
        const Range some = {row, std::min(row + most, rows.end)};
        const int own = tiles_of_call(*kernels_, product.floats(), some.size()), n = tiles.n % own == 0 ? own : 1;
        for (int t = 0; t < tiles.n; t += n) {
            multiply_part(product, {tiles.first + t * tiles.step, n, tiles.step}, some, x);
        }
    }
}

// Tiles [begin, end) of one product: as many places in them as the kernels take tiles at once, then what is left over.
void Model::multiply_range(const Product& product, Range tiles, Range rows, const Activations& x) const {
    const int most = product.rows_of_call(*kernels_, rows.size());
    const int at_once = tiles_of_call(*kernels_, product.floats(), most), step = tiles.size() / at_once;
    for (int tile = tiles.begin; tile < tiles.begin + step; ++tile) {
        multiply_rows(product, {tile, at_once, step}, rows, most, x);
    }
    for (int tile = tiles.begin + step * at_once; tile < tiles.end; ++tile) {
        multiply_rows(product, {tile, 1}, rows, most, x);
    }
}

// The same for many rows, by kernels that know the tiles to be in the cache.
void Model::multiply_pairs(const Product& product, Range tiles, Range rows, const Activations& x) const {
    float out[kPanelGroupRows * kBlock], up[kPanelGroupRows * kBlock];
    const int most = kernels_->pair_panels ? kPanelGroupRows : kGroupRows;
    int tile = tiles.begin;
    for (; tile + kAgainTiles <= tiles.end; tile += kAgainTiles) {
        for (int row = rows.begin; row < rows.end; row += most) {
            const Range group = {row, std::min(row + most, rows.end)};
            sum_pair(*kernels_, *product.weight, tile, group, x, row == rows.begin, out);
            if (product.gate_up != nullptr) {
                sum_pair(*kernels_, *product.gate_up, tile, group, x, row == rows.begin, up);
            }
            finish_sums(product, {tile, kAgainTiles}, group, out, up);
        }
    }
    if (tile < tiles.end) multiply_range(product, {tile, tiles.end}, rows, x);
}

void Model::multiply_exact(Progress& at, const Product* products, int n_products, const Rows& rows,
                           const Activations& x) {
    std::atomic<int>* next = next_counters(at);
    if (rows.size == 0) return;
    int n_tiles = 0, most = 1, at_once = 1;
    ptrdiff_t row_bytes = 1;
    for (int i = 0; i < n_products; ++i) {
        const Matrix& weight = *products[i].weight;
        n_tiles += weight.n_tiles();
        row_bytes = std::max<ptrdiff_t>(row_bytes, ptrdiff_t{weight.columns} * 2);
        const int rows_at_once = products[i].rows_of_call(*kernels_, rows.size);
        most = std::max(most, rows_at_once);
        at_once = std::max(at_once, tiles_of_call(*kernels_, products[i].floats(), rows_at_once));
    }
    const int chunk = std::max<int>(most, static_cast<int>(kActivationBytes / row_bytes) / most * most);
    const auto tiles = [&](Range range, Range part) {
        for (int first = part.begin; first < part.end; first += chunk) {
            const int last = std::min(part.end, first + chunk);
            int index = 0;  // tiles of all products are numbered through
            for (int i = 0; i < n_products; ++i) {
                const int n = products[i].weight->n_tiles();
                const Range own = {std::max(range.begin - index, 0), std::min(range.end - index, n)};
                if (own.begin < own.end) {
                    const bool panels = kernels_->pair_panels && rows.size >= kFewestPanelPairs;
                    const bool pairs = panels ? !products[i].floats() : in_pairs(products[i], rows.size);
                    (this->*(pairs ? &Model::multiply_pairs : &Model::multiply_range))(products[i], own, {first, last},
                                                                                       x);
                }
                index += n;
            }
        }
    };
    if (rows.size < kDynamicRows) return tiles(share(n_tiles, at.thread, pool_.size()), {rows.first, rows.end()});
    const int n = at_once > 1 ? at_once : kTilesPerUnit;
    for (int i = 0; i < rows.n_parts; ++i) {
        const int part = (rows.part_of(at.thread) + i) % rows.n_parts;
        for (int unit = next[part]++; unit * n < n_tiles; unit = next[part]++) {
            tiles({unit * n, std::min(n_tiles, (unit + 1) * n)}, rows.part(part));
        }
    }
}

}  // namespace codellama
