// out = pixel_shuffle(conv(x), shuffle): a zero-padded convolution of odd side, whose store is a
// pixel shuffle; shuffle 1 leaves a convolution. The layers of super-resolution outside its blocks
// are of this kind: heads, fusion, upscaling, and pixel-unshuffled strided convolutions.
//
// Pictures are read and written through their strides, so that they may be channels last; all else
// lies contiguous. The gradient by x is another such convolution, of turned weights.
#pragma once

#include <cstdint>
#include <initializer_list>

#include "common/dtype.h"

// The runtime's own names, so that callers need no CUDA header.
struct CUstream_st;

namespace pysr {

struct ConvShuffleParams {
  static constexpr int64_t max_channels = 4096;  // of x, and before the shuffle

  void* x;       // (n, c, h, w)
  void* weight;  // (o, c, side, side)
  void* bias;    // (o)
  void* packed;  // the weight as conv_shuffle_pack left it on this device, or null
  void* out;     // (n, o / shuffle^2, shuffle * h, shuffle * w)
  int64_t n, c, o, h, w;
  int64_t side;     // of the kernel: 3 or 5
  int64_t shuffle;  // its square divides o
  int64_t x_stride[4], out_stride[4];  // in elements
  DType dtype;      // not float64
  int threads;      // CPU only
  void* workspace;  // CUDA only: as many bytes as conv_shuffle_workspace says

  template <class F>
  void fields(F&& field) {
    field("x", x), field("weight", weight), field("bias", bias), field("packed", packed);
    field("out", out), field("n", n), field("c", c), field("o", o), field("h", h), field("w", w);
    field("side", side), field("shuffle", shuffle);
    field("x_stride", x_stride), field("out_stride", out_stride), field("dtype", dtype);
  }
  // What packing needs.
  bool valid_weight() const {
    for (const int64_t channels : {c, o}) {
      if (channels < 1 || channels > max_channels) return false;
    }
    return weight != nullptr && (side == 3 || side == 5) && shuffle > 0 && shuffle <= 16 &&
           o % (shuffle * shuffle) == 0 && dtype != DType::float64;
  }
  bool valid() const {
    for (const void* given : {x, bias, out}) {
      if (given == nullptr) return false;
    }
    return valid_weight() && n > 0 && h > 0 && w > 0 && shuffle * h <= INT32_MAX &&
           shuffle * w <= INT32_MAX;
  }
};

void conv_shuffle_cpu(const ConvShuffleParams& p);

// Weights packed once for many calls: the bytes that `packed` takes, and the launcher that fills
// it. Of the params only c, o, side, shuffle, dtype, weight and packed matter.
int64_t conv_shuffle_packed_cpu(const ConvShuffleParams& p);
void conv_shuffle_pack_cpu(const ConvShuffleParams& p);

// Return a cudaError_t as an int, 0 being success. A call without `packed` packs into its
// workspace.
int conv_shuffle_cuda(const ConvShuffleParams& p, CUstream_st* stream);
int64_t conv_shuffle_workspace(const ConvShuffleParams& p);
int64_t conv_shuffle_packed_cuda(const ConvShuffleParams& p);
int conv_shuffle_pack_cuda(const ConvShuffleParams& p, CUstream_st* stream);

// The convolution's gradient by its weight, before any shuffle; on CUDA this is left to torch.
struct ConvShuffleGradWeightParams {
  void* x;            // (n, c, h, w)
  void* grad;         // (n, o, h, w), of the convolution's result
  void* grad_weight;  // (o, c, side, side)
  int64_t n, c, o, h, w, side;
  int64_t x_stride[4], grad_stride[4];  // in elements
  DType dtype;                          // not float64
  int threads;

  template <class F>
  void fields(F&& field) {
    field("x", x), field("grad", grad), field("grad_weight", grad_weight), field("n", n);
    field("c", c), field("o", o), field("h", h), field("w", w), field("side", side);
    field("x_stride", x_stride), field("grad_stride", grad_stride), field("dtype", dtype);
  }
  bool valid() const {
    for (const int64_t channels : {c, o}) {
      if (channels < 1 || channels > ConvShuffleParams::max_channels) return false;
    }
    for (const void* given : {x, grad, grad_weight}) {
      if (given == nullptr) return false;
    }
    return (side == 3 || side == 5) && n > 0 && h > 0 && w > 0 && h <= INT32_MAX &&
           w <= INT32_MAX && dtype != DType::float64;
  }
};

void conv_shuffle_grad_weight_cpu(const ConvShuffleGradWeightParams& p);

}  // namespace pysr
