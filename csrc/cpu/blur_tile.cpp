// See blur_tile.h. A block of output rows shares every row of the picture: a pixel is loaded once
// and multiplied for each output row that it reaches, and a broadcast tap meets several vectors of
// pixels, without which loads, not arithmetic, would set the pace.
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

// The rows of the picture that one phase of the tap rows meets.
template <class T>
struct PhaseRows {
  const T* in;
  ptrdiff_t step;
  const int32_t* offset;
  const T* taps;
  ptrdiff_t tap_step;
  int tap_columns;
};

// Adds rows begin .. end - 1 of the picture to rows First .. Last - 1 of a block of sums, which
// stays in registers. Row r meets tap row r - l at row l of the block.
template <class T, int First, int Last, int L, int C>
PYSR_INLINE void add_rows(Vector<T> (&sum)[L][C], const PhaseRows<T>& phase, int begin, int end) {
  for (int r = begin; r < end; ++r) {
    const T* const in = phase.in + r * phase.step;
    const T* const taps = phase.taps + r * phase.tap_step;
    for (int v = 0; v < phase.tap_columns; ++v) {
      Vector<T> pixel[C];
      PYSR_UNROLL
      for (int c = 0; c < C; ++c) load<T>(pixel[c], in + phase.offset[v] + c * kLanes<T>);
      PYSR_UNROLL
      for (int l = First; l < Last; ++l) {
        const T tap = taps[v - l * phase.tap_step];
        PYSR_UNROLL
        for (int c = 0; c < C; ++c) sum[l][c] += pixel[c] * tap;
      }
    }
  }
}

// The first rows of the picture reach only the block's first rows, the last ones its last.
template <class T, int Count, int L, int C>
PYSR_INLINE void add_first_rows(Vector<T> (&sum)[L][C], const PhaseRows<T>& phase) {
  if constexpr (Count < L) {
    add_rows<T, 0, Count>(sum, phase, Count - 1, Count);
    add_first_rows<T, Count + 1>(sum, phase);
  }
}
template <class T, int First, int L, int C>
PYSR_INLINE void add_last_rows(Vector<T> (&sum)[L][C], const PhaseRows<T>& phase, int tap_rows) {
  if constexpr (First < L) {
    add_rows<T, First, L>(sum, phase, tap_rows - 1 + First, tap_rows + First);
    add_last_rows<T, First + 1>(sum, phase, tap_rows);
  }
}

// Columns C vectors wide, in blocks of L rows; no phase has fewer tap rows than L, nor the job
// fewer rows.
template <class T, int L, int C>
void correlate_columns(const Correlation<T>& job, int column) {
  for (int next = 0; next < job.rows; next += L) {
    const int top = next + L <= job.rows ? next : job.rows - L;  // the last may repeat some rows
    Vector<T> sum[L][C];
    PYSR_UNROLL
    for (int l = 0; l < L; ++l) {
      PYSR_UNROLL
      for (int c = 0; c < C; ++c) sum[l][c] = Vector<T>{};
    }
    for (int f = 0; f < job.stride && f < job.tap_rows; ++f) {
      const int tap_rows = (job.tap_rows - f - 1) / job.stride + 1;
      const PhaseRows<T> phase{job.in + (ptrdiff_t{job.stride} * top + f) * job.in_step + column,
                               job.stride * job.in_step,
                               job.offset,
                               job.taps + f * job.tap_columns,
                               ptrdiff_t{job.stride} * job.tap_columns,
                               job.tap_columns};
      add_first_rows<T, 1>(sum, phase);
      add_rows<T, 0, L>(sum, phase, L - 1, tap_rows);
      add_last_rows<T, 1>(sum, phase, tap_rows);
    }
    T* const out = job.out + top * job.out_step + column;
    PYSR_UNROLL
    for (int l = 0; l < L; ++l) {
      PYSR_UNROLL
      for (int c = 0; c < C; ++c) store<T>(out + l * job.out_step + c * kLanes<T>, sum[l][c]);
    }
  }
}

template <class T, int L>
void correlate_columns(const Correlation<T>& job, int column, int vectors) {
  switch (vectors) {
    case 1:
      return correlate_columns<T, L, 1>(job, column);
    case 2:
      return correlate_columns<T, L, 2>(job, column);
#if PYSR_REGISTERS == 32
    case 3:
      return correlate_columns<T, L, 3>(job, column);
    case 4:
      return correlate_columns<T, L, 4>(job, column);
#endif
  }
}

// Share `index` of `count` things dealt out as evenly as can be begins here.
int share(int count, int shares, int index) {
  return static_cast<int>(int64_t{count} * index / shares);
}

template <class T>
void correlate(const Correlation<T>& job) {
  const int fewest = job.tap_rows < job.stride ? 1 : job.tap_rows / job.stride;
  const int most = fewest < job.rows ? fewest : job.rows;
  const int vectors = job.width / kLanes<T>, blocks = (vectors + kVectors - 1) / kVectors;
  for (int b = 0; b < blocks; ++b) {
    const int first = share(vectors, blocks, b), count = share(vectors, blocks, b + 1) - first;
    const int column = first * kLanes<T>;
    if (most >= kRows) {
      correlate_columns<T, kRows>(job, column, count);
    } else if (most >= kRows / 2) {
      correlate_columns<T, kRows / 2>(job, column, count);
    } else {
      correlate_columns<T, 1>(job, column, count);
    }
  }
}

