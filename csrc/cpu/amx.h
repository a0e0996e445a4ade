// 3x3 convolutions of bfloat16 pictures by the matrix tiles of x86-64 processors (AMX), and their
// gradients. Only for amx_*.cpp, which CMake compiles for processors that have them.
//
// A tile product adds a (16 x 32) times b (32 x 16) to 16 x 16 floats; b has its rows in pairs, two
// numbers of a column side by side.
#pragma once

#include <immintrin.h>

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "common/dtype.h"
#include "common/index.h"

namespace pysr {
namespace amx {
namespace {

constexpr int64_t kSide = 16;              // rows and columns of a product
constexpr int64_t kDepth = 32;             // numbers that it sums over
constexpr int64_t kTile = kSide * kDepth;  // bfloat16 numbers of a tile
constexpr int64_t kStep = 2 * kSide;       // positions or channels of a step: two tiles

// Eight tile registers of 16 rows of 64 bytes, as the processor is told. A constant: GCC 12 takes
// its first eight bytes alone for read, and would not write the rest of a variable in time.
struct alignas(64) TileShapes {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t bytes_per_row[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
const TileShapes kTileShapes;

// The tile registers, for the calling thread, while this lives.
class Registers {
 public:
  Registers() { _tile_loadconfig(&kTileShapes); }
  ~Registers() { _tile_release(); }
  Registers(const Registers&) = delete;
  Registers& operator=(const Registers&) = delete;
};

inline __mmask16 first_lanes(int64_t count) {
  return static_cast<__mmask16>((1u << std::clamp<int64_t>(count, 0, kSide)) - 1);
}
inline __m512 widened(__m256i halves) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}
inline __m512 load(const BFloat16* from) {
  return widened(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
}
inline __m512 load(const BFloat16* from, __mmask16 lanes) {
  return widened(_mm256_maskz_loadu_epi16(lanes, from));
}
inline __m256i narrowed(__m512 value) {
  return reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(value));
}
inline void store(BFloat16* to, __m512 value) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), narrowed(value));
}
inline void store(BFloat16* to, __m512 value, __mmask16 lanes) {
  _mm256_mask_storeu_epi16(to, lanes, narrowed(value));
}
inline __m512 load(const float* from, __mmask16 lanes) {
  return _mm512_maskz_loadu_ps(lanes, from);
}
inline void store(float* to, __m512 value, __mmask16 lanes) {
  _mm512_mask_storeu_ps(to, lanes, value);
}

// LeakyReLU as DAN has it.
constexpr float kSlope = 0.2f;
inline __m512 leaky(__m512 value) {
  return _mm512_max_ps(value, _mm512_mul_ps(value, _mm512_set1_ps(kSlope)));
}

// Which of (3, 3) a pixel is: in the first, an inner or the last row and column.
constexpr int64_t kInner = 4;
inline int64_t edge_case(int64_t y, int64_t x, int64_t h, int64_t w) {
  const auto along = [](int64_t i, int64_t length) {
    return i < length - 1 ? std::min<int64_t>(i, 1) : std::min<int64_t>(i, 2);
  };
  return along(y, h) * 3 + along(x, w);
}

// A picture as the convolutions read it: its pixels one after another, with a row of zeros above
// and below, and a zero pixel after every row, which is the next one's left neighbour too. Results
// come in the same order, `position` by position: h rows of w + 1, of which the last is nothing.
struct Flat {
  int64_t h, w;
  int64_t pitch;  // numbers of a pixel: its channels, then zeros

  Flat(int64_t height, int64_t width, int64_t channels)
      : h(height), w(width), pitch(round_up(channels, kSide)) {}
  int64_t row() const { return w + 1; }
  int64_t positions() const { return h * row(); }
  int64_t steps() const { return ceil_div(positions(), kStep); }
  // The pixel at the centre of a position's taps; that of its first tap is `position` itself.
  int64_t centre(int64_t position) const { return position + row() + 1; }
  // Pixels that the last step's last tap reaches, wherever steps begin.
  int64_t pixels() const { return (steps() + 1) * kStep + 2 * row() + 2; }
  int64_t numbers() const { return round_up(pixels() * pitch + kDepth, 2 * kTile); }

