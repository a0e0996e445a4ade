// mixed_residual_block by matrix tiles. A picture is worked on from end to end by one thread, whose
// cache holds all that its layers pass on to each other.
//
// Weight gradients are summed over groups of pictures, then over the groups in order, so that the
// number of threads never shows in the result.
#include <algorithm>
#include <cmath>
#include <cstdint>

#include "cpu/amx.h"
#include "cpu/amx_blocks.h"

namespace pysr {
namespace amx {
namespace {

constexpr int64_t kGroups = 8;
constexpr int64_t kBytes = sizeof(BFloat16);

// Parts of a piece of memory, in whole cache lines.
class Parts {
 public:
  int64_t reserve(int64_t bytes) {
    const int64_t start = bytes_;
    bytes_ += round_up(bytes, 64);
    return start;
  }
  int64_t bytes() const { return bytes_; }

 private:
  int64_t bytes_ = 0;
};
template <class T>
T* part(void* memory, int64_t start) {
  return reinterpret_cast<T*>(static_cast<char*>(memory) + start);
}
template <class T>
const T* part(const void* memory, int64_t start) {
  return reinterpret_cast<const T*>(static_cast<const char*>(memory) + start);
}

// Sizes and layouts that both directions share.
template <class Params>
class Block {
 public:
  explicit Block(const Params& p)
      : p_(p), hidden_(p.channels()), flat_f_(p.h, p.w, p.c), flat_h_(p.h, p.w, hidden_) {}

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
      flat_f_.fill_row(from + y * p_.w * p_.c, p_.c, 1, p_.c, to + flat_f_.at(y, 0));
    }
  }

  const Params& p_;
  const int64_t hidden_;  // channels between the convolutions
  const Flat flat_f_, flat_h_;
};

class Forward : Block<MixedResidualBlockParams> {
 public:
  explicit Forward(const MixedResidualBlockParams& p)
      : Block(p), shape1_{p.c, hidden_}, shape2_{hidden_, p.c} {
    packed1_ = shared_.reserve(shape1_.numbers() * kBytes);
    packed2_ = shared_.reserve(shape2_.numbers() * kBytes);
    staged_ = scratch_.reserve(flat_f_.numbers() * kBytes);
    sums_ = scratch_.reserve(9 * flat_h_.pitch * static_cast<int64_t>(sizeof(float)));
  }
  int64_t shared() const { return shared_.bytes(); }
  int64_t scratch() const { return scratch_.bytes(); }

  void prepare(void* shared) const {
    shape1_.pack(part<BFloat16>(shared, packed1_),
                 [&](auto o, auto c, auto u, auto v) { return conv1(o, c, u, v); });
    shape2_.pack(part<BFloat16>(shared, packed2_),
                 [&](auto o, auto c, auto u, auto v) { return conv2(o, c, u, v); });
  }

  void one(int64_t n, const void* shared, void* scratch) const {
    const Registers registers;
    BFloat16* const f = part<BFloat16>(scratch, staged_);
    float* const sums = part<float>(scratch, sums_);
    flatten(picture(p_.f, n), f);
    activate(n, f, part<BFloat16>(shared, packed1_), sums);
    residual(n, part<BFloat16>(shared, packed2_), sums);
    attention(n);
    const float* const gates = floats(p_.gates, n, p_.c);
    const BFloat16 *const in = picture(p_.f, n), *const r = picture(p_.residual, n);
    BFloat16* const out = picture(p_.out, n);
    each_vector([&](int64_t pixel, int64_t c, __mmask16 lanes) {
      const int64_t i = pixel * p_.c + c;
      const __m512 gate = _mm512_maskz_loadu_ps(lanes, gates + c);
      store(out + i, _mm512_fmadd_ps(load(r + i, lanes), gate, load(in + i, lanes)), lanes);
    });
  }

 private:
  void activate(int64_t n, const BFloat16* f, const BFloat16* weights, float* cases) const {
    BFloat16* const to = hidden(n);
    flat_h_.clear_frame(to);
    std::fill_n(cases, 9 * flat_h_.pitch, 0.0f);
    for (int64_t i = 0; i < 9; ++i) {
      std::copy_n(floats(p_.cases, n * 9 + i, hidden_), hidden_, cases + i * flat_h_.pitch);
    }
    convolve(flat_f_, f, shape1_, weights, 0, flat_f_.steps(),
             [&](const Spots& spots, int64_t half, int64_t position, int64_t channel,
                 const float* sums) {
      BFloat16* const pixels = to + flat_h_.centre(position) * flat_h_.pitch + channel;
      const auto activated = [&](int64_t i, int64_t edge) {
        const __m512 bias = _mm512_load_ps(cases + edge * flat_h_.pitch + channel);
        return leaky(_mm512_add_ps(_mm512_load_ps(sums + i * kSide), bias));
      };
      if (spots.inside(half, 0, p_.h, p_.w)) {
        for (int64_t i = 0; i < kSide; ++i) {
          store(pixels + i * flat_h_.pitch, activated(i, kInner));
        }
        return;
      }
      for (int64_t i = 0; i < kSide; ++i) {
        const int64_t y = spots.y[half + i], x = spots.x[half + i];
        store(pixels + i * flat_h_.pitch,
              x < p_.w ? activated(i, edge_case(y, x, p_.h, p_.w)) : _mm512_setzero_ps());
      }
    });
  }

