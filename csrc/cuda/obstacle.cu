#include "cuda/obstacle.h"

#include <cuda_runtime.h>

namespace pysr {
namespace {

__global__ void nothing() {}

}  // namespace

const char* cuda_obstacle() {
  // Loads the code of the current device's architecture, which all kernels here are compiled for.
  cudaFuncAttributes attributes;
  const cudaError_t status = cudaFuncGetAttributes(&attributes, nothing);
  if (status == cudaSuccess) return "";
  cudaGetLastError();  // else the next launch would find it
  return cudaGetErrorString(status);
}

}  // namespace pysr
