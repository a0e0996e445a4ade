// Types, layouts and threads of conditional_residual_block; the convolutions are in
// winograd_tile.cpp or, for bfloat16 on matrix tiles, in amx_conditional_residual_block.cpp.
//
// A constant condition's share of the first convolution is constant too, apart from the border,
// where zero padding cuts taps off: nine cases, which enter as a bias. A picture is convolved
// beside f, without a copy of both.
//
// Channel attention wants the mean of the second convolution's output before any of it is stored.
// That sum is the weights times sums of the hidden features over the pixels that each tap touches:
// all of them, or all but a border row or column. So the hidden features are summed while the first
// convolution stores them, and the second one is scaled and added to f in its own store.
//
// The blocks' sums are added in order, so the number of threads never shows in the result.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <vector>

#include "common/check.h"
#include "cpu/amx_blocks.h"
#include "cpu/winograd.h"
#include "ops/conditional_residual_block.h"

namespace pysr {
namespace {

using Params = ConditionalResidualBlockParams;

// The 3x3 sums over a picture that the taps of a zero-padded convolution see.
using TapSums = std::array<double, 9>;

std::vector<int> unchanged_order(int64_t count) {
  std::vector<int> order(count);
  for (int64_t i = 0; i < count; ++i) order[i] = static_cast<int>(i);
  return order;
}

// Both convolutions' weights, one after the other.
struct BlockWeights {
  WinogradWeights conv1, conv2;
  BlockWeights(const Params& p, const WinogradTile& kernels)
      : conv1(kernels, 3, p.hidden(), p.hidden(), p.constant() ? p.c : p.hidden()),
        conv2(kernels, 3, p.c, p.hidden(), p.hidden()) {}
  int64_t floats() const { return conv1.floats() + conv2.floats(); }

  void pack(const Params& p, const float* weight1, const float* weight2, int threads,
            float* to) const {
    const std::vector<int> order = unchanged_order(p.hidden());
    conv1.pack(weight1, order, threads, to);
    conv2.pack(weight2, order, threads, to + conv1.floats());
  }
};

// What is small about a block, whichever kernels convolve: its weights as floats, a constant
// condition's share, and channel attention.
template <class S>
class SmallLayers {
 public:
  // rounded: the second convolution multiplies by its weights in bfloat16.
  explicit SmallLayers(const Params& p, bool rounded = false)
      : p_(p), hidden_(p.hidden()), cond_(p.cond, p.constant() ? p.n * p.d : 0),
        conv1_weight_(p.conv1_weight, hidden_ * hidden_ * 9), conv1_bias_(p.conv1_bias, hidden_),
        conv2_weight_(p.conv2_weight, p.c * hidden_ * 9), conv2_bias_(p.conv2_bias, p.c) {
    if (!rounded || p.gate != nullptr) return;  // channel attention alone asks for them
    rounded_.resize(p.c * hidden_ * 9);
    for (size_t i = 0; i < rounded_.size(); ++i) {
      rounded_[i] = widen(Narrow<BFloat16>::from(conv2_weight_.data()[i]));
    }
  }

  const float* conv1_weight() const { return conv1_weight_.data(); }
  const float* conv2_weight() const { return conv2_weight_.data(); }
  std::vector<float> conv2_bias(int64_t padded) const {
    std::vector<float> bias(padded, 0.0f);
    std::copy_n(conv2_bias_.data(), p_.c, bias.data());
    return bias;
  }

  // (n, 3, 3, padded): conv1's bias and a constant condition's share, for the first, inner
  // and last row and column.
  std::vector<float> border_cases(int64_t padded) const {
    std::vector<float> cases(p_.n * 9 * padded, 0.0f);
    const int64_t rows = std::min<int64_t>(p_.h, 3), columns = std::min<int64_t>(p_.w, 3);
    const int64_t constants = p_.constant() ? p_.d : 0;
    for (int64_t n = 0; n < p_.n; ++n) {
      const float* const cond = cond_.data() + n * p_.d;
      for (int64_t o = 0; o < hidden_; ++o) {
        const float* const weight = conv1_weight_.data() + (o * hidden_ + p_.c) * 9;
        TapSums share{};
        for (int64_t e = 0; e < constants; ++e) {
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
            cases[((n * 3 + i) * 3 + j) * padded + o] = static_cast<float>(sum);
          }
        }
      }
    }
    return cases;
  }

