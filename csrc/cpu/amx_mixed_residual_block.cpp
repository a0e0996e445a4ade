// mixed_residual_block by matrix tiles. A picture is worked on from end to end by one thread, whose
// cache holds all that its layers pass on to each other.
//
// Weight gradients are summed over groups of pictures, then over the groups in order, so that the
// number of threads never shows in the result.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <optional>
#include <vector>

#include "common/parallel.h"
#include "cpu/amx.h"
#include "cpu/memory.h"
#include "ops/mixed_residual_block.h"

namespace pysr {
namespace amx {
namespace {

constexpr float kSlope = 0.2f;
constexpr int64_t kGroups = 8;

inline __m512 leaky(__m512 value) {
  return _mm512_max_ps(value, _mm512_mul_ps(value, _mm512_set1_ps(kSlope)));
}

inline int64_t edge_case(int64_t y, int64_t x, int64_t h, int64_t w) {
  const auto along = [](int64_t i, int64_t length) { return i == 0 ? 0 : i == length - 1 ? 2 : 1; };
  return along(y, h) * 3 + along(x, w);
}

// One call's memory, in whole cache lines.
class Memory {
 public:
  int64_t reserve(int64_t bytes) {
    const int64_t start = total_;
    total_ += round_up(bytes, 64);
    return start;
  }
  void take() { memory_.emplace(static_cast<size_t>(total_)); }
  template <class T>
  T* at(int64_t start) const {
    return reinterpret_cast<T*>(static_cast<char*>(memory_->data()) + start);
  }

 private:
  int64_t total_ = 0;
  std::optional<CallMemory> memory_;
};

// Sizes and layouts that both directions share.
template <class Params>
class Block {
 public:
  explicit Block(const Params& p)
      : p_(p), hidden_(p.channels()), flat_f_(p.h, p.w, p.c), flat_h_(p.h, p.w, hidden_),
        threads_(static_cast<int>(std::clamp<int64_t>(p.threads, 1, p.n))) {}

 protected:
  float* floats(void* data, int64_t n, int64_t each) const {
    return static_cast<float*>(data) + n * each;
  }
  BFloat16* picture(void* data, int64_t n) const {
    return static_cast<BFloat16*>(data) + n * p_.h * p_.w * p_.c;
  }
  BFloat16* hidden(int64_t n) const {
    return static_cast<BFloat16*>(p_.hidden) + n * flat_h_.numbers();
  }
  float conv1(int64_t o, int64_t c, int64_t u, int64_t v) const {
    return static_cast<const float*>(p_.conv1_weight)[((o * hidden_ + c) * 3 + u) * 3 + v];
  }
  float conv2(int64_t o, int64_t c, int64_t u, int64_t v) const {
    return static_cast<const float*>(p_.conv2_weight)[((o * hidden_ + c) * 3 + u) * 3 + v];
  }

  // Calls work(pixel, channel, lanes) for every 16 channels of every pixel of f's kind.
  template <class Work>
  void each_vector(Work&& work) const {
    for (int64_t pixel = 0; pixel < p_.h * p_.w; ++pixel) {
      for (int64_t c = 0; c < p_.c; c += kSide) work(pixel, c, first_lanes(p_.c - c));
    }
  }
  void flatten(const BFloat16* from, BFloat16* to) const {
    flat_f_.clear_frame(to);
    for (int64_t y = 0; y < p_.h; ++y) {
      BFloat16* row = to + flat_f_.centre(y * flat_f_.row()) * flat_f_.pitch;
      for (int64_t x = 0; x < p_.w; ++x, from += p_.c, row += flat_f_.pitch) {
        for (int64_t c = 0; c < flat_f_.pitch; c += kSide) {
          store(row + c, load(from + c, first_lanes(p_.c - c)));
        }
      }
      std::fill_n(row, flat_f_.pitch, BFloat16{0});
    }
  }

  const Params& p_;
  const int64_t hidden_;  // channels between the convolutions
  const Flat flat_f_, flat_h_;
  const int threads_;
};

class Forward : Block<MixedResidualBlockParams> {
 public:
  using Block::Block;

