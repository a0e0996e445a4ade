// conditional_residual_block in mixed precision, with its gradients: pictures in bfloat16, weights
// and their gradients in float. For processors with matrix tiles (AMX) alone, and for training.
//
// The condition is constant over each picture, and enters as the first convolution's bias: `cases`,
// its share for the first, an inner and the last row and column.
//
// Pictures lie (n, h, w, c), weights as in conditional_residual_block.h; all is contiguous.
#pragma once

#include <cstdint>

namespace pysr {

struct MixedResidualBlockParams {
  static constexpr int64_t max_channels = 512;

  void* f;             // (n, h, w, c)
  void* cases;         // (n, 3, 3, c + d), float
  void* conv1_weight;  // (c + d, c + d, 3, 3), of which the first c inputs count
  void* conv2_weight;  // (c, c + d, 3, 3)
  void* conv2_bias;    // (c)
  void* reduce_weight;  // (r, c)
  void* reduce_bias;    // (r)
  void* expand_weight;  // (c, r)
  void* expand_bias;    // (c)
  // Kept for the gradient.
  void* hidden;    // (n, mixed_residual_block_hidden): after LeakyReLU, in an order of its own
  void* residual;  // (n, h, w, c), before channel attention
  void* means;     // (n, c), float: the residual's
  void* reduced;   // (n, r), float: before LeakyReLU
  void* gates;     // (n, c), float
  void* out;       // (n, h, w, c)
  int64_t n, c, d, h, w, r;
  int threads;

  template <class F>
  void fields(F&& field) {
    field("f", f), field("cases", cases);
    field("conv1_weight", conv1_weight), field("conv2_weight", conv2_weight);
    field("conv2_bias", conv2_bias);
    field("reduce_weight", reduce_weight), field("reduce_bias", reduce_bias);
    field("expand_weight", expand_weight), field("expand_bias", expand_bias);
    field("hidden", hidden), field("residual", residual), field("means", means);
    field("reduced", reduced), field("gates", gates), field("out", out);
    field("n", n), field("c", c), field("d", d), field("h", h), field("w", w), field("r", r);
  }
  bool valid() const {
    for (const void* given : {f, cases, conv1_weight, conv2_weight, conv2_bias, reduce_weight,
                              reduce_bias, expand_weight, expand_bias, hidden, residual, means,
                              reduced, gates, out}) {
      if (given == nullptr) return false;
    }
    for (const int64_t channels : {c, d, r}) {
      if (channels < 1 || channels > max_channels) return false;
    }
    return n > 0 && h > 2 && w > 2 && h <= INT32_MAX && w <= INT32_MAX;
  }
  int64_t channels() const { return c + d; }  // between the convolutions
};

// What the gradient takes besides (`out` does not matter), and what it gives.
struct MixedResidualBlockGradParams : MixedResidualBlockParams {
  void* grad_out;           // (n, h, w, c)
  void* grad_f;             // (n, h, w, c)
  void* grad_cases;         // (n, 3, 3, c + d), float, as all below
  void* grad_conv1_weight;  // (c + d, c, 3, 3)
  void* grad_conv2_weight;  // (c, c + d, 3, 3)
  void* grad_conv2_bias;    // (n, c): of each picture
  void* grad_reduced;       // (n, r)
  void* grad_expanded;      // (n, c): before the sigmoid

  template <class F>
  void fields(F&& field) {
    MixedResidualBlockParams::fields(field);
    field("grad_out", grad_out), field("grad_f", grad_f), field("grad_cases", grad_cases);
    field("grad_conv1_weight", grad_conv1_weight), field("grad_conv2_weight", grad_conv2_weight);
    field("grad_conv2_bias", grad_conv2_bias);
    field("grad_reduced", grad_reduced), field("grad_expanded", grad_expanded);
  }
  bool valid() const {
    for (const void* given : {grad_out, grad_f, grad_cases, grad_conv1_weight, grad_conv2_weight,
                              grad_conv2_bias, grad_reduced, grad_expanded}) {
      if (given == nullptr) return false;
    }
    return MixedResidualBlockParams::valid();
  }
};

// Both throw where the processor, or this build, has no matrix tiles.
void mixed_residual_block_cpu(const MixedResidualBlockParams& p);
void mixed_residual_block_grad_cpu(const MixedResidualBlockGradParams& p);

// The bfloat16 numbers that `hidden` takes for a picture of h x w pixels and so many channels.
int64_t mixed_residual_block_hidden(int64_t h, int64_t w, int64_t channels);

}  // namespace pysr
