// Planes blurred by kernels that they share, every stride-th pixel kept:
//   out[n, c, i, j] = sum over u, v of
//     kernels[kernel of (n, c), u, v] * x[n, c, stride * i + u - margin, stride * j + v - margin]
// with one kernel per sample (pysr/ops/blur_decimate.py) or per channel (pysr/ops/mixture_blur.py).
// Only the choice of the kernel tells those two apart, so they share this one native operator.
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

struct BlurParams : Windows {
  static constexpr int64_t max_size = 64, max_stride = 8;

  void* x;           // (n, c, h, w)
  void* kernels;     // (kernel_count(), k, k), in the type that sums are taken in
  void* out;         // (n, c, ho, wo)
  int64_t n, c;
  bool per_channel;  // a kernel for every channel, else for every sample
  int64_t x_stride[4], out_stride[4];  // in elements
  DType dtype;       // of x and out
  int threads;       // CPU only
  void* workspace;   // CUDA only: as many bytes as the functions below say

  template <class F>
  void fields(F&& field) {
    field("x", x), field("kernels", kernels), field("out", out);
    field("n", n), field("c", c), field("h", h), field("w", w);
    field("k", k), field("stride", stride), field("padding", padding);
    field("per_channel", per_channel);
    field("x_stride", x_stride), field("out_stride", out_stride), field("dtype", dtype);
  }
  bool valid() const {
    return n > 0 && c > 0 && Windows::valid(max_size, max_stride) && x != nullptr &&
           kernels != nullptr && out != nullptr;
  }

  // Planes are counted as (n, c) lie: plane = sample * c + channel.
  PYSR_HD int64_t planes() const { return n * c; }
  PYSR_HD int64_t kernel_count() const { return per_channel ? c : n; }
  PYSR_HD int64_t kernel_of(int64_t plane) const { return per_channel ? plane % c : plane / c; }
  // The planes that share a kernel, in order.
  PYSR_HD int64_t sharers() const { return per_channel ? n : c; }
  PYSR_HD int64_t sharer(int64_t kernel, int64_t index) const {
    return per_channel ? index * c + kernel : kernel * c + index;
  }
  PYSR_HD int64_t offset(const int64_t (&tensor_stride)[4], int64_t plane) const {
    return plane / c * tensor_stride[0] + plane % c * tensor_stride[1];
  }
};

void blur_cpu(const BlurParams& p);               // writes out
void blur_grad_x_cpu(const BlurParams& p);        // writes x
void blur_grad_kernels_cpu(const BlurParams& p);  // writes kernels

// These return a cudaError_t as an int, 0 being success.
int blur_cuda(const BlurParams& p, CUstream_st* stream);
int blur_grad_x_cuda(const BlurParams& p, CUstream_st* stream);
int blur_grad_kernels_cuda(const BlurParams& p, CUstream_st* stream);

constexpr int64_t blur_cuda_tile = 32;  // side of a CUDA block's tile, in pixels of out

// The kernels' gradient is summed in this many parts per plane on CUDA, whatever the GPU.
inline int64_t blur_parts(const BlurParams& p) {
  const int64_t tiles = ceil_div(p.ho(), blur_cuda_tile) * ceil_div(p.wo(), blur_cuda_tile);
  return std::min<int64_t>(tiles, 64);
}

inline int64_t blur_workspace(const BlurParams&) { return 0; }

inline int64_t blur_grad_x_workspace(const BlurParams& p) {
  return p.planes() * p.padded_h() * p.padded_w() * accumulator_size(p.dtype);
}

inline int64_t blur_grad_kernels_workspace(const BlurParams& p) {
  return p.planes() * blur_parts(p) * p.k * p.k * accumulator_size(p.dtype);
}

}  // namespace pysr
