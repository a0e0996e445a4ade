// out[n, c, i, j] = sum over u, v of
//   K[u, v] * x[n, c, stride * i + u - margin, stride * j + v - margin], where
//   K[u, v] = sum over m of coefficients[n, m, i, j] * bases[m, u, v]
//
// The sum of out times a gradient by out is linear in each of x, coefficients, bases and that
// gradient. So one struct serves the operator and its three gradients: the fields are those four,
// or the gradients by them, and each launcher writes one of the four from the other three. What is
// written, coefficients and bases lie contiguous; x and out are read through their strides.
#pragma once

#include <algorithm>
#include <cstdint>

#include "common/dtype.h"
#include "common/window.h"

// The runtime's own names, so that callers need no CUDA header.
struct CUstream_st;

namespace pysr {

struct BasisSvconvParams : Windows {
  static constexpr int64_t max_bases = 32, max_size = 31, max_stride = 4;

  void* x;             // (n, c, h, w)
  void* coefficients;  // (n, m, ho, wo)
  void* bases;         // (m, k, k)
  void* out;           // (n, c, ho, wo)
  int64_t n, c, m;
  int64_t x_stride[4], out_stride[4];  // in elements
  DType dtype;
  int threads;      // CPU only
  void* workspace;  // CUDA only: as many bytes as the functions below say

  template <class F>
  void fields(F&& field) {
    field("x", x), field("coefficients", coefficients), field("bases", bases), field("out", out);
    field("n", n), field("c", c), field("m", m), field("h", h), field("w", w);
    field("k", k), field("stride", stride), field("padding", padding);
    field("x_stride", x_stride), field("out_stride", out_stride), field("dtype", dtype);
  }
  bool valid() const {
    return n > 0 && c > 0 && m > 0 && m <= max_bases && Windows::valid(max_size, max_stride) &&
           x != nullptr && coefficients != nullptr && bases != nullptr && out != nullptr;
  }
};

void basis_svconv_cpu(const BasisSvconvParams& p);                    // writes out
void basis_svconv_grad_x_cpu(const BasisSvconvParams& p);             // writes x
void basis_svconv_grad_coefficients_cpu(const BasisSvconvParams& p);  // writes coefficients
void basis_svconv_grad_bases_cpu(const BasisSvconvParams& p);         // writes bases

// These return a cudaError_t as an int, 0 being success.
int basis_svconv_cuda(const BasisSvconvParams& p, CUstream_st* stream);
int basis_svconv_grad_x_cuda(const BasisSvconvParams& p, CUstream_st* stream);
int basis_svconv_grad_coefficients_cuda(const BasisSvconvParams& p, CUstream_st* stream);
int basis_svconv_grad_bases_cuda(const BasisSvconvParams& p, CUstream_st* stream);

inline int64_t basis_svconv_workspace(const BasisSvconvParams&) { return 0; }
inline int64_t basis_svconv_grad_coefficients_workspace(const BasisSvconvParams&) { return 0; }

// The gradient by the padded picture.
inline int64_t basis_svconv_grad_x_workspace(const BasisSvconvParams& p) {
  return p.n * p.c * p.padded_h() * p.padded_w() * accumulator_size(p.dtype);
}

// The bases' gradient is summed in this many parts of the output's `pieces`, whatever the machine:
// few, so that they take little memory, yet enough for every processor core or multiprocessor.
inline int64_t basis_svconv_parts(int64_t pieces) { return std::min<int64_t>(pieces, 64); }

// Output pixels of a CUDA block that sums the bases' gradient.
constexpr int64_t basis_svconv_cuda_rows = 4, basis_svconv_cuda_columns = 32;

PYSR_HD inline int64_t basis_svconv_cuda_pieces(const BasisSvconvParams& p) {
  return p.n * ceil_div(p.ho(), basis_svconv_cuda_rows) *
         ceil_div(p.wo(), basis_svconv_cuda_columns);
}

inline int64_t basis_svconv_grad_bases_workspace(const BasisSvconvParams& p) {
  return basis_svconv_parts(basis_svconv_cuda_pieces(p)) * p.m * p.k * p.k *
         accumulator_size(p.dtype);
}

}  // namespace pysr
