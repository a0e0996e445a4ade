// Types, layouts and threads of conditional_residual_block; the convolutions are in
// conditional_residual_block_tile.cpp.
//
// The condition is constant, so its share of the first convolution is one too, apart from the
// border, where zero padding cuts taps off: nine cases, which enter as a bias.
//
// Channel attention wants the mean of the second convolution's output before any of it is stored.
// That sum is the weights times sums of the hidden features over the pixels that each tap touches:
// all of them, or all but a border row or column. So the hidden features are summed while the first
// convolution stores them, and the second one is scaled and added to f in its own store.
//
// Both convolutions go through blocks of tiles that depend on sizes alone, and the blocks' sums are
// added in order, so the number of threads never shows in the result.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <optional>
#include <type_traits>
#include <vector>

#include "common/check.h"
#include "common/dtype.h"
#include "common/index.h"
#include "common/isa.h"
#include "common/parallel.h"
#include "cpu/conditional_residual_block_tile.h"
#include "cpu/memory.h"
#include "ops/conditional_residual_block.h"

namespace pysr {
namespace {

using Params = ConditionalResidualBlockParams;

constexpr int64_t kTileSide = 4;
// Below this many products, waking a thread costs more than it saves.
constexpr int64_t kSerialProducts = 1 << 20;

ConditionalResidualBlockTile tile_kernels() {
  PYSR_PICK_ISA(conditional_residual_block_tile());
}

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

// The 3x3 sums over a picture that the taps of a zero-padded convolution see.
using TapSums = std::array<double, 9>;

template <class S>
class Block {
 public:
  explicit Block(const Params& p)
      : p_(p), kernels_(tile_kernels()), hidden_(p.hidden()),
        c_vectors_(static_cast<int>(ceil_div(p.c, kernels_.lanes))),
        hidden_vectors_(static_cast<int>(ceil_div(hidden_, kernels_.lanes))),
        c_padded_(c_vectors_ * kernels_.lanes), hidden_padded_(hidden_vectors_ * kernels_.lanes),
        tiles_(ceil_div(p.h, kTileSide) * ceil_div(p.w, kTileSide)),
        blocks_(ceil_div(tiles_, kernels_.tiles)),
        threads_(products() < kSerialProducts ? 1 : std::max(p.threads, 1)),
        direct_(is_direct(p.f_stride) && is_direct(p.out_stride)),
        cond_(p.cond, p.n * p.d), conv1_weight_(p.conv1_weight, hidden_ * hidden_ * 9),
        conv1_bias_(p.conv1_bias, hidden_), conv2_weight_(p.conv2_weight, p.c * hidden_ * 9),
        conv2_bias_(p.conv2_bias, p.c) {
    const int64_t pixels = p.n * p.h * p.w;
    int64_t total = 0;
    const auto reserve = [&](int64_t floats) {
      const int64_t start = total;
      total += round_up(floats, 16);
      return start;
    };
    const int64_t packed1 = reserve(36 * p.c * hidden_padded_);
    const int64_t packed2 = reserve(36 * hidden_ * c_padded_);
    const int64_t features = reserve(pixels * hidden_padded_);
    const int64_t staged = reserve(direct_ ? 0 : pixels * c_padded_);
    const int64_t scratch = reserve(threads_ * scratch_floats());
    memory_.emplace(static_cast<size_t>(total) * sizeof(float));
    float* const memory = static_cast<float*>(memory_->data());
    packed1_ = memory + packed1, packed2_ = memory + packed2, scratch_ = memory + scratch;
    features_ = {memory + features, p.w * hidden_padded_, hidden_padded_};
    staged_ = {memory + staged, p.w * c_padded_, c_padded_};
  }

  void run() {
    pack();
    Picture f = staged_, out = staged_;
    int64_t f_image = p_.h * p_.w * c_padded_, out_image = f_image;
    if (direct_) {
      f = {static_cast<float*>(p_.f), p_.f_stride[2], p_.f_stride[3]};
      out = {static_cast<float*>(p_.out), p_.out_stride[2], p_.out_stride[3]};
      f_image = p_.f_stride[0], out_image = p_.out_stride[0];
    } else {
      stage();
    }
    const int64_t hidden_image = p_.h * p_.w * hidden_padded_;
    const std::vector<float> cases = border_cases();
    std::vector<float> sums(p_.n * blocks_ * hidden_padded_, 0.0f);
    for_blocks([&](TileConvolution& job, int64_t n, int64_t item) {
      job.in = f, job.in.data += n * f_image;
      job.out = features_, job.out.data += n * hidden_image;
      job.channels = static_cast<int>(p_.c), job.vectors = hidden_vectors_;
      job.weights = packed1_;
      kernels_.activate(job, cases.data() + n * 9 * hidden_padded_,
                        sums.data() + item * hidden_padded_);
    });

    std::vector<float> bias(c_padded_, 0.0f), gates(p_.n * c_padded_, 0.0f);
    std::copy_n(conv2_bias_.data(), p_.c, bias.data());
    for (int64_t n = 0; n < p_.n; ++n) {
      float* const gate = gates.data() + n * c_padded_;
      if (p_.gate == nullptr) {
        attention(sums.data() + n * blocks_ * hidden_padded_, features_.data + n * hidden_image,
                  gate);
      } else {
        widen_row(static_cast<const S*>(p_.gate) + n * p_.c, 1, gate, p_.c);
      }
    }
    for_blocks([&](TileConvolution& job, int64_t n, int64_t) {
      job.in = features_, job.in.data += n * hidden_image;
      job.out = out, job.out.data += n * out_image;
      job.channels = static_cast<int>(hidden_), job.vectors = c_vectors_;
      job.weights = packed2_;
      Picture from = f;
      from.data += n * f_image;
      kernels_.add_residual(job, bias.data(), gates.data() + n * c_padded_, from);
    });
    if (!direct_) unstage();
  }

