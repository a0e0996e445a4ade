// The inner loops of conditional_residual_block, compiled once per instruction set from
// conditional_residual_block_tile.cpp; only plain structs cross over, as rows_tile.h explains.
#pragma once

#include <cstddef>
#include <cstdint>

namespace pysr {

// A picture of floats, its channels side by side and in whole vectors; steps count floats.
struct Picture {
  float* data;
  ptrdiff_t row, pixel;
};

// A zero-padded 3x3 convolution of some of a picture's 4x4 tiles. Tiles are counted row by row, and
// those at the right and at the bottom may reach beyond the picture.
struct TileConvolution {
  Picture in, out;
  int height, width;
  int channels;          // of `in`
  int vectors;           // of channels of `out`
  const float* weights;  // as pack_weights wrote them
  int first, count;      // the tiles; count is at most `tiles`
  float* scratch;        // scratch_floats(channels) floats of the calling thread
};

struct ConditionalResidualBlockTile {
  int lanes;  // of a vector
  int tiles;  // that are worked on at once
  int64_t (*scratch_floats)(int channels);
  // The weights (outputs, inputs, 3, 3) of input channel `channel` to their place among `packed`,
  // which holds 36 * channels * vectors * lanes floats.
  void (*pack_weights)(const float* weights, int outputs, int inputs, int channel, int channels,
                       int vectors, float* packed);
  // out = LeakyReLU(convolution + bias). bias is (3, 3, channels of out): first, inner and last row
  // by first, inner and last column; of a picture of less than three rows, say, the rows there are.
  // What is stored is added to sums, one a channel.
  void (*activate)(const TileConvolution& job, const float* bias, float* sums);
  // out = f + gate * (convolution + bias); `out` may be f.
  void (*add_residual)(const TileConvolution& job, const float* bias, const float* gate,
                       const Picture& f);
};

namespace baseline {
ConditionalResidualBlockTile conditional_residual_block_tile();
}
namespace avx2 {
ConditionalResidualBlockTile conditional_residual_block_tile();
}
namespace avx512 {
ConditionalResidualBlockTile conditional_residual_block_tile();
}

}  // namespace pysr
