// out[n, c, i, j] = sum over u, v of
//   kernels[n, u, v, i, j] * x[n, c, stride * i + u - margin, stride * j + v - margin]
//
// One struct serves the operator and its two gradients: x, kernels and out are the three tensors
// above, or the gradients by them, and each launcher writes one of the three from the other two.
// What is written lies contiguous, the rest is read through its strides; columns of the kernels are
// adjacent always, since they are what there is most of.
#pragma once

#include <cstdint>

#include "common/dtype.h"
#include "common/window.h"

// The runtime's own names, so that callers need no CUDA header.
struct CUstream_st;

namespace pysr {

struct SvconvParams : Windows {
  static constexpr int64_t max_size = 31, max_stride = 4;

  void* x;        // (n, c, h, w)
  void* kernels;  // (n, k, k, ho, wo)
  void* out;      // (n, c, ho, wo)
  int64_t n, c;
  int64_t x_stride[4], kernels_stride[4], out_stride[4];  // in elements; of kernels the first four
  DType dtype;
  int threads;      // CPU only
  void* workspace;  // CUDA only: as many bytes as the functions below say

  template <class F>
  void fields(F&& field) {
    field("x", x), field("kernels", kernels), field("out", out);
    field("n", n), field("c", c), field("h", h), field("w", w);
    field("k", k), field("stride", stride), field("padding", padding);
    field("x_stride", x_stride), field("kernels_stride", kernels_stride);
    field("out_stride", out_stride), field("dtype", dtype);
  }
  bool valid() const {
    return n > 0 && c > 0 && Windows::valid(max_size, max_stride) && x != nullptr &&
           kernels != nullptr && out != nullptr;
  }
};

void svconv_cpu(const SvconvParams& p);               // writes out
void svconv_grad_x_cpu(const SvconvParams& p);        // writes x
void svconv_grad_kernels_cpu(const SvconvParams& p);  // writes kernels

// These return a cudaError_t as an int, 0 being success.
int svconv_cuda(const SvconvParams& p, CUstream_st* stream);
int svconv_grad_x_cuda(const SvconvParams& p, CUstream_st* stream);
int svconv_grad_kernels_cuda(const SvconvParams& p, CUstream_st* stream);

inline int64_t svconv_workspace(const SvconvParams&) { return 0; }

// The gradient by the padded picture.
inline int64_t svconv_grad_x_workspace(const SvconvParams& p) {
  return p.n * p.c * p.padded_h() * p.padded_w() * accumulator_size(p.dtype);
}

inline int64_t svconv_grad_kernels_workspace(const SvconvParams&) { return 0; }

}  // namespace pysr