  void run() {
    const PackedWeights shape1{p_.c, hidden_}, shape2{hidden_, p_.c};
    Memory memory;
    const int64_t bytes = sizeof(BFloat16);
    const int64_t packed1 = memory.reserve(shape1.numbers() * bytes);
    const int64_t packed2 = memory.reserve(shape2.numbers() * bytes);
    const int64_t staged_bytes = round_up(flat_f_.numbers() * bytes, 64);
    const int64_t staged = memory.reserve(threads_ * staged_bytes);
    memory.take();
    shape1.pack(memory.at<BFloat16>(packed1),
                [&](auto o, auto c, auto u, auto v) { return conv1(o, c, u, v); });
    shape2.pack(memory.at<BFloat16>(packed2),
                [&](auto o, auto c, auto u, auto v) { return conv2(o, c, u, v); });
    parallel_for(p_.n, threads_, [&](int64_t n, int worker) {
      const Registers registers;
      BFloat16* const f = memory.at<BFloat16>(staged + worker * staged_bytes);
      flatten(picture(p_.f, n), f);
      activate(n, f, shape1, memory.at<BFloat16>(packed1));
      residual(n, shape2, memory.at<BFloat16>(packed2));
      attention(n);
      const float* const gates = floats(p_.gates, n, p_.c);
      const BFloat16 *const in = picture(p_.f, n), *const r = picture(p_.residual, n);
      BFloat16* const out = picture(p_.out, n);
      each_vector([&](int64_t pixel, int64_t c, __mmask16 lanes) {
        const int64_t i = pixel * p_.c + c;
        const __m512 gate = _mm512_maskz_loadu_ps(lanes, gates + c);
        store(out + i, _mm512_fmadd_ps(load(r + i, lanes), gate, load(in + i, lanes)), lanes);
      });
    });
  }

 private:
  void activate(int64_t n, const BFloat16* f, const PackedWeights& shape,
                const BFloat16* weights) const {
    BFloat16* const to = hidden(n);
    flat_h_.clear_frame(to);
    std::vector<float> cases(9 * flat_h_.pitch, 0.0f);
    for (int64_t i = 0; i < 9; ++i) {
      std::copy_n(floats(p_.cases, n * 9 + i, hidden_), hidden_, cases.data() + i * flat_h_.pitch);
    }
    convolve(flat_f_, f, shape, weights, 0, flat_f_.steps(),
             [&](const Spots& spots, int64_t half, int64_t position, int64_t channel,
                 const float* sums) {
      BFloat16* pixel = to + flat_h_.centre(position) * flat_h_.pitch + channel;
      for (int64_t i = half; i < half + kSide; ++i) {
        __m512 value = _mm512_setzero_ps();
        if (spots.x[i] < p_.w) {
          const int64_t edge = edge_case(spots.y[i], spots.x[i], p_.h, p_.w);
          const __m512 bias = _mm512_loadu_ps(cases.data() + edge * flat_h_.pitch + channel);
          value = leaky(_mm512_add_ps(_mm512_load_ps(sums), bias));
        }
        store(pixel, value);
        pixel += flat_h_.pitch, sums += kSide;
      }
    });
  }

  void residual(int64_t n, const PackedWeights& shape, const BFloat16* weights) const {
    BFloat16* const to = picture(p_.residual, n);
    std::vector<float> total(flat_f_.pitch, 0.0f);
    convolve(flat_h_, hidden(n), shape, weights, 0, flat_h_.steps(),
             [&](const Spots& spots, int64_t half, int64_t, int64_t channel, const float* sums) {
      const __mmask16 lanes = first_lanes(p_.c - channel);
      const __m512 bias =
          _mm512_maskz_loadu_ps(lanes, static_cast<const float*>(p_.conv2_bias) + channel);
      __m512 sum = _mm512_loadu_ps(total.data() + channel);
      for (int64_t i = half; i < half + kSide; ++i, sums += kSide) {
        if (spots.x[i] == p_.w) continue;
        const __m512 value = _mm512_add_ps(_mm512_load_ps(sums), bias);
        store(to + (spots.y[i] * p_.w + spots.x[i]) * p_.c + channel, value, lanes);
        sum = _mm512_add_ps(sum, value);
      }
      _mm512_storeu_ps(total.data() + channel, sum);
    });
    float* const means = floats(p_.means, n, p_.c);
    for (int64_t c = 0; c < p_.c; ++c) {
      means[c] = total[c] / static_cast<float>(p_.h * p_.w);
    }
  }