template <class T>
void deal(const T* row, ptrdiff_t segment, ptrdiff_t count, T* dealt) {
  constexpr int lanes = kLanes<T>;
  for (ptrdiff_t t = 0; t < count; t += lanes) {
    Vector<T> block[lanes];
    PYSR_UNROLL
    for (int l = 0; l < lanes; ++l) load<T>(block[l], row + l * segment + t);
    transpose<T>(block);
    PYSR_UNROLL
    for (int l = 0; l < lanes; ++l) {
      if (t + l < count) store<T>(dealt + (t + l) * lanes, block[l]);
    }
  }
}

// What is written beyond a segment is overwritten afterwards: by the next lane, or by the block to
// the left, which comes later.
template <class T>
void collect(const T* dealt, ptrdiff_t segment, T* row) {
  constexpr int lanes = kLanes<T>;
  for (ptrdiff_t t = (segment - 1) / lanes * lanes; t >= 0; t -= lanes) {
    Vector<T> block[lanes];
    PYSR_UNROLL
    for (int l = 0; l < lanes; ++l) {
      block[l] = Vector<T>{};
      if (t + l < segment) load<T>(block[l], dealt + (t + l) * lanes);
    }
    transpose<T>(block);
    PYSR_UNROLL
    for (int l = 0; l < lanes; ++l) store<T>(row + l * segment + t, block[l]);
  }
}

// Sums for L tap rows, `stride` apart from u on, and V tap columns, `stride` apart from v on.
template <class T, int L, int V>
void add_tap_block(const TapSums<T>& job, int u, int v) {
  Vector<T> sum[L][V];
  PYSR_UNROLL
  for (int l = 0; l < L; ++l) {
    PYSR_UNROLL
    for (int t = 0; t < V; ++t) sum[l][t] = Vector<T>{};
  }
  // Row stride * m + u of the picture meets row m - l of g at tap row u + stride * l.
  const T* in = job.in + u * job.in_step + job.offset[v];
  const T* g = job.g;
  for (int m = 0; m < job.rows + L - 1; ++m) {
    for (ptrdiff_t j = 0; j < job.width; j += kLanes<T>) {
      Vector<T> slope[L], pixel;
      PYSR_UNROLL
      for (int l = 0; l < L; ++l) load<T>(slope[l], g - l * job.g_step + j);
      PYSR_UNROLL
      for (int t = 0; t < V; ++t) {
        load<T>(pixel, in + t * kLanes<T> + j);  // the next column of the same phase
        PYSR_UNROLL
        for (int l = 0; l < L; ++l) sum[l][t] += slope[l] * pixel;
      }
    }
    in += job.stride * job.in_step;
    g += job.g_step;
  }
  PYSR_UNROLL
  for (int l = 0; l < L; ++l) {
    PYSR_UNROLL
    for (int t = 0; t < V; ++t) {
      T lanes[kLanes<T>], total = 0;  // indexed themselves, the sums would live in memory
      store<T>(lanes, sum[l][t]);
      for (const T lane : lanes) total += lane;
      job.sums[(u + job.stride * l) * job.k + v + job.stride * t] += total;
    }
  }
}

// Calls block(first, count) for the taps of every phase, `stride` apart from first on, dealt out to
// blocks of at most `most`.
template <class F>
PYSR_INLINE void for_tap_blocks(int k, int stride, int most, F&& block) {
  for (int phase = 0; phase < stride && phase < k; ++phase) {
    const int count = (k - phase - 1) / stride + 1, blocks = (count + most - 1) / most;
    for (int b = 0; b < blocks; ++b) {
      const int first = share(count, blocks, b);
      block(phase + stride * first, share(count, blocks, b + 1) - first);
    }
  }
}

template <class T, int L>
void add_tap_rows(const TapSums<T>& job, int u) {
  for_tap_blocks(job.k, job.stride, kTapColumns, [&](int v, int count) {
    switch (count) {
      case 1:
        return add_tap_block<T, L, 1>(job, u, v);
      case 2:
        return add_tap_block<T, L, 2>(job, u, v);
      case 3:
        return add_tap_block<T, L, 3>(job, u, v);
#if PYSR_REGISTERS == 32
      case 4:
        return add_tap_block<T, L, 4>(job, u, v);
      case 5:
        return add_tap_block<T, L, 5>(job, u, v);
      case 6:
        return add_tap_block<T, L, 6>(job, u, v);
#endif
    }
  });
}

template <class T>
void add_tap_sums(const TapSums<T>& job) {
  for_tap_blocks(job.k, job.stride, kTapRows, [&](int u, int count) {
    switch (count) {
      case 1:
        return add_tap_rows<T, 1>(job, u);
      case 2:
        return add_tap_rows<T, 2>(job, u);
      case 3:
        return add_tap_rows<T, 3>(job, u);
#if PYSR_REGISTERS == 32
      case 4:
        return add_tap_rows<T, 4>(job, u);
#endif
    }
  });
}

}  // namespace

template <class T>
BlurTile<T> blur_tile() {
  return {kRows, kTapRows - 1, kLanes<T>, deal<T>, collect<T>, correlate<T>, add_tap_sums<T>};
}

template BlurTile<float> blur_tile<float>();
template BlurTile<double> blur_tile<double>();

}  // namespace PYSR_ISA
}  // namespace pysr