  // The gates of image n (padded): given ones, or those of channel attention, from sums (blocks,
  // width) of its hidden features, and those at(y, x).
  template <class At>
  std::vector<float> gates(int64_t n, int64_t padded, const float* sums, int64_t blocks,
                           int64_t width, At&& at) const {
    std::vector<float> gates(padded, 0.0f);
    if (p_.gate == nullptr) {
      attention(sums, blocks, width, at, gates.data());
    } else {
      widen_row(static_cast<const S*>(p_.gate) + n * p_.c, 1, gates.data(), p_.c);
    }
    return gates;
  }

 private:
  template <class At>
  void attention(const float* sums, int64_t blocks, int64_t width, At&& at, float* gate) const {
    const int64_t last_row = p_.h - 1, last_column = p_.w - 1;
    std::vector<double> total(width, 0.0), edges(4 * width, 0.0);
    for (int64_t block = 0; block < blocks; ++block) {
      for (int64_t c = 0; c < width; ++c) total[c] += sums[block * width + c];
    }
    const auto add = [&](int edge, int64_t y, int64_t x) {
      const auto* const pixel = at(y, x);
      for (int64_t c = 0; c < hidden_; ++c) edges[edge * width + c] += widen(pixel[c]);
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
            sum += widen(at(y, x)[c]);
          }
          touched[c][u * 3 + v] = sum;
        }
      }
    }
    const float* const weights = rounded_.empty() ? conv2_weight_.data() : rounded_.data();
    std::vector<double> mean(p_.c), reduced(p_.r);
    const double pixels = static_cast<double>(p_.h) * static_cast<double>(p_.w);
    for (int64_t o = 0; o < p_.c; ++o) {
      const float* const weight = weights + o * hidden_ * 9;
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

  const Params& p_;
  const int64_t hidden_;
  const Widened<S> cond_, conv1_weight_, conv1_bias_, conv2_weight_, conv2_bias_;
  std::vector<float> rounded_;  // conv2's weights
};

template <class S>
class Block {
 public:
  explicit Block(const Params& p)
      : p_(p), kernels_(winograd_kernels()), weights_(p, kernels_), layers_(p), hidden_(p.hidden()),
        c_padded_(weights_.conv2.padded()), hidden_padded_(weights_.conv1.padded()),
        threads_(products() < kSerialProducts ? 1 : std::max(p.threads, 1)),
        tiles_(kernels_.tiles, p.h, p.w, 3), blocks_(tiles_.blocks()),
        f_{static_cast<S*>(p.f), p.n, p.c, p.h, p.w, p.f_stride},
        picture_{static_cast<S*>(p.cond), p.n, p.d, p.h, p.w, p.cond_stride},
        out_{static_cast<S*>(p.out), p.n, p.c, p.h, p.w, p.out_stride},
        direct_(f_.direct(kernels_.lanes) && out_.direct(kernels_.lanes) &&
                (p.constant() || picture_.direct(kernels_.lanes))) {
    const int64_t pixels = p.n * p.h * p.w;
    const int64_t staged_channels = p.constant() ? c_padded_ : hidden_padded_;
    const int64_t packed = arena_.reserve(p.packed == nullptr ? weights_.floats() : 0);
    const int64_t features = arena_.reserve(pixels * hidden_padded_);
    const int64_t staged = arena_.reserve(direct_ ? 0 : pixels * staged_channels);
    const int64_t scratch = arena_.reserve(threads_ * scratch_floats());
    arena_.take();
    if (p.packed == nullptr) {
      weights_.pack(p, layers_.conv1_weight(), layers_.conv2_weight(), threads_,
                    arena_.at(packed));
    }
    packed_ = p.packed == nullptr ? arena_.at(packed) : static_cast<const float*>(p.packed);
    scratch_ = arena_.at(scratch);
    features_ = dense_pictures(arena_.at(features), p.h, p.w, hidden_padded_);
    staged_ = dense_pictures(arena_.at(staged), p.h, p.w, staged_channels);
  }