  void attention(int64_t n) const {
    const auto *reduce = static_cast<const float*>(p_.reduce_weight),
               *expand = static_cast<const float*>(p_.expand_weight),
               *reduce_bias = static_cast<const float*>(p_.reduce_bias),
               *expand_bias = static_cast<const float*>(p_.expand_bias);
    const float* const means = floats(p_.means, n, p_.c);
    float *const reduced = floats(p_.reduced, n, p_.r), *const gates = floats(p_.gates, n, p_.c);
    for (int64_t r = 0; r < p_.r; ++r) {
      reduced[r] = reduce_bias[r];
      for (int64_t c = 0; c < p_.c; ++c) reduced[r] += reduce[r * p_.c + c] * means[c];
    }
    for (int64_t c = 0; c < p_.c; ++c) {
      float sum = expand_bias[c];
      for (int64_t r = 0; r < p_.r; ++r) {
        sum += expand[c * p_.r + r] * (reduced[r] > 0 ? reduced[r] : kSlope * reduced[r]);
      }
      gates[c] = 1 / (1 + std::exp(-sum));
    }
  }
};

class Backward : Block<MixedResidualBlockGradParams> {
 public:
  explicit Backward(const MixedResidualBlockGradParams& p)
      : Block(p), shape1_{hidden_, p.c}, shape2_{p.c, hidden_}, planes_f_(flat_f_),
        planes_h_(flat_h_), pairs_f_(flat_f_), pairs_h_(flat_h_),
        groups_(std::min(kGroups, p.n)) {
    const int64_t bytes = sizeof(BFloat16);
    packed1_ = memory_.reserve(shape1_.numbers() * bytes);
    packed2_ = memory_.reserve(shape2_.numbers() * bytes);
    flat_at_ = scratch(flat_f_.numbers() * bytes);
    flat_hidden_at_ = scratch(flat_h_.numbers() * bytes);
    planes_at_ = scratch(std::max(planes_f_.numbers(), planes_h_.numbers()) * bytes);
    pairs_at_ = scratch(std::max(pairs_f_.numbers(), pairs_h_.numbers()) * bytes);
    scratch_at_ = memory_.reserve(threads_ * scratch_);
    sums_at_ = memory_.reserve(groups_ * 2 * sums() * static_cast<int64_t>(sizeof(float)));
    memory_.take();
  }

  void run() {
    // The gradient by a convolution's input is a convolution with its weights turned round.
    shape1_.pack(memory_.at<BFloat16>(packed1_),
                 [&](auto o, auto c, auto u, auto v) { return conv1(c, o, 2 - u, 2 - v); });
    shape2_.pack(memory_.at<BFloat16>(packed2_),
                 [&](auto o, auto c, auto u, auto v) { return conv2(c, o, 2 - u, 2 - v); });
    parallel_for(groups_, threads_, [&](int64_t group, int worker) {
      const Registers registers;
      float *const sums1 = group_sums(group, 0), *const sums2 = group_sums(group, 1);
      std::fill_n(sums1, 2 * sums(), 0.0f);
      for (int64_t n = group; n < p_.n; n += groups_) one(n, worker, sums1, sums2);
    });
    reduce(0, hidden_, p_.c, static_cast<float*>(p_.grad_conv1_weight));
    reduce(1, p_.c, hidden_, static_cast<float*>(p_.grad_conv2_weight));
  }

 private:
  int64_t scratch(int64_t bytes) {
    const int64_t start = scratch_;
    scratch_ += round_up(bytes, 64);
    return start;
  }
  BFloat16* of_worker(int worker, int64_t start) const {
    return memory_.at<BFloat16>(scratch_at_ + worker * scratch_ + start);
  }
  int64_t sums() const { return 9 * flat_f_.pitch * flat_h_.pitch; }
  float* group_sums(int64_t group, int64_t convolution) const {
    return memory_.at<float>(sums_at_) + (group * 2 + convolution) * sums();
  }

