// out[n, c, i, j] = sum over u, v of
//   kernels[n, u, v] * x[n, c, stride * i + u - margin, stride * j + v - margin]
//
// One struct serves the operator and its two gradients: x, kernels and out are the three tensors
// above, or the gradients by them, and each launcher writes one of the three from the other two.
// What is written, and kernels always, lies contiguous; x and out are read through their strides.
#pragma once

#include <algorithm>
#include <cstdint>

#include "common/dtype.h"
#include "common/window.h"

// The runtime's own names, so that callers need no CUDA header.
struct CUstream_st;

namespace pysr {

struct BlurDecimateParams : Windows {
  static constexpr int64_t max_size = 64, max_stride = 8;

  void* x;        // (n, c, h, w)
  void* kernels;  // (n, k, k)
  void* out;      // (n, c, ho, wo)
  int64_t n, c;
  int64_t x_stride[4], out_stride[4];  // in elements
  DType dtype;
  int threads;      // CPU only
  void* workspace;  // CUDA only: as many bytes as the functions below say

  template <class F>
  void fields(F&& field) {
    field("x", x), field("kernels", kernels), field("out", out);
    field("n", n), field("c", c), field("h", h), field("w", w);
    field("k", k), field("stride", stride), field("padding", padding);
    field("x_stride", x_stride), field("out_stride", out_stride), field("dtype", dtype);
  }
  bool valid() const {
    return n > 0 && c > 0 && Windows::valid(max_size, max_stride) && x != nullptr &&
           kernels != nullptr && out != nullptr;
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

inline int64_t blur_decimate_workspace(const BlurDecimateParams&) { return 0; }

inline int64_t blur_decimate_grad_x_workspace(const BlurDecimateParams& p) {
  return p.n * p.c * p.padded_h() * p.padded_w() * accumulator_size(p.dtype);
}

inline int64_t blur_decimate_grad_kernels_workspace(const BlurDecimateParams& p) {
  return p.n * p.c * blur_decimate_parts(p) * p.k * p.k * accumulator_size(p.dtype);
}

}  // namespace pysr