  void run() {
    Pictures f = staged_, out = staged_, more = {};
    int channels = static_cast<int>(p_.c), more_channels = 0;
    if (direct_) {
      f = f_.pictures(), out = out_.pictures();
      if (!p_.constant()) more = picture_.pictures(), more_channels = static_cast<int>(p_.d);
    } else {
      stage();
      if (!p_.constant()) channels = static_cast<int>(hidden_);
    }
    const std::vector<float> cases = layers_.border_cases(hidden_padded_);
    std::vector<float> sums(p_.n * blocks_ * hidden_padded_, 0.0f);
    const auto activate = [&](TileConvolution& job, int64_t n, int64_t block) {
      job.in = f.at(n), job.more = more.at(n), job.out = features_.at(n);
      job.channels = channels, job.more_channels = more_channels;
      job.vectors = weights_.conv1.vectors();
      job.weights = packed_;
      kernels_.activate(job, cases.data() + n * 9 * hidden_padded_,
                        sums.data() + block * hidden_padded_);
    };
    tiles_.run(p_.n, threads_, scratch_, scratch_floats(), activate);

    const std::vector<float> bias = layers_.conv2_bias(c_padded_);
    std::vector<std::vector<float>> gates;
    for (int64_t n = 0; n < p_.n; ++n) {
      const Picture hidden = features_.at(n);
      gates.push_back(layers_.gates(
          n, c_padded_, sums.data() + n * blocks_ * hidden_padded_, blocks_, hidden_padded_,
          [&](int64_t y, int64_t x) { return hidden.data + y * hidden.row + x * hidden.pixel; }));
    }
    const auto add_residual = [&](TileConvolution& job, int64_t n, int64_t) {
      job.in = features_.at(n), job.out = out.at(n);
      job.channels = static_cast<int>(hidden_);
      job.vectors = weights_.conv2.vectors();
      job.weights = packed_ + weights_.conv1.floats();
      kernels_.add_residual(job, bias.data(), gates[n].data(), f.at(n));
    };
    tiles_.run(p_.n, threads_, scratch_, scratch_floats(), add_residual);
    if (!direct_) out_.unstage(staged_, threads_);
  }

 private:
  int64_t products() const { return p_.n * p_.h * p_.w * hidden_ * p_.c * 18; }

  int64_t scratch_floats() const {
    return round_up(kernels_.scratch_floats(static_cast<int>(hidden_)), 16);
  }

  // A picture as condition comes to lie behind f's channels.
  void stage() const {
    f_.stage(staged_, threads_);
    if (p_.constant()) return;
    Pictures behind = staged_;
    behind.first.data += p_.c;
    picture_.stage(behind, threads_);
  }

  const Params& p_;
  const WinogradTile kernels_;
  const BlockWeights weights_;
  const SmallLayers<S> layers_;
  const int64_t hidden_, c_padded_, hidden_padded_;
  const int threads_;
  const TileBlocks tiles_;
  const int64_t blocks_;
  const StridedPictures<S> f_, picture_, out_;
  const bool direct_;
  Arena arena_;
  const float* packed_;
  float* scratch_;
  Pictures features_, staged_;  // after the first convolution; f (and cond), then out
};

#ifdef PYSR_AMX
// Matrix tiles multiply bfloat16.
bool on_matrix_tiles(const Params& p) {
  const bool wanted = p.dtype == DType::bfloat16 || (p.dtype == DType::float32 && p.bfloat16);
  return isa() == Isa::amx && wanted;
}

amx::BlockChannels channels_of(const Params& p) {
  return {p.c, p.hidden(), p.constant() ? p.c : p.hidden()};
}

