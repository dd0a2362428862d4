// Which of ARM's optional instructions this machine has. For dispatch and probe; empty on other architectures.
#pragma once

#if defined(__aarch64__)
#include <cstddef>

#if defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#elif defined(__APPLE__)
#include <sys/sysctl.h>
#endif

namespace codellama {

inline bool has_dot_product() {  // Apple M1 2020, Cortex-A76 2018, Graviton 2
#if defined(__linux__)
    return (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
#else
    return true;  // every 64-bit Apple processor that runs a current system
#endif
}

inline bool has_i8mm() {  // Graviton 3 2022, Apple M2 2022
#if defined(__linux__)
    return has_dot_product() && (getauxval(AT_HWCAP2) & HWCAP2_I8MM) != 0;
#elif defined(__APPLE__)
    int present = 0;
    size_t size = sizeof(present);
    return sysctlbyname("hw.optional.arm.FEAT_I8MM", &present, &size, nullptr, 0) == 0 && present != 0;
#else
    return false;
#endif
}

}  // namespace codellama
#endif
