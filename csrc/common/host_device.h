// Marks functions that both the host and CUDA kernels call, so that plain C++ compilers read them
// too.
#pragma once

#ifdef __CUDACC__
#define PYSR_HD __host__ __device__
#else
#define PYSR_HD
#endif
