// Layouts and threads of conv_shuffle; the convolution is in winograd_tile.cpp.
//
// Output channels are worked on pixel of the shuffle by pixel, so that the channels which lie side
// by side in `out` are side by side in a vector too. Any other layout is written number by number
// from a table of places, which costs less than a second pass over the picture.
#include <cstdint>
#include <vector>

#include "common/check.h"
#include "cpu/winograd.h"
#include "ops/conv_shuffle.h"

namespace pysr {
namespace {

using Params = ConvShuffleParams;

WinogradWeights weights_of(const Params& p, const WinogradTile& kernels) {
  return {kernels, p.side, p.o, p.c, p.c};
}

// Channel (c, i, j) of the convolution is the shuffle's pixel (i, j) of output channel c: here they
// come as (i, j, c).
std::vector<int> shuffled_order(const Params& p) {
  const int area = static_cast<int>(p.shuffle * p.shuffle), channels = static_cast<int>(p.o) / area;
  std::vector<int> order(p.o);
  for (int i = 0; i < static_cast<int>(p.o); ++i) order[i] = i % channels * area + i / channels;
  return order;
}

template <class S>
void pack(const Params& p, const WinogradTile& kernels, int threads, float* to) {
  const Widened<S> weight(p.weight, p.o * p.c * p.side * p.side);
  weights_of(p, kernels).pack(weight.data(), shuffled_order(p), threads, to);
}

template <class S>
void convolve(const Params& p) {
  const WinogradTile kernels = winograd_kernels();
  const WinogradWeights weights = weights_of(p, kernels);
  const int64_t products = p.n * p.h * p.w * p.c * p.o * 9;
  const int threads = products < kSerialProducts ? 1 : std::max(p.threads, 1);
  const int64_t out_channels = p.o / (p.shuffle * p.shuffle);
  const int64_t out_h = p.h * p.shuffle, out_w = p.w * p.shuffle;
  const StridedPictures<S> x{static_cast<S*>(p.x), p.n, p.c, p.h, p.w, p.x_stride};
  const StridedPictures<S> out{
      static_cast<S*>(p.out), p.n, out_channels, out_h, out_w, p.out_stride};
  constexpr bool narrow = !std::is_same<S, float>::value;
  const int64_t padded = round_up(p.c, kernels.lanes);
  const int64_t scratch_floats = round_up(kernels.scratch_floats(static_cast<int>(p.c)), 16);

  Arena arena;
  const int64_t packed = arena.reserve(p.packed == nullptr ? weights.floats() : 0);
  const int64_t scratch = arena.reserve(threads * scratch_floats);
  const int64_t staged_x =
      arena.reserve(x.direct(kernels.lanes) ? 0 : p.n * p.h * p.w * padded);
  const int64_t staged_out = arena.reserve(narrow ? p.n * out_h * out_w * out_channels : 0);
  arena.take();

  if (p.packed == nullptr) pack<S>(p, kernels, threads, arena.at(packed));
  Pictures from = x.pictures();
  if (!x.direct(kernels.lanes)) {
    from = {{arena.at(staged_x), static_cast<ptrdiff_t>(p.w * padded),
             static_cast<ptrdiff_t>(padded)},
            p.h * p.w * padded};
    x.stage(from, threads);
  }
  Pictures to = out.pictures();
  int64_t channel_step = p.out_stride[1];
  if (narrow) {
    to = {{arena.at(staged_out), static_cast<ptrdiff_t>(out_w * out_channels),
           static_cast<ptrdiff_t>(out_channels)},
          out_h * out_w * out_channels};
    channel_step = 1;
  }

  std::vector<float> bias(weights.padded(), 0.0f);
  std::vector<ptrdiff_t> places(weights.padded(), 0);
  const Widened<S> given_bias(p.bias, p.o);
  const std::vector<int> order = shuffled_order(p);
  for (int64_t i = 0; i < p.o; ++i) {
    const int64_t pixel = i / out_channels;
    bias[i] = given_bias.data()[order[i]];
    places[i] = i % out_channels * channel_step + pixel / p.shuffle * to.first.row +
                pixel % p.shuffle * to.first.pixel;
  }
  const bool whole_vectors = channel_step == 1 && out_channels % kernels.lanes == 0;
  const float* const packed_weights =
      p.packed == nullptr ? arena.at(packed) : static_cast<const float*>(p.packed);
  TileBlocks(kernels, p.n, p.h, p.w, p.side, threads)
      .run(arena.at(scratch), scratch_floats, [&](TileConvolution& job, int64_t n, int64_t) {
        job.in = from.at(n);
        job.out = to.at(n);
        job.out.row *= p.shuffle, job.out.pixel *= p.shuffle;
        job.channels = static_cast<int>(p.c), job.vectors = weights.vectors();
        job.weights = packed_weights;
        kernels.scatter(job, static_cast<int>(p.side), bias.data(), places.data(),
                        static_cast<int>(p.o), whole_vectors);
      });
  if (narrow) out.unstage(to, threads);
}

}  // namespace

void conv_shuffle_cpu(const Params& p) {
  check(p.valid(), "conv_shuffle: sizes, dtype or pointers out of range");
  dispatch_float(p.dtype, [&](auto type) { convolve<typename decltype(type)::type>(p); });
}

int64_t conv_shuffle_packed_cpu(const Params& p) {
  check(p.valid_weight(), "conv_shuffle: sizes, dtype or weight out of range");
  return weights_of(p, winograd_kernels()).floats() * static_cast<int64_t>(sizeof(float));
}

void conv_shuffle_pack_cpu(const Params& p) {
  check(p.valid_weight() && p.packed != nullptr, "conv_shuffle: weights out of range");
  dispatch_float(p.dtype, [&](auto type) {
    pack<typename decltype(type)::type>(p, winograd_kernels(), std::max(p.threads, 1),
                                        static_cast<float*>(p.packed));
  });
}

}  // namespace pysr
