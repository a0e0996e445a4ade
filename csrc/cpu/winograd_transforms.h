// Winograd's F(4x4, 3x3) and F(2x2, 5x5), for winograd_tile.cpp and winograd_gradient_tile.cpp:
// sizes, transforms of weights, patches and products, and where the numbers lie in between.
//
// A 4x4 tile of outputs of a 3x3 convolution costs 36 products per pair of channels instead of 144:
// a 6x6 patch of the input, the weights and the products are each transformed by small fixed
// matrices. The same patch, transformed alike, gives a 2x2 tile of a 5x5 convolution for 36
// products instead of 100.
//
// The transforms evaluate polynomials at 0, +-sqrt(1/2), +-sqrt(2) and infinity. The customary
// whole numbers 0, +-1, +-2 save a few multiplications, but for 74 channels of random numbers their
// largest error was more than four times as large.
//
// Vectors run along channels, so that pictures are read and written as they lie. Between the
// transforms, numbers lie as [vector of channels][position][tile][lane]: the matrix product
// broadcasts them from places at fixed distances, and the 36 positions that a transform touches at
// once lie on few pages.
#pragma once

#include "cpu/vector.h"
#include "cpu/winograd_tile.h"

namespace pysr {
namespace PYSR_ISA {
namespace {

using Floats = Vector<float>;
constexpr int kWide = kLanes<float>;

constexpr int kPatch = kWinogradPatch;
constexpr int kPositions = kPatch * kPatch;

// The matrix product holds its sums in registers: a panel of N vectors of output channels, at most
// kPanel, by as many tiles as fit.
constexpr int kPanel = PYSR_REGISTERS == 32 ? 4 : 3;
template <int N>
constexpr int kRound = (PYSR_REGISTERS == 32 ? 24 : 12) / (N == 1 ? 2 : N);

// Tiles worked on at once: whole rounds for every N. For DAN's 74 channels, patches, products and
// weights then take about 1.25 MiB, the size of a second-level cache.
constexpr int kTiles = 24;

// Floats from one position to the next, with a cache line of padding: 36 positions an even number
// of lines apart would fall into few sets of the cache.
constexpr ptrdiff_t kStep = kTiles * kWide + 16;

int vectors_of(int channels) { return (channels + kWide - 1) / kWide; }

constexpr float kHalfRoot = 0.70710678118654752f, kRoot = 1.4142135623730950f;

PYSR_INLINE void transform_patch_line(const Floats (&d)[kPatch], Floats (&v)[kPatch]) {
  const Floats even1 = d[4] - 2 * d[2], odd1 = kHalfRoot * (d[3] - 2 * d[1]);
  const Floats even2 = d[4] - 0.5f * d[2], odd2 = kRoot * (d[3] - 0.5f * d[1]);
  v[0] = d[0] + (d[4] - 2.5f * d[2]);
  v[1] = even1 + odd1;
  v[2] = even1 - odd1;
  v[3] = even2 + odd2;
  v[4] = even2 - odd2;
  v[5] = d[1] + (d[5] - 2.5f * d[3]);
}

template <int Side>
PYSR_INLINE void transform_product_line(const Floats (&m)[kPatch], Floats (&y)[Side]) {
  const Floats sum1 = m[1] + m[2], difference1 = kHalfRoot * (m[1] - m[2]);
  const Floats sum2 = m[3] + m[4], difference2 = kRoot * (m[3] - m[4]);
  y[0] = m[0] + sum1 + sum2;
  if constexpr (Side == 2) {
    y[1] = m[5] + (difference1 + difference2);
  } else {
    y[1] = difference1 + difference2;
    y[2] = 0.5f * sum1 + 2 * sum2;
    y[3] = m[5] + (0.5f * difference1 + 2 * difference2);
  }
}

// Panels of about equal width, of which none is wider than kPanel.
template <class F>
void for_panels(int vectors, F&& panel) {
  int left = (vectors + kPanel - 1) / kPanel;
  for (int first = 0; first < vectors; --left) {
    const int width = (vectors - first + left - 1) / left;
    panel(first, width);
    first += width;
  }
}

// The weights' transform, (kPatch, side): powers of each point, over the product of its distances
// from the other points.
struct WeightTransform {
  double at[kPatch][5] = {};
  explicit WeightTransform(int side) {
    const double root = 1.4142135623730950488;
    const double points[kPatch - 1] = {0, root / 2, -root / 2, root, -root};
    const double scales[kPatch - 1] = {1, -2 / 3.0, -2 / 3.0, 1 / 6.0, 1 / 6.0};
    for (int i = 0; i < kPatch - 1; ++i) {
      double power = scales[i];
      for (int tap = 0; tap < side; ++tap, power *= points[i]) at[i][tap] = power;
    }
    at[kPatch - 1][side - 1] = 1;
  }
};

// Where a tile lies: its first pixel, and how much of it is inside the picture.
template <int Side>
struct Tile {
  int y, x, rows, columns;
  Tile(const TileConvolution& job, int index) {
    const int across = (job.width + Side - 1) / Side;
    y = index / across * Side, x = index % across * Side;
    rows = job.height - y < Side ? job.height - y : Side;
    columns = job.width - x < Side ? job.width - x : Side;
  }
  bool whole() const { return rows == Side && columns == Side; }
};

void transform_patch(const float* in, ptrdiff_t row, ptrdiff_t pixel, int vectors, float* to) {
  for (int vector = 0; vector < vectors; ++vector, to += kPositions * kStep) {
    Floats half[kPatch][kPatch];
    PYSR_UNROLL
    for (int j = 0; j < kPatch; ++j) {
      Floats d[kPatch], v[kPatch];
      PYSR_UNROLL
      for (int i = 0; i < kPatch; ++i) {
        load<float>(d[i], in + i * row + j * pixel + vector * kWide);
      }
      transform_patch_line(d, v);
      PYSR_UNROLL
      for (int i = 0; i < kPatch; ++i) half[i][j] = v[i];
    }
    PYSR_UNROLL
    for (int i = 0; i < kPatch; ++i) {
      Floats v[kPatch];
      transform_patch_line(half[i], v);
      PYSR_UNROLL
      for (int j = 0; j < kPatch; ++j) {
        store<float>(to + (i * kPatch + j) * kStep, v[j]);
      }
    }
  }
}

// The patch with its first pixel at (top, left). One that reaches beyond the picture is transformed
// from a copy with the zeros around it.
void transform_patch_at(const TileConvolution& job, const Picture& in, int vectors, int top,
                        int left, float* patch, float* to) {
  if (top >= 0 && left >= 0 && top + kPatch <= job.height && left + kPatch <= job.width) {
    transform_patch(in.data + top * in.row + left * in.pixel, in.row, in.pixel, vectors, to);
    return;
  }
  const ptrdiff_t pixel = ptrdiff_t{vectors} * kWide;
  for (int i = 0; i < kPatch; ++i) {
    for (int j = 0; j < kPatch; ++j) {
      const int y = top + i, x = left + j;
      const bool inside = y >= 0 && y < job.height && x >= 0 && x < job.width;
      const float* const from = in.data + y * in.row + x * in.pixel;
      float* const place = patch + (i * kPatch + j) * pixel;
      for (ptrdiff_t c = 0; c < pixel; ++c) place[c] = inside ? from[c] : 0;
    }
  }
  transform_patch(patch, kPatch * pixel, pixel, vectors, to);
}

// The matrix product works on tiles in whole rounds, and finds zeros in place of those beyond the
// last.
template <int Side>
void transform_patches(const TileConvolution& job, float* transformed, float* patch) {
  constexpr int margin = (kPatch - Side) / 2;
  const int vectors = vectors_of(job.channels), more = vectors_of(job.more_channels);
  for (int t = 0; t < job.count; ++t) {
    const Tile<Side> tile(job, job.first + t);
    const int top = tile.y - margin, left = tile.x - margin;
    float* const to = transformed + t * kWide;
    transform_patch_at(job, job.in, vectors, top, left, patch, to);
    if (more > 0) {
      transform_patch_at(job, job.more, more, top, left, patch,
                         to + vectors * kPositions * kStep);
    }
  }
  for (int i = 0; i < (vectors + more) * kPositions; ++i) {
    for (int t = job.count * kWide; t < kTiles * kWide; ++t) transformed[i * kStep + t] = 0;
  }
}

// Calls finish(i, j, value) for the pixels of the tile; the rest of a tile that is not Whole is
// left out.
template <bool Whole, int Side, class F>
PYSR_INLINE void transform_products(const float* products, const Tile<Side>& tile, F&& finish) {
  Floats half[Side][kPatch];
  PYSR_UNROLL
  for (int j = 0; j < kPatch; ++j) {
    Floats m[kPatch], y[Side];
    PYSR_UNROLL
    for (int i = 0; i < kPatch; ++i) load<float>(m[i], products + (i * kPatch + j) * kStep);
    transform_product_line(m, y);
    PYSR_UNROLL
    for (int i = 0; i < Side; ++i) half[i][j] = y[i];
  }
  PYSR_UNROLL
  for (int i = 0; i < Side; ++i) {
    Floats y[Side];
    transform_product_line(half[i], y);
    if (!Whole && i >= tile.rows) continue;
    PYSR_UNROLL
    for (int j = 0; j < Side; ++j) {
      if (Whole || j < tile.columns) finish(i, j, y[j]);
    }
  }
}

}  // namespace
}  // namespace PYSR_ISA
}  // namespace pysr