template <class S>
void run_on_matrix_tiles(const Params& p) {
  const amx::BlockChannels channels = channels_of(p);
  const int64_t hidden = p.hidden(), bands = amx::block_bands(p.h, p.w);
  const int64_t padded = amx::block_padded(hidden), c_padded = amx::block_padded(p.c);
  const bool serial = p.n * p.h * p.w * hidden * p.c * 18 < kSerialProducts;
  const int threads = serial ? 1 : std::max(p.threads, 1);
  const SmallLayers<S> layers(p, true);
  const auto floats_of = [](int64_t bytes) { return round_up(ceil_div(bytes, 4), 16); };
  const int64_t weight_numbers = p.packed == nullptr ? amx::block_weights(channels) : 0;
  const int64_t feature_numbers = amx::block_hidden(p.h, p.w, hidden);
  const int64_t scratch_floats = floats_of(amx::block_scratch(p.h, p.w, channels.inputs));
  Arena arena;
  const int64_t packed = arena.reserve(floats_of(2 * weight_numbers));
  const int64_t features = arena.reserve(p.n * floats_of(2 * feature_numbers));
  const int64_t scratch = arena.reserve(threads * scratch_floats);
  arena.take();
  const auto halves = [&](int64_t start) { return reinterpret_cast<BFloat16*>(arena.at(start)); };
  amx::BlockPictures<S> pictures{};
  pictures.channels = channels, pictures.h = p.h, pictures.w = p.w;
  pictures.packed = static_cast<const BFloat16*>(p.packed);
  if (p.packed == nullptr) {
    amx::pack_block(layers.conv1_weight(), layers.conv2_weight(), channels, halves(packed));
    pictures.packed = halves(packed);
  }
  pictures.f = static_cast<const S*>(p.f), pictures.f_stride = p.f_stride;
  pictures.cond = p.constant() ? nullptr : static_cast<const S*>(p.cond);
  pictures.cond_stride = p.cond_stride;
  pictures.out = static_cast<S*>(p.out), pictures.out_stride = p.out_stride;
  pictures.hidden = halves(features);

  const std::vector<float> cases = layers.border_cases(padded), bias = layers.conv2_bias(c_padded);
  std::vector<float> sums(p.n * bands * padded);
  for (int64_t n = 0; n < p.n; ++n) {
    amx::block_clear_frame(p.h, p.w, hidden, pictures.hidden + n * feature_numbers);
  }
  parallel_for(p.n * bands, threads, [&](int64_t item, int worker) {
    amx::block_activate(pictures, item / bands, item % bands,
                        cases.data() + item / bands * 9 * padded, sums.data() + item * padded,
                        arena.at(scratch) + worker * scratch_floats);
  });
  std::vector<std::vector<float>> gates;
  for (int64_t n = 0; n < p.n; ++n) {
    const BFloat16* const first = pictures.hidden + n * feature_numbers;
    gates.push_back(layers.gates(
        n, c_padded, sums.data() + n * bands * padded, bands, padded, [&](int64_t y, int64_t x) {
          return first + amx::block_hidden_at(p.h, p.w, hidden, y, x);
        }));
  }
  parallel_for(p.n * bands, threads, [&](int64_t item, int) {
    amx::block_add_residual(pictures, item / bands, item % bands, bias.data(),
                            gates[item / bands].data());
  });
}
#endif

}  // namespace

void conditional_residual_block_cpu(const Params& p) {
  check(p.valid(), "conditional_residual_block: sizes, dtype or pointers out of range");
#ifdef PYSR_AMX
  if (on_matrix_tiles(p)) {
    return p.dtype == DType::float32 ? run_on_matrix_tiles<float>(p)
                                     : run_on_matrix_tiles<BFloat16>(p);
  }
#endif
  dispatch_float(p.dtype, [&](auto type) { Block<typename decltype(type)::type>(p).run(); });
}

int64_t conditional_residual_block_packed_cpu(const Params& p) {
  check(p.valid_weights(), "conditional_residual_block: weights out of range");
#ifdef PYSR_AMX
  if (on_matrix_tiles(p)) {
    return amx::block_weights(channels_of(p)) * static_cast<int64_t>(sizeof(BFloat16));
  }
#endif
  return BlockWeights(p, winograd_kernels()).floats() * static_cast<int64_t>(sizeof(float));
}

void conditional_residual_block_pack_cpu(const Params& p) {
  check(p.valid_weights() && p.packed != nullptr,
        "conditional_residual_block: weights out of range");
  const WinogradTile kernels = winograd_kernels();
  dispatch_float(p.dtype, [&](auto type) {
    using S = typename decltype(type)::type;
    const Widened<S> weight1(p.conv1_weight, p.hidden() * p.hidden() * 9);
    const Widened<S> weight2(p.conv2_weight, p.c * p.hidden() * 9);
#ifdef PYSR_AMX
    if (on_matrix_tiles(p)) {
      return amx::pack_block(weight1.data(), weight2.data(), channels_of(p),
                             static_cast<BFloat16*>(p.packed));
    }
#endif
    BlockWeights(p, kernels).pack(p, weight1.data(), weight2.data(), std::max(p.threads, 1),
                                  static_cast<float*>(p.packed));
  });
}

}  // namespace pysr
