// The inner loops of basis_svconv, compiled once per instruction set from basis_svconv_tile.cpp;
// only plain structs cross over, as rows_tile.h explains.
#pragma once

namespace pysr {

// One row of output, with the k rows of the padded picture under its windows, all in vectors: lane
// l of vector q is column l * vectors + q of an output row, and column l * stride * vectors + q of
// a padded row. The pixels under tap v of the outputs of vector q then make up vector
// stride * q + v of the padded row: whole and aligned for every tap and stride.
//
// Each function adds to one of in, coefficients, taps and out what follows from the other three.
template <class T>
struct BasisRow {
  int k, stride, bases, channels;
  int vectors;        // of an output row
  int in_vectors;     // of a padded row: stride * (vectors - 1) + k
  T** in;             // [k] rows of (channels, in_vectors)
  T* coefficients;    // (bases, vectors)
  const T* taps;      // (bases, k, k)
  T* tap_sums;        // (bases, k, k) vectors, whose lanes are to be summed
  T* out;             // (channels, vectors)
  int first, last;    // tap rows to use: first .. last - 1
};

template <class T>
struct BasisSvconvTile {
  void (*add_out)(const BasisRow<T>&);
  void (*add_in)(const BasisRow<T>&);
  void (*add_coefficients)(const BasisRow<T>&);
  void (*add_tap_sums)(const BasisRow<T>&);
};

namespace baseline {
template <class T>
BasisSvconvTile<T> basis_svconv_tile();
}
namespace avx2 {
template <class T>
BasisSvconvTile<T> basis_svconv_tile();
}
namespace avx512 {
template <class T>
BasisSvconvTile<T> basis_svconv_tile();
}

}  // namespace pysr