  int64_t at(int64_t y, int64_t x) const { return (centre(y * row()) + x) * pitch; }

  // A row of `channels` channels, which lie `channel` numbers apart, and the zero pixel behind it;
  // `first` of a pixel's numbers are left as they are.
  template <class S>
  void fill_row(const S* from, int64_t pixel, int64_t channel, int64_t channels, BFloat16* to,
                int64_t first = 0) const {
    const int64_t numbers = pitch - first;
    to += first;
    for (int64_t x = 0; x < w; ++x, from += pixel, to += pitch) {
      if (channel == 1) {
        for (int64_t c = 0; c < numbers; c += kSide) {
          store(to + c, load(from + c, first_lanes(channels - c)), first_lanes(numbers - c));
        }
      } else {
        for (int64_t c = 0; c < numbers; ++c) {
          to[c] = c < channels ? Narrow<BFloat16>::from(widen(from[c * channel])) : BFloat16{0};
        }
      }
    }
    std::fill_n(to, numbers, BFloat16{0});
  }
  // Zeros above the first row and from the last one's end on.
  void clear_frame(BFloat16* to) const {
    std::memset(to, 0, static_cast<size_t>((row() + 1) * pitch) * sizeof(BFloat16));
    const int64_t end = centre(positions()) * pitch;
    std::memset(to + end, 0, static_cast<size_t>(numbers() - end) * sizeof(BFloat16));
  }
};

// Where the 32 positions of a step lie in the picture; x is w where there is no pixel.
struct Spots {
  int32_t y[kStep], x[kStep];

  Spots(const Flat& flat, int64_t first) {
    int64_t row = first / flat.row(), column = first % flat.row();
    for (int64_t i = 0; i < kStep; ++i) {
      // Behind the picture's end nothing is one either.
      y[i] = static_cast<int32_t>(row), x[i] = static_cast<int32_t>(row < flat.h ? column : flat.w);
      if (++column == flat.row()) column = 0, ++row;
    }
  }

  // Whether 16 of them are pixels of one row.
  bool in_a_row(int64_t first, int64_t w) const { return x[first] + kSide <= w; }
  // Whether, the picture beginning `top` rows above and having h, none of those touches its border.
  bool inside(int64_t first, int64_t top, int64_t h, int64_t w) const {
    const int64_t row = top + y[first];
    return row > 0 && row < h - 1 && x[first] > 0 && x[first] + kSide < w;
  }
};

// A convolution's weights, for pictures of `inputs` channels. A row of three taps is summed over at
// once, since its pixels lie side by side.
struct PackedWeights {
  int64_t inputs, outputs;

  int64_t pitch() const { return round_up(inputs, kSide); }
  int64_t depth_tiles() const { return ceil_div(3 * pitch(), kDepth); }
  int64_t output_tiles() const { return ceil_div(outputs, kSide); }
  int64_t numbers() const { return output_tiles() * 3 * depth_tiles() * kTile; }