 private:
  int64_t products() const { return p_.n * p_.h * p_.w * hidden_ * p_.c * 18; }

  // Whether the inner loops can work on the tensor itself.
  bool is_direct(const int64_t (&stride)[4]) const {
    return std::is_same<S, float>::value && stride[1] == 1 && p_.c == c_padded_;
  }

  int64_t scratch_floats() const {
    return round_up(kernels_.scratch_floats(static_cast<int>(hidden_)), 16);
  }

  void pack() const {
    const int c = static_cast<int>(p_.c), hidden = static_cast<int>(hidden_);
    parallel_for(c + hidden, threads_, [&](int64_t item, int) {
      const int channel = static_cast<int>(item);
      if (channel < c) {
        kernels_.pack_weights(conv1_weight_.data(), hidden, hidden, channel, c, hidden_vectors_,
                              packed1_);
      } else {
        kernels_.pack_weights(conv2_weight_.data(), c, hidden, channel - c, hidden, c_vectors_,
                              packed2_);
      }
    });
  }

  // Calls convolve(job, image, block) for every block of tiles, with what all have in common.
  template <class F>
  void for_blocks(F&& convolve) const {
    parallel_for(p_.n * blocks_, threads_, [&](int64_t item, int worker) {
      const int64_t first = item % blocks_ * kernels_.tiles;
      TileConvolution job{};
      job.height = static_cast<int>(p_.h), job.width = static_cast<int>(p_.w);
      job.first = static_cast<int>(first);
      job.count = static_cast<int>(std::min<int64_t>(kernels_.tiles, tiles_ - first));
      job.scratch = scratch_ + worker * scratch_floats();
      convolve(job, item / blocks_, item);
    });
  }

  // (n, 3, 3, hidden_padded): conv1's bias and the condition's share, for the first, inner and last
  // row and column.
  std::vector<float> border_cases() const {
    std::vector<float> cases(p_.n * 9 * hidden_padded_, 0.0f);
    const int64_t rows = std::min<int64_t>(p_.h, 3), columns = std::min<int64_t>(p_.w, 3);
    for (int64_t n = 0; n < p_.n; ++n) {
      const float* const cond = cond_.data() + n * p_.d;
      for (int64_t o = 0; o < hidden_; ++o) {
        const float* const weight = conv1_weight_.data() + (o * hidden_ + p_.c) * 9;
        TapSums share{};
        for (int64_t e = 0; e < p_.d; ++e) {
          for (int tap = 0; tap < 9; ++tap) share[tap] += double{weight[e * 9 + tap]} * cond[e];
        }
        for (int64_t i = 0; i < rows; ++i) {
          for (int64_t j = 0; j < columns; ++j) {
            double sum = conv1_bias_.data()[o];
            for (int64_t u = 0; u < 3; ++u) {
              for (int64_t v = 0; v < 3; ++v) {
                const int64_t y = i + u - 1, x = j + v - 1;
                if (y >= 0 && y < rows && x >= 0 && x < columns) sum += share[u * 3 + v];
              }
            }
            cases[((n * 3 + i) * 3 + j) * hidden_padded_ + o] = static_cast<float>(sum);
          }
        }
      }
    }
    return cases;
  }

