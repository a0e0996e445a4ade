// See blur_tile.h. Vectors run along output columns, where both the picture and the output
// are contiguous, so that one broadcast tap meets many pixels. A block of output rows shares every
// row of the picture: a pixel is loaded once and multiplied for each output row that it reaches,
// without which unaligned loads, not arithmetic, would set the pace.
#include "cpu/blur_tile.h"
#include "cpu/vector.h"

namespace pysr {
namespace PYSR_ISA {
namespace {

// Blocks sized so that accumulators, the loaded pixels and one tap fill the registers.
constexpr int kRows = PYSR_REGISTERS == 32 ? 6 : 4;
constexpr int kVectors = PYSR_REGISTERS == 32 ? 4 : 2;
constexpr int kTapRows = PYSR_REGISTERS == 32 ? 4 : 3;
constexpr int kTapColumns = PYSR_REGISTERS == 32 ? 6 : 3;

// Adds one row of the picture to L consecutive output rows of a block C vectors wide; the tap row
// over output row l is taps + l * tap_step.
template <class T, int L, int C>
void add_row(T* sums, const T* in, const int32_t* offset, int columns, const T* taps,
             ptrdiff_t tap_step) {
  Vector<T> sum[L][C];
  PYSR_UNROLL
  for (int l = 0; l < L; ++l) {
    PYSR_UNROLL
    for (int c = 0; c < C; ++c) load<T>(sum[l][c], sums + (l * C + c) * kLanes<T>);
  }
  for (int v = 0; v < columns; ++v) {
    Vector<T> pixel[C];
    PYSR_UNROLL
    for (int c = 0; c < C; ++c) load<T>(pixel[c], in + offset[v] + c * kLanes<T>);
    PYSR_UNROLL
    for (int l = 0; l < L; ++l) {
      const T tap = taps[l * tap_step + v];
      PYSR_UNROLL
      for (int c = 0; c < C; ++c) sum[l][c] += pixel[c] * tap;
    }
  }
  PYSR_UNROLL
  for (int l = 0; l < L; ++l) {
    PYSR_UNROLL
    for (int c = 0; c < C; ++c) {
      store<T>(sums + (l * C + c) * kLanes<T>, sum[l][c]);
    }
  }
}

template <class T, int C>
void add_row(int live, T* sums, const T* in, const int32_t* offset, int columns, const T* taps,
             ptrdiff_t tap_step) {
  switch (live) {
    case 1:
      return add_row<T, 1, C>(sums, in, offset, columns, taps, tap_step);
    case 2:
      return add_row<T, 2, C>(sums, in, offset, columns, taps, tap_step);
    case 3:
      return add_row<T, 3, C>(sums, in, offset, columns, taps, tap_step);
    case 4:
      return add_row<T, 4, C>(sums, in, offset, columns, taps, tap_step);
#if PYSR_REGISTERS == 32
    case 5:
      return add_row<T, 5, C>(sums, in, offset, columns, taps, tap_step);
    case 6:
      return add_row<T, 6, C>(sums, in, offset, columns, taps, tap_step);
#endif
  }
}

template <class T, int C>
void correlate_columns(const Correlation<T>& job, int column) {
  alignas(PYSR_VECTOR_BYTES) T sums[kRows * C * kLanes<T>];
  for (int top = 0; top < job.rows; top += kRows) {
    const int rows = job.rows - top < kRows ? job.rows - top : kRows;
    for (T& sum : sums) sum = 0;
    const T* in = job.in + ptrdiff_t{job.stride} * top * job.in_step + column;
    // Row r of the picture lies under tap row r - stride * l of output row l.
    int first = 0, last = 0;
    for (int r = 0; r < job.stride * (rows - 1) + job.tap_rows; ++r) {
      if (r - job.stride * first >= job.tap_rows) ++first;
      if (last < rows && r == job.stride * last) ++last;
      if (first == last) continue;
      add_row<T, C>(last - first, sums + first * C * kLanes<T>, in + r * job.in_step, job.offset,
                    job.tap_columns, job.taps + ptrdiff_t{r - job.stride * first} * job.tap_columns,
                    -ptrdiff_t{job.stride} * job.tap_columns);
    }
    for (int l = 0; l < rows; ++l) {
      __builtin_memcpy(job.out + (top + l) * job.out_step + column, sums + l * C * kLanes<T>,
                       sizeof(Vector<T>) * C);
    }
  }
}

template <class T>
void correlate(const Correlation<T>& job) {
  int column = 0;
  const int block = kVectors * kLanes<T>;
  for (; column + block <= job.width; column += block) correlate_columns<T, kVectors>(job, column);
  switch ((job.width - column) / kLanes<T>) {
    case 1:
      return correlate_columns<T, 1>(job, column);
#if PYSR_REGISTERS == 32
    case 2:
      return correlate_columns<T, 2>(job, column);
    case 3:
      return correlate_columns<T, 3>(job, column);
#endif
  }
}

// Sums for L tap rows, `stride` apart from u on, and V tap columns from v on.
template <class T, int L, int V>
void add_tap_block(const TapSums<T>& job, int u, int v) {
  Vector<T> sum[L][V];
  PYSR_UNROLL
  for (int l = 0; l < L; ++l) {
    PYSR_UNROLL
    for (int t = 0; t < V; ++t) sum[l][t] = Vector<T>{};
  }
  // Row stride * m + u of the picture meets row m - l of g at tap row u + stride * l.
  for (int m = 0; m < job.rows + L - 1; ++m) {
    const T* in = job.in + (ptrdiff_t{job.stride} * m + u) * job.in_step;
    const T* g = job.g + m * job.g_step;
    for (int j = 0; j < job.width; j += kLanes<T>) {
      Vector<T> slope[L], pixel;
      PYSR_UNROLL
      for (int l = 0; l < L; ++l) load<T>(slope[l], g - l * job.g_step + j);
      PYSR_UNROLL
      for (int t = 0; t < V; ++t) {
        load<T>(pixel, in + job.offset[v + t] + j);
        PYSR_UNROLL
        for (int l = 0; l < L; ++l) sum[l][t] += slope[l] * pixel;
      }
    }
  }
  for (int l = 0; l < L; ++l) {
    for (int t = 0; t < V; ++t) {
      T total = 0;
      for (int lane = 0; lane < kLanes<T>; ++lane) total += sum[l][t][lane];
      job.sums[(u + job.stride * l) * job.k + v + t] += total;
    }
  }
}

template <class T, int L>
void add_tap_rows(const TapSums<T>& job, int u) {
  int v = 0;
  for (; v + kTapColumns <= job.k; v += kTapColumns) add_tap_block<T, L, kTapColumns>(job, u, v);
  switch (job.k - v) {
    case 1:
      return add_tap_block<T, L, 1>(job, u, v);
    case 2:
      return add_tap_block<T, L, 2>(job, u, v);
#if PYSR_REGISTERS == 32
    case 3:
      return add_tap_block<T, L, 3>(job, u, v);
    case 4:
      return add_tap_block<T, L, 4>(job, u, v);
    case 5:
      return add_tap_block<T, L, 5>(job, u, v);
#endif
  }
}

template <class T>
void add_tap_sums(const TapSums<T>& job) {
  for (int phase = 0; phase < job.stride && phase < job.k; ++phase) {
    int u = phase;
    for (; u + job.stride * (kTapRows - 1) < job.k; u += job.stride * kTapRows) {
      add_tap_rows<T, kTapRows>(job, u);
    }
    switch (u < job.k ? (job.k - u - 1) / job.stride + 1 : 0) {
      case 1:
        add_tap_rows<T, 1>(job, u);
        break;
      case 2:
        add_tap_rows<T, 2>(job, u);
        break;
#if PYSR_REGISTERS == 32
      case 3:
        add_tap_rows<T, 3>(job, u);
        break;
#endif
    }
  }
}

}  // namespace

template <class T>
BlurTile<T> blur_tile() {
  return {kRows, kTapRows - 1, correlate<T>, add_tap_sums<T>};
}

template BlurTile<float> blur_tile<float>();
template BlurTile<double> blur_tile<double>();

}  // namespace PYSR_ISA
}  // namespace pysr
