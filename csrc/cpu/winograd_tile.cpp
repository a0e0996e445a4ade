// See winograd_tile.h. Between the transforms of winograd_transforms.h stand 36 matrix products,
// tiles by input channels by output channels; what becomes of a convolution's result is up to an
// epilogue, which each tile's products pass through while they are stored.
#include "cpu/winograd_tile.h"

#include "cpu/vector.h"
#include "cpu/winograd_transforms.h"

namespace pysr {
namespace PYSR_ISA {
namespace {

int64_t scratch_floats(int channels) {
  const int vectors = vectors_of(channels);
  return kPositions * ((vectors + kPanel) * kStep + vectors * kWide);
}

typedef float HalfFloats __attribute__((vector_size(PYSR_VECTOR_BYTES / 2)));

// A vector of output channels, rounded once, from double. from[lane] is a channel's Side * Side
// taps, null for padding; positions lie `step` apart.
template <int Side>
void pack_vector(const WeightTransform& g, const float* const* from, float* to, ptrdiff_t step) {
  using Doubles = Vector<double>;
  constexpr int kLanesHere = kLanes<double>;
  for (int first = 0; first < kWide; first += kLanesHere) {
    double lanes[Side * Side][kLanesHere];
    for (int lane = 0; lane < kLanesHere; ++lane) {
      const float* const taps = from[first + lane];
      for (int tap = 0; tap < Side * Side; ++tap) lanes[tap][lane] = taps ? taps[tap] : 0.0f;
    }
    Doubles half[kPatch][Side] = {};
    for (int u = 0; u < Side; ++u) {
      for (int v = 0; v < Side; ++v) {
        Doubles tap;
        load<double>(tap, lanes[u * Side + v]);
        PYSR_UNROLL
        for (int i = 0; i < kPatch; ++i) half[i][v] += g.at[i][u] * tap;
      }
    }
    for (int i = 0; i < kPatch; ++i) {
      PYSR_UNROLL
      for (int j = 0; j < kPatch; ++j) {
        Doubles sum = {};
        PYSR_UNROLL
        for (int v = 0; v < Side; ++v) sum += half[i][v] * g.at[j][v];
        const HalfFloats rounded = __builtin_convertvector(sum, HalfFloats);
        __builtin_memcpy(to + (i * kPatch + j) * step + first, &rounded, sizeof rounded);
      }
    }
  }
}

void pack_weights(const float* weights, int side, const int* order, int outputs, int inputs,
                  int channel, int channels, int vectors, float* packed) {
  const WeightTransform g(side);
  for_panels(vectors, [&](int first, int width) {
    const ptrdiff_t step = ptrdiff_t{width} * kWide;
    float* const panel = packed + ptrdiff_t{first} * kWide * kPositions * channels + channel * step;
    for (int vector = 0; vector < width; ++vector) {
      const float* from[kWide] = {};
      for (int lane = 0; lane < kWide; ++lane) {
        const int output = (first + vector) * kWide + lane;
        if (output >= outputs) break;
        from[lane] = weights + (ptrdiff_t{order[output]} * inputs + channel) * side * side;
      }
      if (side == 3) {
        pack_vector<3>(g, from, panel + vector * kWide, channels * step);
      } else {
        pack_vector<5>(g, from, panel + vector * kWide, channels * step);
      }
    }
  });
}

// One position: a round of tiles by N vectors of output channels.
template <int N>
void multiply(const float* in, const float* weights, int channels, float* out) {
  constexpr int rows = kRound<N>;
  Floats sum[rows][N] = {};
  for (; channels > 0; channels -= kWide, in += kPositions * kStep) {
    const int count = channels < kWide ? channels : kWide;
    for (int c = 0; c < count; ++c, weights += N * kWide) {
      Floats weight[N];
      PYSR_UNROLL
      for (int n = 0; n < N; ++n) load<float>(weight[n], weights + n * kWide);
      PYSR_UNROLL
      for (int r = 0; r < rows; ++r) {
        const float factor = in[r * kWide + c];
        PYSR_UNROLL
        for (int n = 0; n < N; ++n) sum[r][n] += weight[n] * factor;
      }
    }
  }
  PYSR_UNROLL
  for (int r = 0; r < rows; ++r) {
    PYSR_UNROLL
    for (int n = 0; n < N; ++n) store<float>(out + n * kPositions * kStep + r * kWide, sum[r][n]);
  }
}

template <int N>
void multiply_panel(const TileConvolution& job, int first, const float* transformed,
                    float* products) {
  const int channels = job.channels + job.more_channels;
  const float* const weights = job.weights + ptrdiff_t{first} * kWide * kPositions * channels;
  for (int position = 0; position < kPositions; ++position) {
    for (int t = 0; t < job.count; t += kRound<N>) {
      multiply<N>(transformed + position * kStep + t * kWide,
                  weights + ptrdiff_t{position} * channels * N * kWide, channels,
                  products + position * kStep + t * kWide);
    }
  }
}

// The first channel of a vector at a tile's first pixel.
template <int Side>
PYSR_INLINE float* first_of(const Picture& picture, const Tile<Side>& tile, int vector) {
  return picture.data + tile.y * picture.row + tile.x * picture.pixel + vector * kWide;
}

// LeakyReLU, with the bias of each pixel's border case.
struct Activation {
  const float* bias;
  float* sums;
  int last_row, last_column;  // of the picture
  ptrdiff_t channels;

