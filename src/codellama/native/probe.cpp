#include "probe.h"

#include <atomic>
#include <chrono>
#include <cstdint>
#include <stdexcept>
#include <thread>

#include "arm_features.h"
#include "buffer.h"

#if defined(__x86_64__) && defined(__GNUC__)
#define CODELLAMA_PROBE_X86
#include <cpuid.h>
#include <immintrin.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace codellama {
namespace {

using Clock = std::chrono::steady_clock;

// Calls work(thread) on n_threads at once, again and again for `seconds`; units of work a second of all threads.
template <class Work>
double rate(int n_threads, double seconds, Work work) {
    std::vector<double> rates(static_cast<size_t>(n_threads));
    std::atomic<int> waiting{n_threads};
    const auto measure = [&](int thread) {
        work(thread);  // pages, registers and clocks
        for (--waiting; waiting.load() > 0;) std::this_thread::yield();
        const auto begin = Clock::now();
        double units = 0, elapsed = 0;
        while (elapsed < seconds) {
            units += work(thread);
            elapsed = std::chrono::duration<double>(Clock::now() - begin).count();
        }
        rates[static_cast<size_t>(thread)] = units / elapsed;
    };
    std::vector<std::thread> others;
    for (int i = 1; i < n_threads; ++i) others.emplace_back(measure, i);
    measure(0);
    for (std::thread& other : others) other.join();
    double sum = 0;
    for (double each : rates) sum += each;
    return sum;
}

// Keeps a result alive that nobody reads.
template <class T>
void keep(const T& value) {
    asm volatile("" : : "m"(value) : "memory");
}

// Four streams a thread: one stream alone does not keep enough cache lines under way.
constexpr size_t kStreams = 4, kLine = 64;

void read_plain(const uint8_t* data, size_t stride) {
    uint64_t sum[8] = {};
    for (size_t at = 0; at < stride; at += kLine) {
        for (size_t s = 0; s < kStreams; ++s) {
            const auto* line = reinterpret_cast<const uint64_t*>(data + s * stride + at);
            for (int i = 0; i < 8; ++i) sum[i] += line[i];
        }
    }
    keep(sum);
}

#if defined(CODELLAMA_PROBE_X86)

bool cpuid_bit(unsigned leaf, unsigned subleaf, int reg, int bit) {
    unsigned r[4] = {};
    return __get_cpuid_count(leaf, subleaf, &r[0], &r[1], &r[2], &r[3]) != 0 && ((r[reg] >> bit) & 1) != 0;
}

// Tiles are in the processor (CPUID 7.0) and the system lets this process use them.
bool has_amx(int bit) {
#if defined(__linux__)
    constexpr int kRequestPermission = 0x1023, kTileData = 18;
    return cpuid_bit(7, 0, 3, 24) && cpuid_bit(7, 0, 3, bit) &&
           syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
    static_cast<void>(bit);
    return false;
#endif
}
bool has_amx_int8() { return has_amx(25); }
bool has_amx_bf16() { return has_amx(22); }
bool has_avx512() { return __builtin_cpu_supports("avx512f"); }
bool has_avx512_vnni() { return has_avx512() && __builtin_cpu_supports("avx512vnni"); }
bool has_avx512_bf16() { return has_avx512() && cpuid_bit(7, 1, 0, 5); }
bool has_avx2() { return __builtin_cpu_supports("avx2"); }
#if defined(CODELLAMA_AVXVNNI)
bool has_avx_vnni() { return has_avx2() && cpuid_bit(7, 1, 0, 4); }
#endif

__attribute__((target("avx512f"))) void read_avx512(const uint8_t* data, size_t stride) {
    __m512i sum[kStreams] = {};
    for (size_t at = 0; at < stride; at += kLine) {
        for (size_t s = 0; s < kStreams; ++s) {
            sum[s] = _mm512_or_si512(sum[s], _mm512_load_si512(data + s * stride + at));
        }
    }
    keep(sum);
}

constexpr int kRounds = 20000;  // 0.05–2 ms a call: far longer than reading the clock

// Chains of independent multiply-adds: enough to hide their latency of four to five cycles (tiles: 52) on two ports.
// They begin apart, or GCC computes equal ones once: a third of them, so that a Zen 5 seemed to do 3.2 where it
// does 2.1.
__attribute__((target("avx512f,avx512vnni"))) double run_avx512_vnni() {
    __m512i a = _mm512_set1_epi8(1), b = _mm512_set1_epi8(2), sum[12];
    for (int i = 0; i < 12; ++i) sum[i] = _mm512_set1_epi32(i);
    for (int i = 0; i < kRounds; ++i) {
        for (__m512i& each : sum) each = _mm512_dpbusd_epi32(each, a, b);
        asm volatile("" : "+v"(a), "+v"(b));
    }
    keep(sum);
    return 12.0 * kRounds * 128;
}

__attribute__((target("avx512f,avx512bf16"))) double run_avx512_bf16() {
    __m512bh a = (__m512bh)_mm512_set1_epi32(0x3f803f80), b = a;
    __m512 sum[12];
    for (int i = 0; i < 12; ++i) sum[i] = _mm512_set1_ps(static_cast<float>(i));
    for (int i = 0; i < kRounds; ++i) {
        for (__m512& each : sum) each = _mm512_dpbf16_ps(each, a, b);
        asm volatile("" : "+v"(a), "+v"(b));
    }
    keep(sum);
    return 12.0 * kRounds * 64;
}

#if defined(CODELLAMA_AVXVNNI)
// Register by register: of 16, GCC leaves too few for 12 chains.
#define CHAIN(n) "%{vex%} vpdpbusd %%ymm12, %%ymm12, %%ymm" #n "\n\t"
__attribute__((target("avx2"))) double run_avx_vnni() {
    for (int i = 0; i < kRounds; ++i) {
        asm volatile(CHAIN(0) CHAIN(1) CHAIN(2) CHAIN(3) CHAIN(4) CHAIN(5) CHAIN(6) CHAIN(7) CHAIN(8) CHAIN(9) CHAIN(10)
                         CHAIN(11)::
                             : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10",
                               "xmm11");
    }
    return 12.0 * kRounds * 64;
}
#undef CHAIN
#endif

// Sums of 8 products in 16 bits, as 4-bit codes allow, then widened: no format can do better. The products are spelled
// out since they are all the same, and GCC would compute one.
__attribute__((target("avx2"))) double run_avx2_int8() {
    constexpr int kChains = 6;  // 8 leave no register for the products
    const __m256i a = _mm256_set1_epi8(1), b = _mm256_set1_epi8(2), ones = _mm256_set1_epi16(1);
    __m256i sum = {};
    for (int i = 0; i < kRounds / 8; ++i) {
        __m256i pairs[kChains] = {};
        for (int k = 0; k < 8; ++k) {
            for (__m256i& each : pairs) {
                __m256i product;
                asm volatile("vpmaddubsw %2, %1, %0" : "=x"(product) : "x"(a), "x"(b));
                each = _mm256_add_epi16(each, product);
            }
        }
        for (const __m256i& each : pairs) sum = _mm256_add_epi32(sum, _mm256_madd_epi16(each, ones));
    }
    keep(sum);
    return kRounds / 8 * 8.0 * kChains * 64;
}

#if defined(__linux__)
struct TileShapes {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

__attribute__((target("amx-tile"))) void clear_tiles() {
    static const TileShapes shapes;  // in memory: GCC 12 lets go of most of a local one
    keep(shapes);
    _tile_loadconfig(&shapes);
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    _tile_zero(4);
    _tile_zero(5);
    _tile_zero(6);
    _tile_zero(7);
}

// Four products of two tiles by two: 64 cycles of throughput hide the latency of 52.
__attribute__((target("amx-tile,amx-int8"))) double run_amx_int8() {
    clear_tiles();
    for (int i = 0; i < kRounds / 4; ++i) {
        _tile_dpbusd(0, 4, 6);
        _tile_dpbusd(1, 4, 7);
        _tile_dpbusd(2, 5, 6);
        _tile_dpbusd(3, 5, 7);
    }
    _tile_release();
    return 4.0 * (kRounds / 4) * 2 * 16 * 16 * 64;
}

__attribute__((target("amx-tile,amx-bf16"))) double run_amx_bf16() {
    clear_tiles();
    for (int i = 0; i < kRounds / 4; ++i) {
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_release();
    return 4.0 * (kRounds / 4) * 2 * 16 * 16 * 32;
}
#endif

void read_all(const uint8_t* data, size_t stride) {
    if (has_avx512()) read_avx512(data, stride);
    else read_plain(data, stride);
}

#else

void read_all(const uint8_t* data, size_t stride) { read_plain(data, stride); }

#if defined(__aarch64__)
constexpr int kRounds = 20000;

__attribute__((target("arch=armv8.2-a+dotprod"))) double run_neon_dotprod() {
    int8x16_t a = vdupq_n_s8(1), b = vdupq_n_s8(2);
    int32x4_t sum[16];
    for (int i = 0; i < 16; ++i) sum[i] = vdupq_n_s32(i);
    for (int i = 0; i < kRounds; ++i) {
        for (int32x4_t& each : sum) each = vdotq_s32(each, a, b);
        asm volatile("" : "+w"(a), "+w"(b));
    }
    keep(sum);
    return 16.0 * kRounds * 32;
}

__attribute__((target("arch=armv8.2-a+i8mm"))) double run_neon_i8mm() {
    int8x16_t a = vdupq_n_s8(1), b = vdupq_n_s8(2);
    int32x4_t sum[16];
    for (int i = 0; i < 16; ++i) sum[i] = vdupq_n_s32(i);
    for (int i = 0; i < kRounds; ++i) {
        for (int32x4_t& each : sum) each = vmmlaq_s32(each, a, b);
        asm volatile("" : "+w"(a), "+w"(b));
    }
    keep(sum);
    return 16.0 * kRounds * 64;
}
#endif
#endif

struct Peak {
    const char* name;
    bool (*present)();
    double (*run)();  // returns the operations done
};

const std::vector<Peak>& peaks() {
    static const std::vector<Peak> all = {
#if defined(CODELLAMA_PROBE_X86)
#if defined(__linux__)
        {"amx_int8", has_amx_int8, run_amx_int8},
        {"amx_bf16", has_amx_bf16, run_amx_bf16},
#endif
        {"avx512_vnni", has_avx512_vnni, run_avx512_vnni},
        {"avx512_bf16", has_avx512_bf16, run_avx512_bf16},
#if defined(CODELLAMA_AVXVNNI)
        {"avx_vnni", has_avx_vnni, run_avx_vnni},
#endif
        {"avx2_int8", has_avx2, run_avx2_int8},
#elif defined(__aarch64__)
        {"neon_i8mm", has_i8mm, run_neon_i8mm},
        {"neon_dotprod", has_dot_product, run_neon_dotprod},
#endif
    };
    return all;
}

}  // namespace

double read_bandwidth(size_t bytes, int n_threads, double seconds) {
    if (n_threads < 1) throw std::invalid_argument("at least one thread is needed");
    const size_t stride = bytes / static_cast<size_t>(n_threads) / kStreams / kLine * kLine;
    if (stride == 0) throw std::invalid_argument("too few bytes for so many threads");
    std::vector<Buffer> parts(static_cast<size_t>(n_threads));
    return rate(n_threads, seconds, [&](int thread) {
        Buffer& part = parts[static_cast<size_t>(thread)];
        if (part.data() == nullptr) {  // touched by the thread that reads it
            part = Buffer(stride * kStreams);
            for (size_t at = 0; at < stride * kStreams; at += kLine) part.data()[at] = 1;
        }
        read_all(part.data(), stride);
        return static_cast<double>(stride * kStreams);
    });
}

std::vector<std::string> peak_instructions() {
    std::vector<std::string> names;
    for (const Peak& peak : peaks()) {
        if (peak.present()) names.emplace_back(peak.name);
    }
    return names;
}

double peak_rate(const std::string& instruction, int n_threads, double seconds) {
    if (n_threads < 1) throw std::invalid_argument("at least one thread is needed");
    for (const Peak& peak : peaks()) {
        if (instruction == peak.name && peak.present()) {
            return rate(n_threads, seconds, [&](int) { return peak.run(); });
        }
    }
    throw std::invalid_argument("this machine has no instruction '" + instruction + "'");
}

}  // namespace codellama
