// The one place that launches a CUDA kernel.
//
// Kernels name their dynamic shared memory and their launch through this header, so that the
// emulator of tests/native can run the very same source on a processor.
#pragma once

#include <cstddef>
#include <cstdint>

#ifdef PYSR_CUDA_EMULATOR
#include "cuda_emulator.h"
#else
#include <cuda_runtime.h>

#define PYSR_DYNAMIC_SHARED(T, name)                                 \
  extern __shared__ __align__(16) unsigned char name##_bytes[];      \
  T* const name = reinterpret_cast<T*>(name##_bytes)

namespace pysr {

// Every GPU grants 48 KiB of shared memory. More must be asked for, once for the kernel: always the
// same, which every GPU since sm_80 has, because threads that ask for what each of them needs lower
// it for one another.
constexpr size_t kGranted = 48 * 1024;
constexpr size_t kMostShared = 99 * 1024;

template <class... P, class... A>
cudaError_t launch(void (*kernel)(P...), int64_t blocks, dim3 threads, size_t shared,
                   cudaStream_t stream, A... arguments) {
  if (blocks < 1 || blocks > INT32_MAX) return cudaErrorInvalidConfiguration;
  if (shared > kMostShared) return cudaErrorInvalidConfiguration;
  if (shared > kGranted) {
    const cudaError_t refused = cudaFuncSetAttribute(
        kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(kMostShared));
    if (refused != cudaSuccess) {
      cudaGetLastError();  // else the next launch would find this one's error
      return refused;
    }
  }
  kernel<<<dim3(static_cast<unsigned>(blocks)), threads, shared, stream>>>(arguments...);
  return cudaGetLastError();
}

}  // namespace pysr
#endif