  void one(int64_t n, int worker, float* sums1, float* sums2) const {
    BFloat16 *const flat = of_worker(worker, flat_at_),
                    *const flat_hidden = of_worker(worker, flat_hidden_at_),
                    *const planes = of_worker(worker, planes_at_),
                    *const pairs = of_worker(worker, pairs_at_);
    std::vector<float> gates(flat_f_.pitch, 0.0f), share(flat_f_.pitch, 0.0f);
    std::copy_n(floats(p_.gates, n, p_.c), p_.c, gates.data());
    attention(n, share.data());
    of_residual(n, gates.data(), share.data(), flat);
    planes_f_.fill(flat_f_, flat, planes);
    pairs_h_.fill(flat_h_, hidden(n), pairs);
    add_weight_gradient(flat_f_, planes_f_, planes, pairs_h_, pairs, sums2);
    of_hidden(n, flat, flat_hidden);
    planes_h_.fill(flat_h_, flat_hidden, planes);
    flatten(picture(p_.f, n), flat);
    pairs_f_.fill(flat_f_, flat, pairs);
    add_weight_gradient(flat_h_, planes_h_, planes, pairs_f_, pairs, sums1);
    of_f(n, flat_hidden);
  }

  // The gradients inside channel attention, and what its means add to every pixel's.
  void attention(int64_t n, float* share) const {
    const BFloat16 *const grad = picture(p_.grad_out, n), *const r = picture(p_.residual, n);
    std::vector<float> products(flat_f_.pitch, 0.0f);
    each_vector([&](int64_t pixel, int64_t c, __mmask16 lanes) {
      const int64_t i = pixel * p_.c + c;
      const __m512 sum = _mm512_loadu_ps(products.data() + c);
      _mm512_storeu_ps(products.data() + c,
                       _mm512_fmadd_ps(load(grad + i, lanes), load(r + i, lanes), sum));
    });
    const auto *reduce = static_cast<const float*>(p_.reduce_weight),
               *expand = static_cast<const float*>(p_.expand_weight);
    const float *const gates = floats(p_.gates, n, p_.c), *const reduced = floats(p_.reduced, n, p_.r);
    float *const by_expanded = floats(p_.grad_expanded, n, p_.c),
                 *const by_reduced = floats(p_.grad_reduced, n, p_.r);
    for (int64_t c = 0; c < p_.c; ++c) by_expanded[c] = products[c] * gates[c] * (1 - gates[c]);
    const float pixels = static_cast<float>(p_.h * p_.w);
    for (int64_t i = 0; i < p_.r; ++i) {
      by_reduced[i] = 0;
      for (int64_t c = 0; c < p_.c; ++c) by_reduced[i] += expand[c * p_.r + i] * by_expanded[c];
      if (reduced[i] <= 0) by_reduced[i] *= kSlope;
      for (int64_t c = 0; c < p_.c; ++c) share[c] += reduce[i * p_.c + c] * by_reduced[i] / pixels;
    }
  }

  // The gradient by the second convolution's result, flat.
  void of_residual(int64_t n, const float* gates, const float* share, BFloat16* to) const {
    const BFloat16* from = picture(p_.grad_out, n);
    std::vector<float> total(flat_f_.pitch, 0.0f);
    flat_f_.clear_frame(to);
    for (int64_t y = 0; y < p_.h; ++y) {
      BFloat16* row = to + flat_f_.centre(y * flat_f_.row()) * flat_f_.pitch;
      for (int64_t x = 0; x < p_.w; ++x, from += p_.c, row += flat_f_.pitch) {
        for (int64_t c = 0; c < flat_f_.pitch; c += kSide) {
          const __m512 grad = load(from + c, first_lanes(p_.c - c));
          const __m512 value =
              _mm512_fmadd_ps(grad, _mm512_loadu_ps(gates + c), _mm512_loadu_ps(share + c));
          store(row + c, value);
          _mm512_storeu_ps(total.data() + c,
                           _mm512_add_ps(_mm512_loadu_ps(total.data() + c), value));
        }
      }
      std::fill_n(row, flat_f_.pitch, BFloat16{0});
    }
    std::copy_n(total.data(), p_.c, floats(p_.grad_conv2_bias, n, p_.c));
  }

