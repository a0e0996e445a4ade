// See svconv_tile.h. The kernels come from memory and are used once, so everything else must stay
// out of their way: a vector of them meets all channels at once, sums go through registers for
// several taps, and the rows that both lie on are in the caches.
#include "cpu/svconv_tile.h"
#include "cpu/vector.h"

namespace pysr {
namespace PYSR_ISA {
namespace {

// sums[c][j] += sum over t of kernels[t][j] * in[c][offset[t] + j], for `vectors` of columns.
template <class S, int C, int V>
PYSR_INLINE void add_products(const S* kernels, ptrdiff_t kernels_step, const Accumulator<S>* in,
                              ptrdiff_t in_step, const int32_t* offset, Accumulator<S>* sums,
                              ptrdiff_t sums_step, int vectors) {
  using T = Accumulator<S>;
  const T* shifted[V];
  PYSR_UNROLL
  for (int t = 0; t < V; ++t) shifted[t] = in + offset[t];
  for (ptrdiff_t j = 0; j < ptrdiff_t{vectors} * kLanes<T>; j += kLanes<T>) {
    Vector<T> sum[C], tap, pixel;
    PYSR_UNROLL
    for (int c = 0; c < C; ++c) load<T>(sum[c], sums + c * sums_step + j);
    PYSR_UNROLL
    for (int t = 0; t < V; ++t) {
      load_widened<S>(tap, kernels + t * kernels_step + j);
      PYSR_UNROLL
      for (int c = 0; c < C; ++c) {
        load<T>(pixel, shifted[t] + c * in_step + j);
        sum[c] += tap * pixel;
      }
    }
    PYSR_UNROLL
    for (int c = 0; c < C; ++c) store<T>(sums + c * sums_step + j, sum[c]);
  }
}

// One row of V taps, tap t moved t * kShift columns to the right. Vectors that reach beyond the
// ends of a row of kernels see a copy that is zero there: what lies beyond is not theirs to read.
template <class S, int C, int V, int kShift>
void add_row(const S* kernels, ptrdiff_t kernels_step, const Accumulator<S>* in, ptrdiff_t in_step,
             const int32_t* offset, Accumulator<S>* sums, ptrdiff_t sums_step, int width) {
  constexpr int lanes = kLanes<Accumulator<S>>, kReach = kShift * (V - 1);
  for (int j = 0; j < width + kReach;) {
    if (j >= kReach && j + lanes <= width) {
      const int vectors = (width - j) / lanes;
      add_products<S, C, V>(kernels + j, kernels_step - kShift, in + j, in_step, offset, sums + j,
                            sums_step, vectors);
      j += vectors * lanes;
      continue;
    }
    S edge[V * lanes] = {};
    for (int t = 0; t < V; ++t) {
      const int first = j < kShift * t ? kShift * t - j : 0;
      const int last = width + kShift * t - j < lanes ? width + kShift * t - j : lanes;
      for (int l = first; l < last; ++l) {
        edge[t * lanes + l] = kernels[t * kernels_step + j + l - kShift * t];
      }
    }
    add_products<S, C, V>(edge, lanes, in + j, in_step, offset, sums + j, sums_step, 1);
    j += lanes;
  }
}

// Sums go to out, or with kShift to x, whose column j + t output j meets under tap t.
template <class S, int kShift, int C, int V>
void add_rows(const TapRows<S>& job) {
  static constexpr int32_t kBack[kSvconvTaps] = {0, -1, -2, -3, -4};
  for (int i = 0; i < job.rows; ++i) {
    Accumulator<S>*const x = job.x + i * job.x_row, *const out = job.out + i * job.out_row;
    const S* kernels = job.kernels + i * job.kernels_row;
    if (kShift == 0) {
      add_row<S, C, V, 0>(kernels, job.kernels_step, x, job.x_step, job.offset, out, job.out_step,
                          job.width);
    } else {
      add_row<S, C, V, 1>(kernels, job.kernels_step, out, job.out_step, kBack, x, job.x_step,
                          job.width);
    }
  }
}

template <class S, int kShift, int C>
void add_taps(const TapRows<S>& job) {
  switch (job.taps) {
    case 1:
      return add_rows<S, kShift, C, 1>(job);
    case 2:
      return add_rows<S, kShift, C, 2>(job);
    case 3:
      return add_rows<S, kShift, C, 3>(job);
    case 4:
      return add_rows<S, kShift, C, 4>(job);
    case 5:
      return add_rows<S, kShift, C, 5>(job);
  }
}

template <class S, int kShift>
void add(const TapRows<S>& job) {
  switch (job.channels) {
    case 1:
      return add_taps<S, kShift, 1>(job);
    case 2:
      return add_taps<S, kShift, 2>(job);
    case 3:
      return add_taps<S, kShift, 3>(job);
    case 4:
      return add_taps<S, kShift, 4>(job);
  }
}

// Ordinary stores: a tensor of this size lies in memory that the system clears page by page as it
// is first touched, and what it has just cleared is in the caches. Stores past them would be faster
// in used memory only.
template <class S>
void write_kernels(const TapRows<S>& job) {
  using T = Accumulator<S>;
  constexpr int lanes = kLanes<T>;
  for (int i = 0; i < job.rows; ++i) {
    const T* x = job.x + i * job.x_row + job.offset[0];
    const T* out = job.out + i * job.out_row;
    S* kernels = job.kernels + i * job.kernels_row;
    for (int j = 0; j < job.width; j += lanes) {
      Vector<T> sum{}, pixel, slope;
      for (int c = 0; c < job.channels; ++c) {
        load<T>(pixel, x + c * job.x_step + j);
        load<T>(slope, out + c * job.out_step + j);
        sum += slope * pixel;
      }
      if (j + lanes <= job.width) {
        store_narrowed<S>(kernels + j, sum);
      } else {
        S last[lanes];
        store_narrowed<S>(last, sum);
        __builtin_memcpy(kernels + j, last, (job.width - j) * sizeof(S));
      }
    }
  }
}

}  // namespace

template <class S>
SvconvTile<S> svconv_tile() {
  return {kLanes<Accumulator<S>>, add<S, 0>, add<S, 1>, write_kernels<S>};
}

template SvconvTile<float> svconv_tile<float>();
template SvconvTile<double> svconv_tile<double>();
template SvconvTile<BFloat16> svconv_tile<BFloat16>();
template SvconvTile<Float16> svconv_tile<Float16>();

}  // namespace PYSR_ISA
}  // namespace pysr
