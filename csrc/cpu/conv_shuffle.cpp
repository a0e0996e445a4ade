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
class Convolution {
 public:
  explicit Convolution(const Params& p)
      : p_(p), kernels_(winograd_kernels()), weights_(weights_of(p, kernels_)),
        out_channels_(p.o / (p.shuffle * p.shuffle)),
        threads_(products() < kSerialProducts ? 1 : std::max(p.threads, 1)),
        x_{static_cast<S*>(p.x), p.n, p.c, p.h, p.w, p.x_stride},
        out_{static_cast<S*>(p.out), p.n, out_channels_, p.h * p.shuffle, p.w * p.shuffle,
             p.out_stride} {
    const bool direct = x_.direct(kernels_.lanes);
    const int64_t padded = round_up(p.c, kernels_.lanes);
    const int64_t packed = arena_.reserve(p.packed == nullptr ? weights_.floats() : 0);
    const int64_t scratch = arena_.reserve(threads_ * scratch_floats());
    const int64_t from = arena_.reserve(direct ? 0 : p.n * p.h * p.w * padded);
    const int64_t to = arena_.reserve(kNarrow ? p.n * p.h * p.w * p.o : 0);
    arena_.take();
    if (p.packed == nullptr) pack<S>(p, kernels_, threads_, arena_.at(packed));
    packed_ = p.packed == nullptr ? arena_.at(packed) : static_cast<const float*>(p.packed);
    scratch_ = arena_.at(scratch);
    from_ = direct ? x_.pictures() : dense_pictures(arena_.at(from), p.h, p.w, padded);
    to_ = kNarrow ? dense_pictures(arena_.at(to), out_.h, out_.w, out_channels_) : out_.pictures();
    if (!direct) x_.stage(from_, threads_);
  }

  void run() const {
    const int64_t channel_step = kNarrow ? 1 : p_.out_stride[1];
    const std::vector<float> bias = ordered_bias();
    const std::vector<ptrdiff_t> places = places_of(channel_step);
    const std::vector<char> whole = whole_vectors(places);
    const TileBlocks blocks(kernels_.tiles, p_.h, p_.w, p_.side);
    const auto convolve = [&](TileConvolution& job, int64_t n, int64_t) {
      job.in = from_.at(n), job.out = to_.at(n);
      job.out.row *= p_.shuffle, job.out.pixel *= p_.shuffle;
      job.channels = static_cast<int>(p_.c), job.vectors = weights_.vectors();
      job.weights = packed_;
      kernels_.scatter(job, static_cast<int>(p_.side), bias.data(), places.data(),
                       static_cast<int>(p_.o), whole.data());
    };
    blocks.run(p_.n, threads_, scratch_, scratch_floats(), convolve);
    if (kNarrow) out_.unstage(to_, threads_);
  }

 private:
  static constexpr bool kNarrow = !std::is_same<S, float>::value;

  int64_t products() const { return p_.n * p_.h * p_.w * p_.c * p_.o * p_.side * p_.side; }
  int64_t scratch_floats() const {
    return round_up(kernels_.scratch_floats(static_cast<int>(p_.c)), 16);
  }

  std::vector<float> ordered_bias() const {
    const Widened<S> given(p_.bias, p_.o);
    const std::vector<int> order = shuffled_order(p_);
    std::vector<float> bias(weights_.padded(), 0.0f);
    for (int64_t i = 0; i < p_.o; ++i) bias[i] = given.data()[order[i]];
    return bias;
  }

  std::vector<ptrdiff_t> places_of(int64_t channel_step) const {
    std::vector<ptrdiff_t> places(weights_.padded(), 0);
    for (int64_t i = 0; i < p_.o; ++i) {
      const int64_t pixel = i / out_channels_;
      places[i] = i % out_channels_ * channel_step + pixel / p_.shuffle * to_.first.row +
                  pixel % p_.shuffle * to_.first.pixel;
    }
    return places;
  }

  std::vector<char> whole_vectors(const std::vector<ptrdiff_t>& places) const {
    std::vector<char> whole(weights_.vectors());
    for (int vector = 0; vector < weights_.vectors(); ++vector) {
      const int64_t first = int64_t{vector} * kernels_.lanes;
      bool consecutive = first + kernels_.lanes <= p_.o;
      for (int lane = 1; lane < kernels_.lanes; ++lane) {
        consecutive = consecutive && places[first + lane] == places[first] + lane;
      }
      whole[vector] = consecutive;
    }
    return whole;
  }

  const Params& p_;
  const WinogradTile kernels_;
  const WinogradWeights weights_;
  const int64_t out_channels_;
  const int threads_;
  const StridedPictures<S> x_, out_;
  Arena arena_;
  const float* packed_;
  float* scratch_;
  Pictures from_, to_;
};

}  // namespace

void conv_shuffle_cpu(const Params& p) {
  check(p.valid(), "conv_shuffle: sizes, dtype or pointers out of range");
  dispatch_float(p.dtype, [&](auto type) { Convolution<typename decltype(type)::type>(p).run(); });
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
