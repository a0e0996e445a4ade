// Why kernels cannot run on a GPU that is there.
#pragma once

namespace pysr {

// In CUDA's words, for the current device; empty if they can. A GPU older than those compiled for is
// one reason, a driver older than the CUDA runtime that is linked another.
const char* cuda_obstacle();

}  // namespace pysr
