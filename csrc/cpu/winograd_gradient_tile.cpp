// See winograd_gradient_tile.h. In the transformed domain a tile's share of the gradient is one
// product per position, of a patch of the input and a tile of the result's gradient; sums over the
// tiles are 36 matrix products, outputs by tiles by channels.
#include "cpu/winograd_gradient_tile.h"

#include "cpu/vector.h"
#include "cpu/winograd_transforms.h"

namespace pysr {
namespace PYSR_ISA {
namespace {

// Patches lie as winograd_transforms.h says. Tiles lie as [position][tile][output]: the product
// takes several outputs from neighbouring places.
int padded(int outputs) { return vectors_of(outputs) * kWide; }
ptrdiff_t tile_step(int outputs) { return ptrdiff_t{kTiles} * padded(outputs) + 16; }
float* tiles_of(float* block, int channels) {
  return block + ptrdiff_t{vectors_of(channels)} * kPositions * kStep;
}

int64_t block_floats(int channels, int outputs) {
  return kPositions * (vectors_of(channels) * kStep + tile_step(outputs));
}

int64_t sums_floats(int channels, int outputs) { return int64_t{outputs} * padded(channels); }

// The transpose of transform_product_line.
template <int Side>
PYSR_INLINE void transform_tile_line(const Floats (&y)[Side], Floats (&m)[kPatch]) {
  const Floats odd = kHalfRoot * y[1], double_odd = kRoot * y[1];
  if constexpr (Side == 2) {
    m[1] = y[0] + odd, m[2] = y[0] - odd;
    m[3] = y[0] + double_odd, m[4] = y[0] - double_odd;
  } else {
    const Floats even1 = y[0] + 0.5f * y[2], odd1 = odd + (0.5f * kHalfRoot) * y[3];
    const Floats even2 = y[0] + 2 * y[2], odd2 = double_odd + (2 * kRoot) * y[3];
    m[1] = even1 + odd1, m[2] = even1 - odd1;
    m[3] = even2 + odd2, m[4] = even2 - odd2;
  }
  m[0] = y[0], m[5] = y[Side - 1];
}

// What lies beyond the picture has no gradient.
template <int Side>
void transform_tile(const TileConvolution& job, const Tile<Side>& tile, int vectors,
                    ptrdiff_t step, float* to) {
  for (int vector = 0; vector < vectors; ++vector, to += kWide) {
    const float* const from =
        job.out.data + tile.y * job.out.row + tile.x * job.out.pixel + vector * kWide;
    Floats half[kPatch][Side];
    PYSR_UNROLL
    for (int j = 0; j < Side; ++j) {
      Floats y[Side] = {}, m[kPatch];
      PYSR_UNROLL
      for (int i = 0; i < Side; ++i) {
        if (i < tile.rows && j < tile.columns) {
          load<float>(y[i], from + i * job.out.row + j * job.out.pixel);
        }
      }
      transform_tile_line(y, m);
      PYSR_UNROLL
      for (int i = 0; i < kPatch; ++i) half[i][j] = m[i];
    }
    PYSR_UNROLL
    for (int i = 0; i < kPatch; ++i) {
      Floats m[kPatch];
      transform_tile_line(half[i], m);
      PYSR_UNROLL
      for (int j = 0; j < kPatch; ++j) store<float>(to + (i * kPatch + j) * step, m[j]);
    }
  }
}

template <int Side>
void transform_block(const TileConvolution& job, int outputs, float* block) {
  transform_patches<Side>(job, block, job.scratch);
  float* const tiles = tiles_of(block, job.channels);
  for (int t = 0; t < job.count; ++t) {
    transform_tile(job, Tile<Side>(job, job.first + t), vectors_of(outputs), tile_step(outputs),
                   tiles + ptrdiff_t{t} * padded(outputs));
  }
}

void transform(const TileConvolution& job, int side, int outputs, float* block) {
  if (side == 3) {
    transform_block<winograd_tile_side(3)>(job, outputs, block);
  } else {
    transform_block<winograd_tile_side(5)>(job, outputs, block);
  }
}

// `outputs` rows of sums by N vectors of channels, held in registers over all tiles.
template <int N, int Outputs = 1>
void add_products(int outputs, const float* patches, const float* tiles, ptrdiff_t tile, int count,
                  float* sums, ptrdiff_t row) {
  if (outputs != Outputs) {
    if constexpr (Outputs < kRound<N>) {
      add_products<N, Outputs + 1>(outputs, patches, tiles, tile, count, sums, row);
    }
    return;
  }
  Floats sum[Outputs][N];
  PYSR_UNROLL
  for (int o = 0; o < Outputs; ++o) {
    PYSR_UNROLL
    for (int n = 0; n < N; ++n) load<float>(sum[o][n], sums + o * row + n * kWide);
  }
  for (int t = 0; t < count; ++t, patches += kWide, tiles += tile) {
    Floats patch[N];
    PYSR_UNROLL
    for (int n = 0; n < N; ++n) load<float>(patch[n], patches + n * kPositions * kStep);
    PYSR_UNROLL
    for (int o = 0; o < Outputs; ++o) {
      const float factor = tiles[o];
      PYSR_UNROLL
      for (int n = 0; n < N; ++n) sum[o][n] += patch[n] * factor;
    }
  }
  PYSR_UNROLL
  for (int o = 0; o < Outputs; ++o) {
    PYSR_UNROLL
    for (int n = 0; n < N; ++n) store<float>(sums + o * row + n * kWide, sum[o][n]);
  }
}

template <int N>
void add_panel(const float* patches, const float* tiles, int count, int outputs, float* sums,
               ptrdiff_t row) {
  int left = (outputs + kRound<N> - 1) / kRound<N>;
  for (int first = 0; first < outputs; --left) {
    const int rows = (outputs - first + left - 1) / left;
    add_products<N>(rows, patches, tiles + first, padded(outputs), count, sums + first * row, row);
    first += rows;
  }
}

void accumulate(const float* block, int count, int channels, int outputs, int position,
                float* sums) {
  const ptrdiff_t row = padded(channels);
  const float* const tiles = tiles_of(const_cast<float*>(block), channels) +
                             position * tile_step(outputs);
  for_panels(vectors_of(channels), [&](int first, int width) {
    const float* const patches = block + (ptrdiff_t{first} * kPositions + position) * kStep;
    float* const to = sums + first * kWide;
    switch (width) {
      case 1:
        add_panel<1>(patches, tiles, count, outputs, to, row);
        break;
      case 2:
        add_panel<2>(patches, tiles, count, outputs, to, row);
        break;
      case 3:
        add_panel<3>(patches, tiles, count, outputs, to, row);
        break;
#if PYSR_REGISTERS == 32
      case 4:
        add_panel<4>(patches, tiles, count, outputs, to, row);
        break;
#endif
    }
  });
}

void finish(const float* sums, int side, int channels, int outputs, int output, float* to) {
  const WeightTransform g(side);
  const ptrdiff_t position = sums_floats(channels, outputs);
  for (int first = 0; first < channels; first += kWide) {
    const float* const from = sums + ptrdiff_t{output} * padded(channels) + first;
    Floats half[5][kPatch] = {};
    for (int i = 0; i < kPatch; ++i) {
      for (int j = 0; j < kPatch; ++j) {
        Floats sum;
        load<float>(sum, from + (i * kPatch + j) * position);
        for (int u = 0; u < side; ++u) half[u][j] += static_cast<float>(g.at[i][u]) * sum;
      }
    }
    const int count = channels - first < kWide ? channels - first : kWide;
    for (int u = 0; u < side; ++u) {
      for (int v = 0; v < side; ++v) {
        Floats tap = {};
        for (int j = 0; j < kPatch; ++j) tap += static_cast<float>(g.at[j][v]) * half[u][j];
        float lanes[kWide];
        store<float>(lanes, tap);
        float* const place = to + ptrdiff_t{first} * side * side + u * side + v;
        for (int lane = 0; lane < count; ++lane) place[lane * side * side] = lanes[lane];
      }
    }
  }
}

}  // namespace

WinogradGradientTile winograd_gradient_tile() {
  return {kWide, kTiles, block_floats, sums_floats, transform, accumulate, finish};
}

}  // namespace PYSR_ISA
}  // namespace pysr
