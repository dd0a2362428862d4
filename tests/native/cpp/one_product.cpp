// One kernel's product of a tile by some activation rows, so many times over: for counting its instructions under an
// emulator (benchmarks/arm_instructions.py). Prints the sum of the results, so that they are computed.
//   one_product SET FORMAT ROWS TIMES      FORMAT: its number in GGUF; a tile is 16 rows of 512 columns

#include <cstdio>
#include <cstdlib>
#include <vector>

#include "dispatch.h"
#include "pack.h"

using namespace codellama;

int main(int argc, char** argv) {
    if (argc != 5) return 2;
    constexpr int columns = 512;
    const Kernels& kernels = *choose_kernels(argv[1]);
    const Format format = format_of(std::atoi(argv[2]));
    const int rows = std::atoi(argv[3]), times = std::atoi(argv[4]);
    if (rows < 1 || rows > kernels.max_quant_rows) return 2;
    Matrix matrix = make_matrix(format, kLanes, columns);
    const std::vector<uint8_t> source(source_row_bytes(format, columns) * kLanes);
    pack_tile(matrix, 0, source.data());
    const std::vector<XBlock> x(static_cast<size_t>(rows * matrix.n_blocks()));
    float out[kMaxQuantRows * kMaxTiles * kLanes] = {}, sum = 0;
    for (int i = 0; i < times; ++i) {
        kernels.quant_tile[static_cast<int>(format)][rows - 1](matrix.tile(0), matrix.tile_bytes, matrix.n_blocks(),
                                                               x.data(), matrix.n_blocks(), out);
        sum += out[i % kLanes];
    }
    std::printf("%g\n", static_cast<double>(sum));
}
