// conditional_residual_block in bfloat16, by matrix tiles: the two convolutions and what is stored
// with them. A picture is cut into bands of rows; a thread stages a band of f, and of a condition
// that is a picture, in its own cache, the hidden features lie in memory.
#include <algorithm>
#include <cstdint>

#include "cpu/amx.h"
#include "cpu/amx_blocks.h"

namespace pysr {
namespace amx {
namespace {

// Positions of a band: its pixels, staged, fit the second-level cache.
constexpr int64_t kBandPositions = 2048;
constexpr int64_t kLeastRows = 4;

int64_t band_rows(int64_t h, int64_t w) {
  return std::min(h, std::max(kBandPositions / (w + 1), kLeastRows));
}

// A band of a picture: rows [top, top + height).
struct Band {
  int64_t top, height;
  Band(int64_t h, int64_t w, int64_t band)
      : top(band * band_rows(h, w)), height(std::min(band_rows(h, w), h - top)) {}
};

PackedWeights shape1(const BlockChannels& channels) { return {channels.inputs, channels.hidden}; }
PackedWeights shape2(const BlockChannels& channels) { return {channels.hidden, channels.c}; }

template <class S>
BFloat16* hidden(const BlockPictures<S>& p, int64_t n) {
  return p.hidden + n * block_hidden(p.h, p.w, p.channels.hidden);
}

}  // namespace

int64_t block_weights(const BlockChannels& channels) {
  return shape1(channels).numbers() + shape2(channels).numbers();
}

void pack_block(const float* conv1, const float* conv2, const BlockChannels& channels,
                BFloat16* to) {
  const auto of = [hidden = channels.hidden](const float* weight) {
    return [weight, hidden](int64_t o, int64_t i, int64_t u, int64_t v) {
      return weight[((o * hidden + i) * 3 + u) * 3 + v];
    };
  };
  shape1(channels).pack(to, of(conv1));
  shape2(channels).pack(to + shape1(channels).numbers(), of(conv2));
}

int64_t block_hidden(int64_t h, int64_t w, int64_t channels) {
  return Flat(h, w, channels).numbers();
}
int64_t block_padded(int64_t channels) { return round_up(channels, kSide); }
int64_t block_bands(int64_t h, int64_t w) { return ceil_div(h, band_rows(h, w)); }
int64_t block_scratch(int64_t h, int64_t w, int64_t inputs) {
  return Flat(band_rows(h, w), w, inputs).numbers() * static_cast<int64_t>(sizeof(BFloat16));
}
int64_t block_hidden_at(int64_t h, int64_t w, int64_t channels, int64_t y, int64_t x) {
  return Flat(h, w, channels).at(y, x);
}
void block_clear_frame(int64_t h, int64_t w, int64_t channels, BFloat16* hidden) {
  Flat(h, w, channels).clear_frame(hidden);
}

template <class S>
void block_activate(const BlockPictures<S>& p, int64_t n, int64_t band, const float* cases,
                    float* sums, void* scratch) {
  const Registers registers;
  const Band rows(p.h, p.w, band);
  const BlockChannels& channels = p.channels;
  const Flat staged(rows.height, p.w, channels.inputs), whole(p.h, p.w, channels.hidden);
  BFloat16* const from = static_cast<BFloat16*>(scratch);
  staged.clear_frame(from);
  const int64_t above = std::min<int64_t>(rows.top, 1);
  const int64_t below = std::min<int64_t>(p.h - rows.top - rows.height, 1);
  for (int64_t y = -above; y < rows.height + below; ++y) {
    const auto fill = [&](const S* picture, const int64_t* stride, int64_t first, int64_t count) {
      const S* const row = picture + n * stride[0] + (rows.top + y) * stride[2];
      staged.fill_row(row, stride[3], stride[1], count, from + staged.at(y, 0), first);
    };
    fill(p.f, p.f_stride, 0, channels.c);
    if (p.cond != nullptr) {
      fill(p.cond, p.cond_stride, channels.c, channels.inputs - channels.c);
    }
  }
  BFloat16* const to = hidden(p, n) + whole.at(rows.top, 0);
  std::fill_n(sums, whole.pitch, 0.0f);
  convolve(staged, from, shape1(channels), p.packed, 0, staged.steps(),
           [&](const Spots& spots, int64_t half, int64_t position, int64_t channel,
               const float* tile) {
    BFloat16* const pixels = to + position * whole.pitch + channel;
    __m512 sum = _mm512_loadu_ps(sums + channel);
    const auto put = [&](int64_t i, __m512 value) {
      const __m256i rounded = narrowed(value);
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(pixels + i * whole.pitch), rounded);
      sum = _mm512_add_ps(sum, widened(rounded));
    };
    const auto activated = [&](int64_t i, int64_t edge) {
      const __m512 bias = _mm512_loadu_ps(cases + edge * whole.pitch + channel);
      return leaky(_mm512_add_ps(_mm512_load_ps(tile + i * kSide), bias));
    };
    if (spots.inside(half, rows.top, p.h, p.w)) {
      for (int64_t i = 0; i < kSide; ++i) put(i, activated(i, kInner));
    } else {
      for (int64_t i = 0; i < std::min(kSide, staged.positions() - position); ++i) {
        const int64_t y = rows.top + spots.y[half + i], x = spots.x[half + i];
        put(i, x < p.w ? activated(i, edge_case(y, x, p.h, p.w)) : _mm512_setzero_ps());
      }
    }
    _mm512_storeu_ps(sums + channel, sum);
  });
}

template <class S>
void block_add_residual(const BlockPictures<S>& p, int64_t n, int64_t band, const float* bias,
                        const float* gates) {
  const Registers registers;
  const Band rows(p.h, p.w, band);
  const Flat part(rows.height, p.w, p.channels.hidden);
  // The pixel that its first position's first tap sees.
  const BFloat16* const from = hidden(p, n) + rows.top * part.row() * part.pitch;
  const int64_t outputs = p.channels.c;
  convolve(part, from, shape2(p.channels), p.packed + shape1(p.channels).numbers(), 0,
           part.steps(),
           [&](const Spots& spots, int64_t half, int64_t, int64_t channel, const float* tile) {
    const __mmask16 lanes = first_lanes(outputs - channel);
    const __m512 more = _mm512_loadu_ps(bias + channel), gate = _mm512_loadu_ps(gates + channel);
    const auto at = [&](const int64_t* stride, int64_t i) {
      const int64_t y = rows.top + spots.y[i], x = spots.x[i];
      return n * stride[0] + channel * stride[1] + y * stride[2] + x * stride[3];
    };
    const auto sum = [&](const __m512& before, int64_t i) {
      const __m512 residual = _mm512_add_ps(_mm512_load_ps(tile + i * kSide), more);
      return _mm512_fmadd_ps(residual, gate, before);
    };
    const bool together = p.f_stride[1] == 1 && p.out_stride[1] == 1;
    if (together && spots.in_a_row(half, p.w)) {
      const S* f = p.f + at(p.f_stride, half);
      S* out = p.out + at(p.out_stride, half);
      for (int64_t i = 0; i < kSide; ++i, f += p.f_stride[3], out += p.out_stride[3]) {
        store(out, sum(load(f, lanes), i), lanes);
      }
      return;
    }
    for (int64_t i = 0; i < kSide; ++i) {
      if (spots.x[half + i] == p.w) continue;
      const S* const f = p.f + at(p.f_stride, half + i);
      S* const out = p.out + at(p.out_stride, half + i);
      if (together) {
        store(out, sum(load(f, lanes), i), lanes);
        continue;
      }
      const int64_t count = std::min(kSide, outputs - channel);
      alignas(64) S numbers[kSide];
      for (int64_t c = 0; c < count; ++c) numbers[c] = f[c * p.f_stride[1]];
      store(numbers, sum(load(numbers, lanes), i), lanes);
      for (int64_t c = 0; c < count; ++c) out[c * p.out_stride[1]] = numbers[c];
    }
  });
}

template void block_activate(const BlockPictures<float>&, int64_t, int64_t, const float*, float*,
                             void*);
template void block_activate(const BlockPictures<BFloat16>&, int64_t, int64_t, const float*,
                             float*, void*);
template void block_add_residual(const BlockPictures<float>&, int64_t, int64_t, const float*,
                                 const float*);
template void block_add_residual(const BlockPictures<BFloat16>&, int64_t, int64_t, const float*,
                                 const float*);

}  // namespace amx
}  // namespace pysr