  // Channel attention of one image, from its blocks' sums of the hidden features.
  void attention(const float* sums, const float* hidden, float* gate) const {
    const int64_t width = hidden_padded_, last_row = p_.h - 1, last_column = p_.w - 1;
    std::vector<double> total(width, 0.0), edges(4 * width, 0.0);
    for (int64_t block = 0; block < blocks_; ++block) {
      for (int64_t c = 0; c < width; ++c) total[c] += sums[block * width + c];
    }
    const auto add = [&](int edge, int64_t y, int64_t x) {
      const float* const pixel = hidden + (y * p_.w + x) * width;
      for (int64_t c = 0; c < width; ++c) edges[edge * width + c] += pixel[c];
    };
    for (int64_t x = 0; x < p_.w; ++x) add(0, 0, x), add(1, last_row, x);
    for (int64_t y = 0; y < p_.h; ++y) add(2, y, 0), add(3, y, last_column);

    // A tap of the first row never touches the last row, and so on.
    std::vector<TapSums> touched(hidden_);
    for (int64_t c = 0; c < hidden_; ++c) {
      for (int u = 0; u < 3; ++u) {
        for (int v = 0; v < 3; ++v) {
          double sum = total[c];
          if (u != 1) sum -= edges[(u == 0 ? 1 : 0) * width + c];
          if (v != 1) sum -= edges[(v == 0 ? 3 : 2) * width + c];
          if (u != 1 && v != 1) {
            const int64_t y = u == 0 ? last_row : 0, x = v == 0 ? last_column : 0;
            sum += hidden[(y * p_.w + x) * width + c];
          }
          touched[c][u * 3 + v] = sum;
        }
      }
    }
    std::vector<double> mean(p_.c), reduced(p_.r);
    const double pixels = static_cast<double>(p_.h) * static_cast<double>(p_.w);
    for (int64_t o = 0; o < p_.c; ++o) {
      const float* const weight = conv2_weight_.data() + o * hidden_ * 9;
      TapSums sum{};
      for (int64_t c = 0; c < hidden_; ++c) {
        for (int tap = 0; tap < 9; ++tap) sum[tap] += weight[c * 9 + tap] * touched[c][tap];
      }
      for (const double part : sum) mean[o] += part;
      mean[o] = mean[o] / pixels + conv2_bias_.data()[o];
    }
    const auto layer = [](const void* weight, const void* bias, const std::vector<double>& from,
                          int64_t o) {
      double sum = widen(static_cast<const S*>(bias)[o]);
      const S* const row = static_cast<const S*>(weight) + o * static_cast<int64_t>(from.size());
      for (size_t i = 0; i < from.size(); ++i) sum += widen(row[i]) * from[i];
      return sum;
    };
    for (int64_t o = 0; o < p_.r; ++o) {
      const double sum = layer(p_.reduce_weight, p_.reduce_bias, mean, o);
      reduced[o] = sum > 0 ? sum : 0.2 * sum;
    }
    for (int64_t o = 0; o < p_.c; ++o) {
      const double sum = layer(p_.expand_weight, p_.expand_bias, reduced, o);
      gate[o] = static_cast<float>(1 / (1 + std::exp(-sum)));
    }
  }

  // Between f or out and a picture of floats with channels side by side, in whole vectors. The
  // padding of the latter is never read into a result.
  template <class F>
  void for_pixels(const int64_t (&stride)[4], F&& move) const {
    parallel_for(p_.n * p_.h, threads_, [&](int64_t item, int) {
      const int64_t row = item / p_.h * stride[0] + item % p_.h * stride[2];
      float* const to = staged_.data + item * p_.w * c_padded_;
      for (int64_t left = 0; left < p_.w; left += kRun) {
        const int64_t right = std::min(left + kRun, p_.w);
        if (stride[1] == 1) {
          for (int64_t x = left; x < right; ++x) {
            for (int64_t c = 0; c < p_.c; ++c) move(to[x * c_padded_ + c], row + x * stride[3] + c);
          }
        } else {
          for (int64_t c = 0; c < p_.c; ++c) {
            for (int64_t x = left; x < right; ++x) {
              move(to[x * c_padded_ + c], row + c * stride[1] + x * stride[3]);
            }
          }
        }
      }
    });
  }
  void stage() const {
    const S* const f = static_cast<const S*>(p_.f);
    for_pixels(p_.f_stride, [f](float& to, int64_t at) { to = widen(f[at]); });
  }
  void unstage() const {
    S* const out = static_cast<S*>(p_.out);
    for_pixels(p_.out_stride,
               [out](float& from, int64_t at) { out[at] = Narrow<S>::from(from); });
  }

  static constexpr int64_t kRun = 64;  // pixels that stay in the first-level cache

  const Params& p_;
  const ConditionalResidualBlockTile kernels_;
  const int64_t hidden_;
  const int c_vectors_, hidden_vectors_;
  const int64_t c_padded_, hidden_padded_;
  const int64_t tiles_, blocks_;
  const int threads_;
  const bool direct_;
  const Widened<S> cond_, conv1_weight_, conv1_bias_, conv2_weight_, conv2_bias_;
  std::optional<CallMemory> memory_;
  float *packed1_, *packed2_, *scratch_;
  Picture features_, staged_;  // after the first convolution; f and out
};

}  // namespace

void conditional_residual_block_cpu(const Params& p) {
  check(p.valid(), "conditional_residual_block: sizes, dtype or pointers out of range");
  dispatch_float(p.dtype, [&](auto type) { Block<typename decltype(type)::type>(p).run(); });
}

}  // namespace pysr
