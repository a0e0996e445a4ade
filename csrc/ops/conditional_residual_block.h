// out = f + gate * r,  r = conv2(LeakyReLU(conv1(concat(f, cond)), 0.2)), where cond is a picture
// or constant over it, both convolutions are 3x3 and zero-padded, and
//   gate = sigmoid(expand * LeakyReLU(reduce * mean(r), 0.2)),
// mean over all pixels, one number per channel; a gate that is given stands in for it.
//
// f, cond and out are read and written through their strides, and out may be f; all else lies
// contiguous. For inference alone: there is no gradient.
#pragma once

#include <cstdint>
#include <initializer_list>

#include "common/dtype.h"
#include "common/host_device.h"

// The runtime's own names, so that callers need no CUDA header.
struct CUstream_st;

namespace pysr {

struct ConditionalResidualBlockParams {
  static constexpr int64_t max_channels = 512;  // of f, of cond, and between reduce and expand

  void* f;     // (n, c, h, w)
  void* cond;  // (n, d, h, w); a constant one has strides 0 along rows and columns
  void* conv1_weight;   // (c + d, c + d, 3, 3)
  void* conv1_bias;     // (c + d)
  void* conv2_weight;   // (c, c + d, 3, 3)
  void* conv2_bias;     // (c)
  void* reduce_weight;  // (r, c)
  void* reduce_bias;    // (r)
  void* expand_weight;  // (c, r)
  void* expand_bias;    // (c)
  void* gate;           // (n, c), or null
  void* packed;         // conv1_weight and conv2_weight as the pack launcher left them, or null
  void* out;            // (n, c, h, w)
  int64_t n, c, d, h, w, r;
  int64_t f_stride[4], cond_stride[4], out_stride[4];  // in elements
  DType dtype;      // not float64
  bool bfloat16;    // floats may be multiplied so, where that is faster: CPUs with matrix tiles
  int threads;      // CPU only
  void* workspace;  // CUDA only: as many bytes as the function below says

  template <class F>
  void fields(F&& field) {
    field("f", f), field("cond", cond);
    field("conv1_weight", conv1_weight), field("conv1_bias", conv1_bias);
    field("conv2_weight", conv2_weight), field("conv2_bias", conv2_bias);
    field("reduce_weight", reduce_weight), field("reduce_bias", reduce_bias);
    field("expand_weight", expand_weight), field("expand_bias", expand_bias);
    field("gate", gate), field("packed", packed), field("out", out);
    field("n", n), field("c", c), field("d", d), field("h", h), field("w", w), field("r", r);
    field("f_stride", f_stride), field("cond_stride", cond_stride);
    field("out_stride", out_stride), field("dtype", dtype), field("bfloat16", bfloat16);
  }
  // What packing needs.
  bool valid_weights() const {
    for (const int64_t channels : {c, d}) {
      if (channels < 1 || channels > max_channels) return false;
    }
    return conv1_weight != nullptr && conv2_weight != nullptr && dtype != DType::float64;
  }
  bool valid() const {
    for (const void* given : {f, cond, conv1_bias, conv2_bias, reduce_weight, reduce_bias,
                              expand_weight, expand_bias, out}) {
      if (given == nullptr) return false;
    }
    return valid_weights() && r >= 1 && r <= max_channels && n > 0 && h > 0 && w > 0 &&
           h <= INT32_MAX && w <= INT32_MAX;
  }
  PYSR_HD bool constant() const { return cond_stride[2] == 0 && cond_stride[3] == 0; }
  PYSR_HD int64_t hidden() const { return c + d; }  // channels between the convolutions
};

void conditional_residual_block_cpu(const ConditionalResidualBlockParams& p);

// Weights packed once for many calls: the bytes that `packed` takes, and the launcher that fills
// it. Of the params only c, d, constant(), dtype, bfloat16, the two weights and packed matter; what
// is packed for a constant condition does not serve a picture.
int64_t conditional_residual_block_packed_cpu(const ConditionalResidualBlockParams& p);
void conditional_residual_block_pack_cpu(const ConditionalResidualBlockParams& p);
int64_t conditional_residual_block_packed_cuda(const ConditionalResidualBlockParams& p);
int conditional_residual_block_pack_cuda(const ConditionalResidualBlockParams& p,
                                         CUstream_st* stream);

// Returns a cudaError_t as an int, 0 being success.
int conditional_residual_block_cuda(const ConditionalResidualBlockParams& p, CUstream_st* stream);

// The bytes that the workspace takes.
int64_t conditional_residual_block_workspace(const ConditionalResidualBlockParams& p);

}  // namespace pysr