  // weight(o, c, u, v) is the weight from input c, at row u and column v of the taps, to output o.
  template <class Weight>
  void pack(BFloat16* to, Weight&& weight) const {
    std::memset(to, 0, static_cast<size_t>(numbers()) * sizeof(BFloat16));
    for (int64_t o = 0; o < outputs; ++o) {
      for (int64_t u = 0; u < 3; ++u) {
        BFloat16* const tiles =
            to + (o / kSide * 3 + u) * depth_tiles() * kTile + o % kSide * 2;
        for (int64_t v = 0; v < 3; ++v) {
          for (int64_t c = 0; c < inputs; ++c) {
            const int64_t k = v * pitch() + c;
            tiles[k / 2 * kDepth + k % 2] = Narrow<BFloat16>::from(weight(o, c, u, v));
          }
        }
      }
    }
  }
};

// Convolves the positions of steps [first, last). store(spots, half, position, channel, sums) is
// given the sums (16 x 16) of 16 positions, those of the spots from `half` on, for the outputs from
// `channel` on.
template <class Store>
void convolve(const Flat& flat, const BFloat16* in, const PackedWeights& shape,
              const BFloat16* weights, int64_t first, int64_t last, Store&& store) {
  alignas(64) float sums[4][kSide * kSide];
  constexpr int64_t kRow = 64;
  const int64_t depth = shape.depth_tiles(), outputs = shape.output_tiles();
  const int64_t pixel = flat.pitch * static_cast<int64_t>(sizeof(BFloat16));
  const int64_t other = 3 * depth * kTile;
  for (int64_t step = first; step < last; ++step) {
    const Spots spots(flat, step * kStep);
    const BFloat16* const taps = in + step * kStep * flat.pitch;
    for (int64_t o = 0; o < outputs; o += 2) {
      const bool both = o + 1 < outputs;
      const BFloat16* b = weights + o * other;
      _tile_zero(0);
      _tile_zero(1);
      _tile_zero(2);
      _tile_zero(3);
      for (int64_t u = 0; u < 3; ++u) {
        const BFloat16* a = taps + u * flat.row() * flat.pitch;
        for (int64_t k = 0; k < depth; ++k, a += kDepth, b += kTile) {
          _tile_loadd(4, a, pixel);
          _tile_loadd(5, a + kSide * flat.pitch, pixel);
          _tile_loadd(6, b, kRow);
          _tile_dpbf16ps(0, 4, 6);
          _tile_dpbf16ps(1, 5, 6);
          if (both) {
            _tile_loadd(7, b + other, kRow);
            _tile_dpbf16ps(2, 4, 7);
            _tile_dpbf16ps(3, 5, 7);
          }
        }
      }
      _tile_stored(0, sums[0], kRow);
      _tile_stored(1, sums[1], kRow);
      if (both) {
        _tile_stored(2, sums[2], kRow);
        _tile_stored(3, sums[3], kRow);
      }
      for (int64_t i = 0; i < (both ? 4 : 2); ++i) {
        const int64_t half = i % 2 * kSide;
        store(spots, half, step * kStep + half, (o + i / 2) * kSide, sums[i]);
      }
    }
  }
}

// Two rows of 16 numbers as pairs.
inline __m512i paired(const BFloat16* even, const BFloat16* odd) {
  const auto wide = [](const BFloat16* from) {
    return _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
  };
  return _mm512_or_si512(wide(even), _mm512_slli_epi32(wide(odd), 16));
}

// Rows and columns of 16 x 16 pairs change places.
inline void transpose(__m512i (&rows)[16]) {
  __m512i t[16];
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    rows[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    rows[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    rows[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    rows[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
  for (int i = 0; i < 4; ++i) {
    t[i] = _mm512_shuffle_i32x4(rows[i], rows[i + 4], 0x88);
    t[i + 4] = _mm512_shuffle_i32x4(rows[i], rows[i + 4], 0xdd);
    t[i + 8] = _mm512_shuffle_i32x4(rows[i + 8], rows[i + 12], 0x88);
    t[i + 12] = _mm512_shuffle_i32x4(rows[i + 8], rows[i + 12], 0xdd);
  }
  for (int i = 0; i < 4; ++i) {
    rows[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
    rows[i + 4] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0x88);
    rows[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
    rows[i + 12] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0xdd);
  }
}

// The centres of a flat picture's positions channel by channel, zeros where there is no pixel: the
// gradient by weights sums over positions, which lie side by side here.
struct Planes {
  int64_t channels, length;  // numbers of a plane: an odd number of cache lines, for their sets

  explicit Planes(const Flat& flat) : channels(flat.pitch), length((flat.steps() | 1) * kStep) {}
  int64_t numbers() const { return channels * length; }

  void fill(const Flat& flat, const BFloat16* from, BFloat16* to) const {
    for (int64_t step = 0; step < flat.steps(); ++step) {
      for (int64_t c = 0; c < channels; c += kSide) {
        __m512i rows[16];
        const BFloat16* pixel = from + flat.centre(step * kStep) * flat.pitch + c;
        for (__m512i& row : rows) row = paired(pixel, pixel + flat.pitch), pixel += 2 * flat.pitch;
        transpose(rows);
        BFloat16* plane = to + c * length + step * kStep;
        for (const __m512i& row : rows) _mm512_store_si512(plane, row), plane += length;
      }
    }
  }
};

// A flat picture's pixels in pairs, twice: those that begin with an even one, and with an odd one.
struct Pairs {
  int64_t pitch, numbers_of_each;

  explicit Pairs(const Flat& flat)
      : pitch(flat.pitch), numbers_of_each(round_up(flat.pixels(), 2) * flat.pitch) {}
  int64_t numbers() const { return 2 * numbers_of_each; }
  // The pairs from a pixel on.
  const BFloat16* at(const BFloat16* from, int64_t pixel) const {
    return from + pixel % 2 * numbers_of_each + (pixel - pixel % 2) * pitch;
  }

  void fill(const Flat& flat, const BFloat16* from, BFloat16* to) const {
    for (int64_t first = 0; first < 2; ++first, to += numbers_of_each) {
      for (int64_t p = first; p + 1 < flat.pixels(); p += 2) {
        const BFloat16* const pixel = from + p * pitch;
        BFloat16* const pair = to + (p - first) * pitch;
        for (int64_t c = 0; c < pitch; c += kSide) {
          _mm512_store_si512(pair + 2 * c, paired(pixel + c, pixel + pitch + c));
        }
      }
    }
  }
};

// Adds to sums (9, outputs, inputs), both rounded up to tiles, the products of an output's gradient
// and an input at each tap, over all positions of a picture.
inline void add_weight_gradient(const Flat& flat, const Planes& grad_shape, const BFloat16* grad,
                                const Pairs& input_shape, const BFloat16* input, float* sums) {
  const int64_t outputs = grad_shape.channels, inputs = input_shape.pitch;
  const int64_t plane = grad_shape.length * static_cast<int64_t>(sizeof(BFloat16));
  const int64_t pair = 2 * inputs * static_cast<int64_t>(sizeof(BFloat16));
  const int64_t row = inputs * static_cast<int64_t>(sizeof(float));
  for (int64_t o = 0; o < outputs; o += kStep) {
    const bool two_o = o + kSide < outputs;
    for (int64_t c = 0; c < inputs; c += kStep) {
      const bool two_c = c + kSide < inputs;
      for (int64_t tap = 0; tap < 9; ++tap) {
        const BFloat16* a = grad + o * grad_shape.length;
        const BFloat16* b = input_shape.at(input, tap / 3 * flat.row() + tap % 3) + 2 * c;
        float* const to = sums + (tap * outputs + o) * inputs + c;
        float* const below = to + kSide * inputs;
        _tile_loadd(0, to, row);
        if (two_c) _tile_loadd(1, to + kSide, row);
        if (two_o) _tile_loadd(2, below, row);
        if (two_o && two_c) _tile_loadd(3, below + kSide, row);
        for (int64_t step = 0; step < flat.steps(); ++step, a += kStep, b += kStep * inputs) {
          _tile_loadd(4, a, plane);
          _tile_loadd(6, b, pair);
          _tile_dpbf16ps(0, 4, 6);
          if (two_c) {
            _tile_loadd(7, b + kDepth, pair);
            _tile_dpbf16ps(1, 4, 7);
          }
          if (two_o) {
            _tile_loadd(5, a + kSide * grad_shape.length, plane);
            _tile_dpbf16ps(2, 5, 6);
            if (two_c) _tile_dpbf16ps(3, 5, 7);
          }
        }
        _tile_stored(0, to, row);
        if (two_c) _tile_stored(1, to + kSide, row);
        if (two_o) _tile_stored(2, below, row);
        if (two_o && two_c) _tile_stored(3, below + kSide, row);
      }
    }
  }
}

}  // namespace
}  // namespace amx
}  // namespace pysr
