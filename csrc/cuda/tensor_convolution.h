// Zero-padded convolutions of halves on tensor cores, for the operators that are made of them.
//
// Pictures lie channels last, in planes of 8 channels; what lies otherwise is staged first.
#pragma once

#include <cstdint>

#include "common/dtype.h"
#include "common/index.h"
#include "cuda/fragments.h"

struct CUstream_st;

namespace pysr {

constexpr int kTile = 16;  // rows and columns of the pixels of a block

// First, inner and last of `length` rows or columns; of fewer than three, those there are.
PYSR_HD inline int border_case(int64_t index, int64_t length) {
  if (index == 0) return 0;
  return index < length - 1 || length < 3 ? 1 : 2;
}

// A picture of halves that lies channels last: strides in elements, multiples of kPlane, as the
// number of channels; data on a 16-byte address.
struct Pixels {
  const void* data;
  int64_t image, row, pixel;
  int64_t planes;
};

// Where the blocks of a convolution leave the sums of what they store: over all pixels, over the
// first and last row, over the first and last column. One slot for every block that has a part.
struct LineSums {
  static constexpr int lines = 5;
  int64_t across, down;  // tiles

  LineSums(int64_t h, int64_t w) : across(ceil_div(w, kTile)), down(ceil_div(h, kTile)) {}
  PYSR_HD int64_t count(int line) const {
    return line == 0 ? across * down : line < 3 ? across : down;
  }
  PYSR_HD int64_t start(int line) const {
    return line == 0 ? 0 : line < 3 ? (down + line - 1) * across
                                    : (down + 2) * across + (line - 3) * down;
  }
  PYSR_HD int64_t slots() const { return start(lines); }
};

// The sum of an output channel becomes
//   LeakyReLU(sum + cases)   where cases is given,
//   f + gates * (sum + bias) where f is given,
//   sum + bias               otherwise.
struct TensorConvolution {
  Pixels inputs[2];  // convolved one after the other; the second one may have no planes
  PackedWeights weights;
  const void* packed;
  int side;  // of the kernel: 3 or 5
  int64_t n, h, w;
  int64_t columns;  // outputs that are stored: those of the weights, or more, which are then 0
  DType dtype;      // of all that is not float: bfloat16 or float16

  const float* cases;  // (n, 9, columns), for the nine border cases
  float* sums;         // (n, LineSums::slots, columns) of the activated, or null
  const void* bias;    // (outputs)
  const void* f;       // (n, outputs, h, w)
  const float* gates;  // (n, outputs)
  void* out;           // (n, columns / shuffle^2, shuffle * h, shuffle * w)
  int64_t f_stride[4], out_stride[4];
};

// All return a cudaError_t as an int, 0 being success.
int tensor_convolve(const TensorConvolution& p, CUstream_st* stream);

// The layout of a convolution's weights, whose two pictures have `first` and `second` channels.
PackedWeights packed_weights(int64_t first, int64_t second, int64_t weight_inputs, int64_t outputs,
                             int shuffle, int side);
int pack_weights(const PackedWeights& packed, const void* from, void* to, CUstream_st* stream);

// A picture (n, c, h, w) of halves of any strides.
struct StridedPicture {
  const void* data;
  int64_t n, c, h, w;
  const int64_t* stride;

  bool is_pixels() const;  // whether it can be read as it is
  int64_t staged_halves() const { return is_pixels() ? 0 : n * h * w * round_up(c, kPlane); }
};
// Gives the picture as it is, or copied to `stage`, which takes staged_halves().
int as_pixels(const StridedPicture& picture, void* stage, Pixels* pixels, CUstream_st* stream);

}  // namespace pysr