  template <bool Whole, int Side>
  void apply(const TileConvolution& job, const Tile<Side>& tile, int vector,
             const float* products) const {
    const float* cases[Side];
    ptrdiff_t columns[Side];
    for (int i = 0; i < Side; ++i) {
      cases[i] = bias + border_case(tile.y + i, last_row) * 3 * channels + vector * kWide;
      columns[i] = border_case(tile.x + i, last_column) * channels;
    }
    float* const out = first_of(job.out, tile, vector);
    Floats sum;
    load<float>(sum, sums + vector * kWide);
    transform_products<Whole>(products, tile, [&](int i, int j, const Floats& value) {
      Floats y;
      load<float>(y, cases[i] + columns[j]);
      y += value;
      y = y > 0 ? y : 0.2f * y;
      sum += y;
      store<float>(out + i * job.out.row + j * job.out.pixel, y);
    });
    store<float>(sums + vector * kWide, sum);
  }

 private:
  static int border_case(int at, int last) {
    if (at == 0) return 0;
    return at < last || last < 2 ? 1 : 2;
  }
};

struct Residual {
  const float* bias;
  const float* gate;
  Picture f;

  template <bool Whole, int Side>
  void apply(const TileConvolution& job, const Tile<Side>& tile, int vector,
             const float* products) const {
    Floats shift, scale;
    load<float>(shift, bias + vector * kWide);
    load<float>(scale, gate + vector * kWide);
    const float* const from = first_of(f, tile, vector);
    float* const out = first_of(job.out, tile, vector);
    transform_products<Whole>(products, tile, [&](int i, int j, const Floats& value) {
      Floats y;
      load<float>(y, from + i * f.row + j * f.pixel);
      y += scale * (value + shift);
      store<float>(out + i * job.out.row + j * job.out.pixel, y);
    });
  }
};

struct Scattering {
  const float* bias;
  const ptrdiff_t* places;
  int outputs;
  const char* whole;

  template <bool Whole, int Side>
  void apply(const TileConvolution& job, const Tile<Side>& tile, int vector,
             const float* products) const {
    Floats shift;
    load<float>(shift, bias + vector * kWide);
    float* const out = first_of(job.out, tile, 0);
    const ptrdiff_t* const place = places + vector * kWide;
    const int left = outputs - vector * kWide, count = left < kWide ? left : kWide;
    const bool consecutive = whole[vector];
    transform_products<Whole>(products, tile, [&](int i, int j, const Floats& value) {
      float* const pixel = out + i * job.out.row + j * job.out.pixel;
      const Floats y = value + shift;
      if (consecutive) {
        store<float>(pixel + place[0], y);
        return;
      }
      float lanes[kWide];
      store<float>(lanes, y);
      for (int lane = 0; lane < count; ++lane) pixel[place[lane]] = lanes[lane];
    });
  }
};

template <int Side, class Epilogue>
void convolve(const TileConvolution& job, const Epilogue& epilogue) {
  const int vectors = vectors_of(job.channels) + vectors_of(job.more_channels);
  float* const transformed = job.scratch;
  float* const products = transformed + vectors * kPositions * kStep;
  float* const patch = products + kPanel * kPositions * kStep;
  transform_patches<Side>(job, transformed, patch);
  for_panels(job.vectors, [&](int first, int width) {
    switch (width) {
      case 1:
        multiply_panel<1>(job, first, transformed, products);
        break;
      case 2:
        multiply_panel<2>(job, first, transformed, products);
        break;
      case 3:
        multiply_panel<3>(job, first, transformed, products);
        break;
#if PYSR_REGISTERS == 32
      case 4:
        multiply_panel<4>(job, first, transformed, products);
        break;
#endif
    }
    for (int t = 0; t < job.count; ++t) {
      const Tile<Side> tile(job, job.first + t);
      for (int n = 0; n < width; ++n) {
        const float* const from = products + n * kPositions * kStep + t * kWide;
        if (tile.whole()) {
          epilogue.template apply<true>(job, tile, first + n, from);
        } else {
          epilogue.template apply<false>(job, tile, first + n, from);
        }
      }
    }
  });
}

void activate(const TileConvolution& job, const float* bias, float* sums) {
  convolve<winograd_tile_side(3)>(
      job, Activation{bias, sums, job.height - 1, job.width - 1, job.vectors * kWide});
}

void add_residual(const TileConvolution& job, const float* bias, const float* gate,
                  const Picture& f) {
  convolve<winograd_tile_side(3)>(job, Residual{bias, gate, f});
}

void scatter(const TileConvolution& job, int side, const float* bias, const ptrdiff_t* places,
             int outputs, const char* whole) {
  const Scattering epilogue{bias, places, outputs, whole};
  if (side == 3) {
    convolve<winograd_tile_side(3)>(job, epilogue);
  } else {
    convolve<winograd_tile_side(5)>(job, epilogue);
  }
}

}  // namespace

WinogradTile winograd_tile() {
  return {kWide, kTiles, scratch_floats, pack_weights, activate, add_residual, scatter};
}

}  // namespace PYSR_ISA
}  // namespace pysr
