// Which instruction sets this build carries, which of them this machine has, and which one runs.

#pragma once

#include <string>
#include <vector>

#include "kernels.h"

namespace codellama {

// Names usable here, best first; the last one is always "portable".
std::vector<std::string> available_isas();

// The kernels of that name; an empty name means the best. Throws std::invalid_argument naming those available.
const Kernels* choose_kernels(const std::string& name);

}  // namespace codellama
