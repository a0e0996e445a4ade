// out[n, c, i, j] = sum over u, v of
//   kernels[n, u, v] * x[n, c, reflect(stride * i + u - k / 2), reflect(stride * j + v - k / 2)]
//
// One struct serves the operator and its two gradients: x, kernels and out are the three tensors
// above, or the gradients by them, and each launcher writes one of the three from the other two.
// What is written, and kernels always, lies contiguous; x and out are read through their strides.
#pragma once

#include <algorithm>
#include <cstdint>

#include "common/dtype.h"
#include "common/index.h"

// The runtime's own names, so that callers need no CUDA header.
struct CUstream_st;

namespace pysr {

struct BlurDecimateParams {
  static constexpr int64_t max_size = 64, max_stride = 8;

  void* x;                // (n, c, h, w)
  void* kernels;          // (n, k, k)
  void* out;              // (n, c, ho, wo)
  int64_t n, c, h, w;
  int64_t k, stride;
  int64_t x_stride[4], out_stride[4];  // in elements
  DType dtype;
  int threads;      // CPU only
  void* workspace;  // CUDA gradients only: as many bytes as the functions below say

  PYSR_HD int64_t ho() const { return ceil_div(h, stride); }
  PYSR_HD int64_t wo() const { return ceil_div(w, stride); }
  PYSR_HD int64_t margin() const { return k / 2; }
  // Extent of the padded picture that the kernels touch, from -margin on.
  PYSR_HD int64_t padded_h() const { return stride * (ho() - 1) + k; }
  PYSR_HD int64_t padded_w() const { return stride * (wo() - 1) + k; }
  // Taps whose columns differ by a multiple of the stride form a phase.
  PYSR_HD int64_t phases() const { return stride < k ? stride : k; }
  bool valid() const {
    return n > 0 && c > 0 && h > 0 && w > 0 && k > 0 && k <= max_size && stride > 0 &&
           stride <= max_stride && x != nullptr && kernels != nullptr && out != nullptr;
  }
};

void blur_decimate_cpu(const BlurDecimateParams& p);               // writes out
void blur_decimate_grad_x_cpu(const BlurDecimateParams& p);        // writes x
void blur_decimate_grad_kernels_cpu(const BlurDecimateParams& p);  // writes kernels

// These return a cudaError_t as an int, 0 being success.
int blur_decimate_cuda(const BlurDecimateParams& p, CUstream_st* stream);
int blur_decimate_grad_x_cuda(const BlurDecimateParams& p, CUstream_st* stream);
int blur_decimate_grad_kernels_cuda(const BlurDecimateParams& p, CUstream_st* stream);

constexpr int64_t blur_decimate_cuda_tile = 32;  // side of a CUDA block's tile, in pixels of out

// The kernels' gradient is summed in this many parts per plane on CUDA, whatever the GPU.
inline int64_t blur_decimate_parts(const BlurDecimateParams& p) {
  const int64_t side = blur_decimate_cuda_tile;
  const int64_t tiles = ceil_div(p.ho(), side) * ceil_div(p.wo(), side);
  return std::min<int64_t>(tiles, 64);
}

inline int64_t blur_decimate_grad_x_workspace(const BlurDecimateParams& p) {
  return p.n * p.c * p.padded_h() * p.padded_w() * accumulator_size(p.dtype);
}

inline int64_t blur_decimate_grad_kernels_workspace(const BlurDecimateParams& p) {
  return p.n * p.c * blur_decimate_parts(p) * p.k * p.k * accumulator_size(p.dtype);
}

}  // namespace pysr