  void residual(int64_t n, const BFloat16* weights, float* total) const {
    BFloat16* const to = picture(p_.residual, n);
    std::fill_n(total, flat_f_.pitch, 0.0f);
    convolve(flat_h_, hidden(n), shape2_, weights, 0, flat_h_.steps(),
             [&](const Spots& spots, int64_t half, int64_t, int64_t channel, const float* sums) {
      const __mmask16 lanes = first_lanes(p_.c - channel);
      const __m512 bias =
          _mm512_maskz_loadu_ps(lanes, static_cast<const float*>(p_.conv2_bias) + channel);
      __m512 sum = _mm512_load_ps(total + channel);
      const bool in_a_row = spots.in_a_row(half, p_.w);
      BFloat16* pixel = to + (spots.y[half] * p_.w + spots.x[half]) * p_.c + channel;
      for (int64_t i = half; i < half + kSide; ++i, sums += kSide) {
        // The pad position has no pixel, so that what follows it lies where it would.
        if (!in_a_row && spots.x[i] == p_.w) continue;
        const __m512 value = _mm512_add_ps(_mm512_load_ps(sums), bias);
        store(pixel, value, lanes);
        sum = _mm512_add_ps(sum, value);
        pixel += p_.c;
      }
      _mm512_store_ps(total + channel, sum);
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

  const PackedWeights shape1_, shape2_;
  Parts shared_, scratch_;
  int64_t packed1_, packed2_, staged_, sums_;
};

class Backward : Block<MixedResidualBlockGradParams> {
 public:
  explicit Backward(const MixedResidualBlockGradParams& p)
      : Block(p), shape1_{hidden_, p.c}, shape2_{p.c, hidden_}, planes_f_(flat_f_),
        planes_h_(flat_h_), pairs_f_(flat_f_), pairs_h_(flat_h_) {
    constexpr int64_t kFloat = sizeof(float);
    packed1_ = shared_.reserve(shape1_.numbers() * kBytes);
    packed2_ = shared_.reserve(shape2_.numbers() * kBytes);
    sums_ = shared_.reserve(groups() * 2 * weights() * kFloat);
    flat_ = scratch_.reserve(flat_f_.numbers() * kBytes);
    flat_hidden_ = scratch_.reserve(flat_h_.numbers() * kBytes);
    planes_ = scratch_.reserve(std::max(planes_f_.numbers(), planes_h_.numbers()) * kBytes);
    pairs_ = scratch_.reserve(std::max(pairs_f_.numbers(), pairs_h_.numbers()) * kBytes);
    gates_ = scratch_.reserve(flat_f_.pitch * kFloat);
    share_ = scratch_.reserve(flat_f_.pitch * kFloat);
    total_ = scratch_.reserve(9 * flat_h_.pitch * kFloat);
  }
  int64_t groups() const { return std::min(kGroups, p_.n); }
  int64_t shared() const { return shared_.bytes(); }
  int64_t scratch() const { return scratch_.bytes(); }

  // The gradient by a convolution's input is a convolution with its weights turned round.
  void prepare(void* shared) const {
    shape1_.pack(part<BFloat16>(shared, packed1_),
                 [&](auto o, auto c, auto u, auto v) { return conv1(c, o, 2 - u, 2 - v); });
    shape2_.pack(part<BFloat16>(shared, packed2_),
                 [&](auto o, auto c, auto u, auto v) { return conv2(c, o, 2 - u, 2 - v); });
  }

  void group(int64_t group, void* shared, void* scratch) const {
    const Registers registers;
    float* const sums = part<float>(shared, sums_) + group * 2 * weights();
    std::fill_n(sums, 2 * weights(), 0.0f);
    for (int64_t n = group; n < p_.n; n += groups()) {
      one(n, shared, scratch, sums, sums + weights());
    }
  }

  void sum(const void* shared) const {
    reduce(part<float>(shared, sums_), hidden_, p_.c, static_cast<float*>(p_.grad_conv1_weight));
    reduce(part<float>(shared, sums_) + weights(), p_.c, hidden_,
           static_cast<float*>(p_.grad_conv2_weight));
  }

 private:
  int64_t weights() const { return 9 * flat_f_.pitch * flat_h_.pitch; }

  void one(int64_t n, const void* shared, void* scratch, float* sums1, float* sums2) const {
    BFloat16 *const flat = part<BFloat16>(scratch, flat_),
                    *const flat_hidden = part<BFloat16>(scratch, flat_hidden_),
                    *const planes = part<BFloat16>(scratch, planes_),
                    *const pairs = part<BFloat16>(scratch, pairs_);
    float *const gates = part<float>(scratch, gates_), *const share = part<float>(scratch, share_),
                 *const total = part<float>(scratch, total_);
    std::fill_n(gates, flat_f_.pitch, 0.0f);
    std::copy_n(floats(p_.gates, n, p_.c), p_.c, gates);
    attention(n, share, total);
    of_residual(n, gates, share, flat, total);
    planes_f_.fill(flat_f_, flat, planes);
    pairs_h_.fill(flat_h_, hidden(n), pairs);
    add_weight_gradient(flat_f_, planes_f_, planes, pairs_h_, pairs, sums2);
    of_hidden(n, flat, part<BFloat16>(shared, packed2_), flat_hidden, total);
    planes_h_.fill(flat_h_, flat_hidden, planes);
    flatten(picture(p_.f, n), flat);
    pairs_f_.fill(flat_f_, flat, pairs);
    add_weight_gradient(flat_h_, planes_h_, planes, pairs_f_, pairs, sums1);
    of_f(n, flat_hidden, part<BFloat16>(shared, packed1_));
  }

  // The gradients inside channel attention, and what its means add to every pixel's.
  void attention(int64_t n, float* share, float* products) const {
    const BFloat16 *const grad = picture(p_.grad_out, n), *const r = picture(p_.residual, n);
    std::fill_n(products, flat_f_.pitch, 0.0f);
    std::fill_n(share, flat_f_.pitch, 0.0f);
    each_vector([&](int64_t pixel, int64_t c, __mmask16 lanes) {
      const int64_t i = pixel * p_.c + c;
      const __m512 sum = _mm512_load_ps(products + c);
      _mm512_store_ps(products + c,
                      _mm512_fmadd_ps(load(grad + i, lanes), load(r + i, lanes), sum));
    });
    const auto *reduce = static_cast<const float*>(p_.reduce_weight),
               *expand = static_cast<const float*>(p_.expand_weight);
    const float *const gates = floats(p_.gates, n, p_.c),
                *const reduced = floats(p_.reduced, n, p_.r);
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
  void of_residual(int64_t n, const float* gates, const float* share, BFloat16* to,
                   float* total) const {
    const BFloat16* from = picture(p_.grad_out, n);
    std::fill_n(total, flat_f_.pitch, 0.0f);
    flat_f_.clear_frame(to);
    for (int64_t y = 0; y < p_.h; ++y) {
      BFloat16* row = to + flat_f_.at(y, 0);
      for (int64_t x = 0; x < p_.w; ++x, from += p_.c, row += flat_f_.pitch) {
        for (int64_t c = 0; c < flat_f_.pitch; c += kSide) {
          const __m512 grad = load(from + c, first_lanes(p_.c - c));
          const __m512 value =
              _mm512_fmadd_ps(grad, _mm512_load_ps(gates + c), _mm512_load_ps(share + c));
          store(row + c, value);
          _mm512_store_ps(total + c, _mm512_add_ps(_mm512_load_ps(total + c), value));
        }
      }
      std::fill_n(row, flat_f_.pitch, BFloat16{0});
    }
    std::copy_n(total, p_.c, floats(p_.grad_conv2_bias, n, p_.c));
  }

  // The gradient by the first convolution's result, flat, and its sums: those of `cases`.
  void of_hidden(int64_t n, const BFloat16* flat, const BFloat16* weights, BFloat16* to,
                 float* total) const {
    const BFloat16* const activated = hidden(n);
    std::fill_n(total, 9 * flat_h_.pitch, 0.0f);
    flat_h_.clear_frame(to);
    convolve(flat_f_, flat, shape2_, weights, 0, flat_f_.steps(),
             [&](const Spots& spots, int64_t half, int64_t position, int64_t channel,
                 const float* sums) {
      const int64_t at = flat_h_.centre(position) * flat_h_.pitch + channel;
      const auto descended = [&](int64_t i) {
        const __m512 grad = _mm512_load_ps(sums + i * kSide);
        const __m512 value = load(activated + at + i * flat_h_.pitch);
        const __mmask16 low = _mm512_cmp_ps_mask(value, _mm512_setzero_ps(), _CMP_LE_OQ);
        return _mm512_mask_mul_ps(grad, low, grad, _mm512_set1_ps(kSlope));
      };
      float* const inner = total + kInner * flat_h_.pitch + channel;
      if (spots.inside(half, 0, p_.h, p_.w)) {
        __m512 sum = _mm512_load_ps(inner);
        for (int64_t i = 0; i < kSide; ++i) {
          const __m512 value = descended(i);
          store(to + at + i * flat_h_.pitch, value);
          sum = _mm512_add_ps(sum, value);
        }
        _mm512_store_ps(inner, sum);
        return;
      }
      for (int64_t i = 0; i < kSide; ++i) {
        const int64_t y = spots.y[half + i], x = spots.x[half + i];
        const __m512 value = x < p_.w ? descended(i) : _mm512_setzero_ps();
        store(to + at + i * flat_h_.pitch, value);
        const int64_t edge = x < p_.w ? edge_case(y, x, p_.h, p_.w) : kInner;
        float* const of_case = total + edge * flat_h_.pitch + channel;
        _mm512_store_ps(of_case, _mm512_add_ps(_mm512_load_ps(of_case), value));
      }
    });
    for (int64_t i = 0; i < 9; ++i) {
      std::copy_n(total + i * flat_h_.pitch, hidden_,
                  floats(p_.grad_cases, n * 9 + i, hidden_));
    }
  }

  void of_f(int64_t n, const BFloat16* flat_hidden, const BFloat16* weights) const {
    const BFloat16* const grad = picture(p_.grad_out, n);
    BFloat16* const to = picture(p_.grad_f, n);
    convolve(flat_h_, flat_hidden, shape1_, weights, 0, flat_h_.steps(),
             [&](const Spots& spots, int64_t half, int64_t, int64_t channel, const float* sums) {
      const __mmask16 lanes = first_lanes(p_.c - channel);
      const bool in_a_row = spots.in_a_row(half, p_.w);
      int64_t at = (spots.y[half] * p_.w + spots.x[half]) * p_.c + channel;
      for (int64_t i = half; i < half + kSide; ++i, sums += kSide) {
        if (!in_a_row && spots.x[i] == p_.w) continue;
        store(to + at, _mm512_add_ps(_mm512_load_ps(sums), load(grad + at, lanes)), lanes);
        at += p_.c;
      }
    });
  }

  // The groups' sums (9, outputs, inputs), in tiles, to a weight's gradient.
  void reduce(const float* sums, int64_t outputs, int64_t inputs, float* to) const {
    const int64_t padded = round_up(outputs, kSide), pitch = round_up(inputs, kSide);
    const __m512i i = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512i every_ninth = _mm512_mullo_epi32(i, _mm512_set1_epi32(9));
    for (int64_t o = 0; o < outputs; ++o) {
      for (int64_t tap = 0; tap < 9; ++tap) {
        for (int64_t c = 0; c < inputs; c += kSide) {
          const float* const first = sums + (tap * padded + o) * pitch + c;
          __m512 sum = _mm512_load_ps(first);
          for (int64_t group = 1; group < groups(); ++group) {
            sum = _mm512_add_ps(sum, _mm512_load_ps(first + group * 2 * weights()));
          }
          _mm512_mask_i32scatter_ps(to + (o * inputs + c) * 9 + tap, first_lanes(inputs - c),
                                    every_ninth, sum, sizeof(float));
        }
      }
    }
  }

  const PackedWeights shape1_, shape2_;
  const Planes planes_f_, planes_h_;
  const Pairs pairs_f_, pairs_h_;
  Parts shared_, scratch_;
  int64_t packed1_, packed2_, sums_, flat_, flat_hidden_, planes_, pairs_, gates_, share_, total_;
};

}  // namespace

int64_t mixed_shared(const MixedResidualBlockParams& p) { return Forward(p).shared(); }
int64_t mixed_scratch(const MixedResidualBlockParams& p) { return Forward(p).scratch(); }
void mixed_prepare(const MixedResidualBlockParams& p, void* shared) { Forward(p).prepare(shared); }
void mixed_picture(const MixedResidualBlockParams& p, int64_t n, const void* shared,
                   void* scratch) {
  Forward(p).one(n, shared, scratch);
}

int64_t mixed_grad_groups(const MixedResidualBlockGradParams& p) { return Backward(p).groups(); }
int64_t mixed_grad_shared(const MixedResidualBlockGradParams& p) { return Backward(p).shared(); }
int64_t mixed_grad_scratch(const MixedResidualBlockGradParams& p) { return Backward(p).scratch(); }
void mixed_grad_prepare(const MixedResidualBlockGradParams& p, void* shared) {
  Backward(p).prepare(shared);
}
void mixed_grad_group(const MixedResidualBlockGradParams& p, int64_t group, void* shared,
                      void* scratch) {
  Backward(p).group(group, shared, scratch);
}
void mixed_grad_sum(const MixedResidualBlockGradParams& p, const void* shared) {
  Backward(p).sum(shared);
}

}  // namespace amx
}  // namespace pysr
