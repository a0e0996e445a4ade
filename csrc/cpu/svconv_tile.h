// The inner loops of svconv, compiled once per instruction set from svconv_tile.cpp; only plain
// structs cross over, as rows_tile.h explains.
#pragma once

#include <cstddef>
#include <cstdint>

#include "common/dtype.h"

namespace pysr {

constexpr int kSvconvChannels = 4;  // most that share one read of the kernels
constexpr int kSvconvTaps = 5;      // most that are summed between load and store of a sum

// Some taps t of one kernel row, over some rows i of `width` outputs. x and out are padded rows in
// the type that sums are taken in, channel by channel; kernels is the tensor itself.
template <class S>
struct TapRows {
  using T = Accumulator<S>;

  T* x;
  ptrdiff_t x_step, x_row;  // from channel to channel, and from row to row
  S* kernels;
  ptrdiff_t kernels_step, kernels_row;  // from tap to tap, and from row to row
  T* out;
  ptrdiff_t out_step, out_row;
  const int32_t* offset;  // of the taps in a row of x
  int taps, channels, rows, width;
};

template <class S>
struct SvconvTile {
  int lanes;
  // out[c][i][j] += sum over t of kernels[t][i][j] * x[c][i][offset[t] + j]. Reads and writes whole
  // vectors of x and out, what it adds beyond `width` means nothing.
  void (*add_to_out)(const TapRows<S>&);
  // x[c][i][j + t] += kernels[t][i][j] * out[c][i][j], offset unused. Writes whole vectors of x;
  // out is zero beyond both ends of its rows, where it is read for kSvconvTaps - 1 more columns in
  // whole vectors.
  void (*add_to_x)(const TapRows<S>&);
  // kernels[0][i][j] = sum over c of out[c][i][j] * x[c][i][offset[0] + j], any number of channels.
  // Reads whole vectors of x and out.
  void (*write_kernels)(const TapRows<S>&);
};

namespace baseline {
template <class S>
SvconvTile<S> svconv_tile();
}
namespace avx2 {
template <class S>
SvconvTile<S> svconv_tile();
}
namespace avx512 {
template <class S>
SvconvTile<S> svconv_tile();
}

}  // namespace pysr