  // The gradient by the first convolution's result, flat, and its sums: those of `cases`.
  void of_hidden(int64_t n, const BFloat16* flat, BFloat16* to) const {
    const BFloat16* const activated = hidden(n);
    std::vector<float> total(9 * flat_h_.pitch, 0.0f);
    flat_h_.clear_frame(to);
    convolve(flat_f_, flat, shape2_, memory_.at<BFloat16>(packed2_), 0, flat_f_.steps(),
             [&](const Spots& spots, int64_t half, int64_t position, int64_t channel,
                 const float* sums) {
      int64_t at = flat_h_.centre(position) * flat_h_.pitch + channel;
      float* const inner = total.data() + 4 * flat_h_.pitch + channel;
      __m512 sum = _mm512_loadu_ps(inner);
      for (int64_t i = half; i < half + kSide; ++i) {
        __m512 value = _mm512_setzero_ps();
        if (spots.x[i] < p_.w) {
          value = _mm512_load_ps(sums);
          const __mmask16 low =
              _mm512_cmp_ps_mask(load(activated + at), _mm512_setzero_ps(), _CMP_LE_OQ);
          value = _mm512_mask_mul_ps(value, low, value, _mm512_set1_ps(kSlope));
          const int64_t edge = edge_case(spots.y[i], spots.x[i], p_.h, p_.w);
          if (edge == 4) {
            sum = _mm512_add_ps(sum, value);
          } else {
            float* const border = total.data() + edge * flat_h_.pitch + channel;
            _mm512_storeu_ps(border, _mm512_add_ps(_mm512_loadu_ps(border), value));
          }
        }
        store(to + at, value);
        at += flat_h_.pitch, sums += kSide;
      }
      _mm512_storeu_ps(inner, sum);
    });
    for (int64_t i = 0; i < 9; ++i) {
      std::copy_n(total.data() + i * flat_h_.pitch, hidden_,
                  floats(p_.grad_cases, n * 9 + i, hidden_));
    }
  }

  void of_f(int64_t n, const BFloat16* flat_hidden) const {
    const BFloat16* const grad = picture(p_.grad_out, n);
    BFloat16* const to = picture(p_.grad_f, n);
    convolve(flat_h_, flat_hidden, shape1_, memory_.at<BFloat16>(packed1_), 0, flat_h_.steps(),
             [&](const Spots& spots, int64_t half, int64_t, int64_t channel, const float* sums) {
      const __mmask16 lanes = first_lanes(p_.c - channel);
      for (int64_t i = half; i < half + kSide; ++i, sums += kSide) {
        if (spots.x[i] == p_.w) continue;
        const int64_t at = (spots.y[i] * p_.w + spots.x[i]) * p_.c + channel;
        store(to + at, _mm512_add_ps(_mm512_load_ps(sums), load(grad + at, lanes)), lanes);
      }
    });
  }

  // The groups' sums (9, outputs, inputs), in tiles, to a weight's gradient.
  void reduce(int64_t convolution, int64_t outputs, int64_t inputs, float* to) const {
    const int64_t padded = round_up(outputs, kSide), pitch = round_up(inputs, kSide);
    parallel_for(outputs, threads_, [&](int64_t o, int) {
      for (int64_t tap = 0; tap < 9; ++tap) {
        for (int64_t c = 0; c < pitch; c += kSide) {
          __m512 sum = _mm512_setzero_ps();
          for (int64_t group = 0; group < groups_; ++group) {
            const float* const row =
                group_sums(group, convolution) + (tap * padded + o) * pitch + c;
            sum = _mm512_add_ps(sum, _mm512_load_ps(row));
          }
          float* const first = to + (o * inputs + c) * 9 + tap;
          _mm512_mask_i32scatter_ps(first, first_lanes(inputs - c), every_ninth(), sum, 4);
        }
      }
    });
  }
  static __m512i every_ninth() {
    const __m512i i = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    return _mm512_mullo_epi32(i, _mm512_set1_epi32(9));
  }

  const PackedWeights shape1_, shape2_;
  const Planes planes_f_, planes_h_;
  const Pairs pairs_f_, pairs_h_;
  const int64_t groups_;
  Memory memory_;
  int64_t packed1_, packed2_, flat_at_, flat_hidden_at_, planes_at_, pairs_at_;
  int64_t scratch_at_, sums_at_, scratch_ = 0;
};

}  // namespace
}  // namespace amx

void mixed_residual_block_amx(const MixedResidualBlockParams& p) { amx::Forward(p).run(); }
void mixed_residual_block_grad_amx(const MixedResidualBlockGradParams& p) {
  amx::Backward(p).run();
}
int64_t mixed_residual_block_hidden_amx(int64_t h, int64_t w, int64_t channels) {
  return amx::Flat(h, w, channels).numbers();
}

}  // namespace pysr
