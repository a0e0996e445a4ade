// out = f + gate * r,  r = conv2(LeakyReLU(conv1(concat(f, cond)), 0.2)), where cond is a constant
// picture given by one number per channel, both convolutions are 3x3 and zero-padded, and
//   gate = sigmoid(expand * LeakyReLU(reduce * mean(r), 0.2)),
// mean over all pixels, one number per channel; a gate that is given stands in for it.
//
// f and out are read and written through their strides; all else lies contiguous. For inference
// alone: there is no gradient.
#pragma once

#include <algorithm>
#include <cstdint>

#include "common/dtype.h"
#include "common/index.h"

// The runtime's own names, so that callers need no CUDA header.
struct CUstream_st;

namespace pysr {

struct ConditionalResidualBlockParams {
  static constexpr int64_t max_channels = 512;  // of f, of cond, and between reduce and expand

  void* f;     // (n, c, h, w)
  void* cond;  // (n, d)
  void* conv1_weight;   // (c + d, c + d, 3, 3)
  void* conv1_bias;     // (c + d)
  void* conv2_weight;   // (c, c + d, 3, 3)
  void* conv2_bias;     // (c)
  void* reduce_weight;  // (r, c)
  void* reduce_bias;    // (r)
  void* expand_weight;  // (c, r)
  void* expand_bias;    // (c)
  void* gate;           // (n, c), or null
  void* out;            // (n, c, h, w)
  int64_t n, c, d, h, w, r;
  int64_t f_stride[4], out_stride[4];  // in elements
  DType dtype;      // not float64
  int threads;      // CPU only
  void* workspace;  // CUDA only: as many bytes as the function below says

  template <class F>
  void fields(F&& field) {
    field("f", f), field("cond", cond);
    field("conv1_weight", conv1_weight), field("conv1_bias", conv1_bias);
    field("conv2_weight", conv2_weight), field("conv2_bias", conv2_bias);
    field("reduce_weight", reduce_weight), field("reduce_bias", reduce_bias);
    field("expand_weight", expand_weight), field("expand_bias", expand_bias);
    field("gate", gate), field("out", out);
    field("n", n), field("c", c), field("d", d), field("h", h), field("w", w), field("r", r);
    field("f_stride", f_stride), field("out_stride", out_stride), field("dtype", dtype);
  }
  bool valid() const {
    for (const void* given : {f, cond, conv1_weight, conv1_bias, conv2_weight, conv2_bias,
                              reduce_weight, reduce_bias, expand_weight, expand_bias, out}) {
      if (given == nullptr) return false;
    }
    for (const int64_t channels : {c, d, r}) {
      if (channels < 1 || channels > max_channels) return false;
    }
    return n > 0 && h > 0 && w > 0 && h <= INT32_MAX && w <= INT32_MAX && dtype != DType::float64;
  }
  PYSR_HD int64_t hidden() const { return c + d; }  // channels between the convolutions
};

void conditional_residual_block_cpu(const ConditionalResidualBlockParams& p);

// Returns a cudaError_t as an int, 0 being success.
int conditional_residual_block_cuda(const ConditionalResidualBlockParams& p, CUstream_st* stream);

// Where the CUDA kernels keep what lies between them: floats, counted from the workspace's start.
struct ConditionalResidualBlockWorkspace {
  static constexpr int64_t pixels_per_part = 4096;

  int64_t parts;   // in which a channel of r is summed, whatever the GPU
  int64_t cases;   // (n, 9, hidden)
  int64_t hidden;  // (n, hidden, h, w)
  int64_t r;       // (n, c, h, w)
  int64_t sums;    // (n, c, parts)
  int64_t gates;   // (n, c)
  int64_t end;
  explicit ConditionalResidualBlockWorkspace(const ConditionalResidualBlockParams& p) {
    const int64_t pixels = p.h * p.w;
    parts = std::min<int64_t>(ceil_div(pixels, pixels_per_part), 64);
    cases = 0;
    hidden = cases + p.n * 9 * p.hidden();
    r = hidden + p.n * p.hidden() * pixels;
    sums = r + p.n * p.c * pixels;
    gates = sums + p.n * p.c * parts;
    end = gates + p.n * p.c;
  }
};

inline int64_t conditional_residual_block_workspace(const ConditionalResidualBlockParams& p) {
  return ConditionalResidualBlockWorkspace(p).end * static_cast<int64_t>(sizeof(float));
}

}  // namespace pysr
