// The inner loops of blur, compiled once per instruction set from blur_tile.cpp;
// only plain structs cross over, as rows_tile.h explains.
#pragma once

#include <cstddef>
#include <cstdint>

namespace pysr {

// The columns of a row are dealt to the lanes in segments: lane l of vector t is column
// l * segment + t. One column further on is then the next vector for all of them, so that windows
// are loaded aligned at every tap, where rows as they lie would be split between cache lines.

// out[i][j] = sum over u, v of taps[u][v] * in[stride * i + u][offset[v] + j]. Rows are dealt:
// `width` and offset are multiples of the lanes, and everything is aligned to a vector.
template <class T>
struct Correlation {
  const T* in;
  ptrdiff_t in_step;
  const T* taps;
  int tap_rows, tap_columns;
  const int32_t* offset;
  int stride;
  T* out;
  ptrdiff_t out_step;
  int rows, width;
};

// sums[u][v] += sum over i, j of g[i][j] * in[stride * i + u][offset[v] + j], with u, v below k. g
// has `zero_rows` rows of zeros above and below its `rows`; `width`, offset and alignment as above.
template <class T>
struct TapSums {
  const T* in;
  ptrdiff_t in_step;
  const T* g;
  ptrdiff_t g_step;
  int k;
  const int32_t* offset;
  int stride;
  T* sums;
  int rows, width;
};

template <class T>
struct BlurTile {
  int rows;  // correlate works on blocks of this many rows
  int zero_rows;
  int lanes;
  // `count` vectors of a row; the row is read, or written, for less than a vector beyond its end.
  void (*deal)(const T* row, ptrdiff_t segment, ptrdiff_t count, T* dealt);
  void (*collect)(const T* dealt, ptrdiff_t segment, T* row);  // a segment's worth of vectors
  void (*correlate)(const Correlation<T>&);
  void (*add_tap_sums)(const TapSums<T>&);
};

namespace baseline {
template <class T>
BlurTile<T> blur_tile();
}
namespace avx2 {
template <class T>
BlurTile<T> blur_tile();
}
namespace avx512 {
template <class T>
BlurTile<T> blur_tile();
}

}  // namespace pysr
