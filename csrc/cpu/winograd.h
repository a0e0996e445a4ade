// What the operators made of Winograd tiles share: storage types widened, pictures staged as floats
// with their channels side by side, weights packed, and the loop over blocks of tiles. The blocks
// depend on sizes alone, so that the number of threads never shows in a result.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <type_traits>
#include <vector>

#include "common/dtype.h"
#include "common/index.h"
#include "common/isa.h"
#include "common/parallel.h"
#include "cpu/memory.h"
#include "cpu/winograd_tile.h"

namespace pysr {

// Below this many products, waking a thread costs more than it saves.
constexpr int64_t kSerialProducts = 1 << 20;

inline WinogradTile winograd_kernels() { PYSR_PICK_ISA(winograd_tile()); }

// A tensor without strides, as floats; a copy only where it holds halves.
template <class S>
class Widened {
 public:
  Widened(const void* from, int64_t count) : copy_(count) {
    widen_row(static_cast<const S*>(from), 1, copy_.data(), count);
  }
  const float* data() const { return copy_.data(); }

 private:
  std::vector<float> copy_;
};
template <>
class Widened<float> {
 public:
  Widened(const void* from, int64_t) : from_(static_cast<const float*>(from)) {}
  const float* data() const { return from_; }

 private:
  const float* const from_;
};

// A convolution's weights (outputs, inputs, side, side) of input channels from `first` on, and what
// they are packed to.
class WinogradWeights {
 public:
  WinogradWeights(const WinogradTile& kernels, int64_t side, int64_t outputs, int64_t inputs,
                  int64_t channels)
      : kernels_(kernels), side_(static_cast<int>(side)), outputs_(static_cast<int>(outputs)),
        inputs_(static_cast<int>(inputs)), channels_(static_cast<int>(channels)) {}

  int vectors() const { return static_cast<int>(ceil_div(outputs_, kernels_.lanes)); }
  int64_t padded() const { return int64_t{vectors()} * kernels_.lanes; }
  int64_t floats() const { return int64_t{kWinogradPatch * kWinogradPatch} * channels_ * padded(); }

  // order: output channel i is taken from weights[order[i]].
  void pack(const float* weights, const std::vector<int>& order, int threads, float* to) const {
    parallel_for(channels_, threads, [&](int64_t channel, int) {
      kernels_.pack_weights(weights, side_, order.data(), outputs_, inputs_,
                            static_cast<int>(channel), channels_, vectors(), to);
    });
  }

 private:
  const WinogradTile& kernels_;
  const int side_, outputs_, inputs_, channels_;
};

// A batch of pictures as the inner loops take them: floats, channels side by side, in whole
// vectors.
struct Pictures {
  Picture first;
  int64_t image;  // floats from one picture to the next
  Picture at(int64_t n) const { return {first.data + n * image, first.row, first.pixel}; }
};

inline Pictures dense_pictures(float* data, int64_t h, int64_t w, int64_t channels) {
  return {{data, static_cast<ptrdiff_t>(w * channels), static_cast<ptrdiff_t>(channels)},
          h * w * channels};
}

// A tensor (n, c, h, w) of storage type S, and the loops that move it to and from floats.
template <class S>
struct StridedPictures {
  S* data;
  int64_t n, c, h, w;
  const int64_t* stride;

  // Whether the inner loops can work on the tensor itself.
  bool direct(int lanes) const {
    return std::is_same<S, float>::value && stride[1] == 1 && c % lanes == 0;
  }
  Pictures pictures() const {
    return {{reinterpret_cast<float*>(data), stride[2], stride[3]}, stride[0]};
  }
  void stage(const Pictures& to, int threads) const {
    for_pixels(to, threads, [this](float& staged, int64_t at) { staged = widen(data[at]); });
  }
  void unstage(const Pictures& from, int threads) const {
    for_pixels(from, threads,
               [this](float& staged, int64_t at) { data[at] = Narrow<S>::from(staged); });
  }

 private:
  static constexpr int64_t kRun = 64;  // pixels that stay in the first-level cache

  // The padding of the pictures of floats is never read into a result.
  template <class F>
  void for_pixels(const Pictures& staged, int threads, F&& move) const {
    parallel_for(n * h, threads, [&](int64_t item, int) {
      const int64_t row = item / h * stride[0] + item % h * stride[2];
      float* const to = staged.at(item / h).data + item % h * staged.first.row;
      const int64_t pixel = staged.first.pixel;
      for (int64_t left = 0; left < w; left += kRun) {
        const int64_t right = std::min(left + kRun, w);
        if (stride[1] == 1) {
          for (int64_t x = left; x < right; ++x) {
            for (int64_t i = 0; i < c; ++i) move(to[x * pixel + i], row + x * stride[3] + i);
          }
        } else {
          for (int64_t i = 0; i < c; ++i) {
            for (int64_t x = left; x < right; ++x) {
              move(to[x * pixel + i], row + i * stride[1] + x * stride[3]);
            }
          }
        }
      }
    });
  }
};

// Pictures cut into tiles, and those into blocks that are worked on at once. Blocks are counted over
// all pictures.
class TileBlocks {
 public:
  TileBlocks(int together, int64_t h, int64_t w, int64_t kernel_side)
      : h_(static_cast<int>(h)), w_(static_cast<int>(w)), together_(together) {
    const int64_t side = winograd_tile_side(static_cast<int>(kernel_side));
    tiles_ = ceil_div(h, side) * ceil_div(w, side);
    blocks_ = ceil_div(tiles_, together_);
  }
  int64_t blocks() const { return blocks_; }  // of one picture

  // Which tiles a block has, nothing else.
  TileConvolution job(int64_t block) const {
    const int64_t first = block % blocks_ * together_;
    TileConvolution job{};
    job.height = h_, job.width = w_;
    job.first = static_cast<int>(first);
    job.count = static_cast<int>(std::min<int64_t>(together_, tiles_ - first));
    return job;
  }

  // Calls convolve(job, image, block) for every block of n pictures, `scratch_floats` of `scratch`
  // being one thread's; job holds what all have in common.
  template <class F>
  void run(int64_t n, int threads, float* scratch, int64_t scratch_floats, F&& convolve) const {
    parallel_for(n * blocks_, threads, [&](int64_t block, int worker) {
      TileConvolution each = job(block);
      each.scratch = scratch + worker * scratch_floats;
      convolve(each, block / blocks_, block);
    });
  }

 private:
  const int h_, w_, together_;
  int64_t tiles_, blocks_;
};

// Parts of one block of memory: reserve all, then take it, then ask where each lies.
class Arena {
 public:
  int64_t reserve(int64_t floats) {
    const int64_t start = total_;
    total_ += round_up(floats, 16);
    return start;
  }
  void take() { memory_.emplace(static_cast<size_t>(total_) * sizeof(float)); }
  float* at(int64_t start) const { return static_cast<float*>(memory_->data()) + start; }

 private:
  int64_t total_ = 0;
  std::optional<CallMemory> memory_;
};

}  // namespace pysr
