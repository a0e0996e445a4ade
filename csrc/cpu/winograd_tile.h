// Convolutions by Winograd's method: the inner loops, compiled once per instruction set from
// winograd_tile.cpp; only plain structs cross over, as rows_tile.h explains.
#pragma once

#include <cstddef>
#include <cstdint>

namespace pysr {

constexpr int kWinogradPatch = 6;  // side of what a tile sees
constexpr int winograd_tile_side(int kernel_side) { return kWinogradPatch - kernel_side + 1; }

// A picture of floats, its channels side by side and in whole vectors; steps count floats.
struct Picture {
  float* data;
  ptrdiff_t row, pixel;
};

// A zero-padded convolution of some of a picture's tiles. A kernel of side 3 has tiles of 4x4
// pixels, one of side 5 has tiles of 2x2. They are counted row by row, and those at the right and
// at the bottom may reach beyond the picture.
struct TileConvolution {
  Picture in, out;
  int height, width;
  int channels;          // of `in`
  Picture more;          // further input channels, where there are any; `in` then fills its vectors
  int more_channels;
  int vectors;           // of output channels
  const float* weights;  // as pack_weights wrote them
  int first, count;      // the tiles; count is at most `tiles`
  float* scratch;        // scratch_floats(channels + more_channels) floats of the calling thread
};

struct WinogradTile {
  int lanes;  // of a vector
  int tiles;  // that are worked on at once
  int64_t (*scratch_floats)(int channels);
  // The weights (outputs, inputs, side, side) of input channel `channel` to their place among
  // `packed`, which holds 36 * channels * vectors * lanes floats. Output channel i is taken from
  // weights[order[i]].
  void (*pack_weights)(const float* weights, int side, const int* order, int outputs, int inputs,
                       int channel, int channels, int vectors, float* packed);
  // out = LeakyReLU(convolution + bias), side 3. bias is (3, 3, channels of out): first, inner and
  // last row by first, inner and last column; of a picture of less than three rows, say, the rows
  // there are. What is stored is added to sums, one a channel.
  void (*activate)(const TileConvolution& job, const float* bias, float* sums);
  // out = f + gate * (convolution + bias), side 3; `out` may be f.
  void (*add_residual)(const TileConvolution& job, const float* bias, const float* gate,
                       const Picture& f);
  // Output channel i of convolution + bias goes to places[i], counted from the pixel's own; steps
  // of `out` lead from the places of one pixel to those of the next. Where whole[vector] is true,
  // all lanes of that vector have consecutive places.
  void (*scatter)(const TileConvolution& job, int side, const float* bias, const ptrdiff_t* places,
                  int outputs, const char* whole);
};

namespace baseline {
WinogradTile winograd_tile();
}
namespace avx2 {
WinogradTile winograd_tile();
}
namespace avx512 {
WinogradTile winograd_tile();
}

}  // namespace pysr
