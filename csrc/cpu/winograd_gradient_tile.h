// The gradient of a convolution's weights by Winograd's method: the inner loops, compiled once per
// instruction set from winograd_gradient_tile.cpp; only plain structs cross over, as rows_tile.h
// explains.
#pragma once

#include <cstdint>

#include "cpu/winograd_tile.h"

namespace pysr {

// A block of tiles is transformed, then multiplied and summed position by position, of which there
// are kWinogradPatch squared; once all blocks are, the sums are transformed back.
struct WinogradGradientTile {
  int lanes;  // of a vector
  int tiles;  // of a block
  int64_t (*block_floats)(int channels, int outputs);
  // What one position's sums take: outputs times padded channels.
  int64_t (*sums_floats)(int channels, int outputs);
  // The patches of `in` and the tiles of `out`, which holds the result's gradient, to `block`.
  // `scratch` of the job is room for a patch: kWinogradPatch^2 times padded channels.
  void (*transform)(const TileConvolution& job, int side, int outputs, float* block);
  // Adds what `count` tiles give to a position's sums.
  void (*accumulate)(const float* block, int count, int channels, int outputs, int position,
                     float* sums);
  // The gradient (channels, side, side) for one output channel; the positions' sums lie one after
  // the other.
  void (*finish)(const float* sums, int side, int channels, int outputs, int output, float* to);
};

namespace baseline {
WinogradGradientTile winograd_gradient_tile();
}
namespace avx2 {
WinogradGradientTile winograd_gradient_tile();
}
namespace avx512 {
WinogradGradientTile winograd_gradient_tile();
}

}  // namespace pysr
