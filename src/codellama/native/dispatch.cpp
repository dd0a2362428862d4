#include "dispatch.h"

#include <stdexcept>

#include "arm_features.h"

#if defined(CODELLAMA_X86)
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#endif

namespace codellama {

#if defined(CODELLAMA_X86) && !defined(CODELLAMA_AVXVNNI)
const Kernels* kernels_avxvnni() { return nullptr; }
#endif

namespace {

struct Candidate {
    const char* name;
    bool (*present)();
    const Kernels* (*kernels)();
};

#if defined(CODELLAMA_X86)
bool has_avx512() {  // Ice Lake 2019, Zen 4 2022; the compiler's test includes the system's saving of the registers
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512vnni");
}
// Sapphire Rapids 2023. The system saves the tiles of processes that ask for it (Linux 5.16 and later).
bool has_amx() {
#if defined(__linux__)
    unsigned a, b, c, d;
    if (!has_avx512() || !__builtin_cpu_supports("avx512vbmi") || __get_cpuid_count(7, 1, &a, &b, &c, &d) == 0 ||
        (a & 1u << 5) == 0)
        return false;  // AVX512_BF16
    constexpr unsigned kBf16 = 1u << 22, kTile = 1u << 24, kInt8 = 1u << 25, kAll = kBf16 | kTile | kInt8;
    if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0 || (d & kAll) != kAll) return false;
    constexpr long kRequestPermission = 0x1023, kTileData = 18;
    return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
    return false;
#endif
}
bool has_avx512bf16() {
    unsigned a, b, c, d;
    return has_avx512() && __get_cpuid_count(7, 1, &a, &b, &c, &d) != 0 && (a & 1u << 5) != 0;
}
// AMD's pay, since Zen 4 (2022). On Intel's Emerald Rapids an instruction of 32 such products takes 0.73 ns, of 16 of
// float32 0.18.
bool has_quick_bf16() { return has_avx512bf16() && __builtin_cpu_is("amd"); }
bool has_slow_bf16() { return has_avx512bf16() && !__builtin_cpu_is("amd"); }
bool has_avx2() {  // Haswell 2013, Zen 2017; every one of these has F16C
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}
bool has_avxvnni() {  // Alder Lake 2021, Zen 5 2024; GCC 11, Clang 12
    unsigned a, b, c, d;
    return has_avx2() && __get_cpuid_count(7, 1, &a, &b, &c, &d) != 0 && (a & 1u << 4) != 0 &&
           kernels_avxvnni() != nullptr;
}
#endif
bool always() { return true; }

constexpr Candidate kCandidates[] = {
#if defined(CODELLAMA_X86)
    {"amx", has_amx, kernels_amx},
    {"avx512bf16", has_quick_bf16, kernels_avx512bf16},
    {"avx512", has_avx512, kernels_avx512},
    {"avx512bf16", has_slow_bf16, kernels_avx512bf16},
    {"avxvnni", has_avxvnni, kernels_avxvnni},
    {"avx2", has_avx2, kernels_avx2},
#endif
#if defined(CODELLAMA_NEON)
    {"i8mm", has_i8mm, kernels_i8mm},
    {"neon", has_dot_product, kernels_neon},
#endif
    {"portable", always, kernels_portable},
};

}  // namespace

std::vector<std::string> available_isas() {
    std::vector<std::string> names;
    for (const Candidate& c : kCandidates) {
        if (c.present()) names.emplace_back(c.name);
    }
    return names;
}

const Kernels* choose_kernels(const std::string& name) {
    std::string known;
    for (const Candidate& c : kCandidates) {
        if (!c.present()) continue;
        if (name.empty() || name == c.name) return c.kernels();
        known += known.empty() ? c.name : std::string(", ") + c.name;
    }
    throw std::invalid_argument("instruction set '" + name + "' is not available here; available: " + known);
}

}  // namespace codellama
