// The parts of residual blocks that work on matrix tiles, as plain functions: what is compiled for
// processors that have them shares no inline function with the rest, which must run everywhere.
//
// Memory is the caller's, aligned to a cache line: `shared` is one call's, `scratch` one thread's.
#pragma once

#include <cstdint>

#include "common/dtype.h"
#include "ops/mixed_residual_block.h"

namespace pysr {
namespace amx {

// Channels of conditional_residual_block: f's, and between its convolutions, of which the first one
// convolves `inputs`: a constant condition's are left out.
struct BlockChannels {
  int64_t c, hidden, inputs;
};

// Its weights, packed: both convolutions', first and second.
int64_t block_weights(const BlockChannels& channels);  // in numbers
void pack_block(const float* conv1, const float* conv2, const BlockChannels& channels,
                BFloat16* to);

// The pictures of one block, of floats or bfloat16; their hidden features lie one after another.
template <class S>
struct BlockPictures {
  BlockChannels channels;
  int64_t h, w;
  const BFloat16* packed;
  const S *f, *cond;  // the condition where it is a picture
  S* out;
  const int64_t *f_stride, *cond_stride, *out_stride;
  BFloat16* hidden;  // block_hidden(h, w, channels.hidden) numbers each
};
int64_t block_hidden(int64_t h, int64_t w, int64_t channels);
int64_t block_padded(int64_t channels);  // channels of a pixel of `hidden`, or of sums and biases
int64_t block_bands(int64_t h, int64_t w);  // parts of a picture that are worked on at once
int64_t block_scratch(int64_t h, int64_t w, int64_t inputs);  // in bytes
// Where the pixel (y, x) of a picture's hidden features lies.
int64_t block_hidden_at(int64_t h, int64_t w, int64_t channels, int64_t y, int64_t x);
// The zeros around them.
void block_clear_frame(int64_t h, int64_t w, int64_t channels, BFloat16* hidden);
// hidden = LeakyReLU(conv1(f, cond) + cases), cases being (3, 3, padded); and its sums (padded).
template <class S>
void block_activate(const BlockPictures<S>& p, int64_t n, int64_t band, const float* cases,
                    float* sums, void* scratch);
// out = f + gates * (conv2(hidden) + bias), both padded.
template <class S>
void block_add_residual(const BlockPictures<S>& p, int64_t n, int64_t band, const float* bias,
                        const float* gates);

// mixed_residual_block, picture by picture.
int64_t mixed_shared(const MixedResidualBlockParams& p);  // in bytes, as all of these
int64_t mixed_scratch(const MixedResidualBlockParams& p);
void mixed_prepare(const MixedResidualBlockParams& p, void* shared);
void mixed_picture(const MixedResidualBlockParams& p, int64_t n, const void* shared, void* scratch);

// Its gradient, group by group of pictures, then summed over the groups.
int64_t mixed_grad_groups(const MixedResidualBlockGradParams& p);
int64_t mixed_grad_shared(const MixedResidualBlockGradParams& p);
int64_t mixed_grad_scratch(const MixedResidualBlockGradParams& p);
void mixed_grad_prepare(const MixedResidualBlockGradParams& p, void* shared);
void mixed_grad_group(const MixedResidualBlockGradParams& p, int64_t group, void* shared,
                      void* scratch);
void mixed_grad_sum(const MixedResidualBlockGradParams& p, const void* shared);

}  // namespace amx
}  // namespace pysr
