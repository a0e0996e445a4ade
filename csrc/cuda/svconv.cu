// svconv on CUDA.
//
// The kernels stream by once, in coalesced reads of adjacent columns, several of them under way per
// thread; a value meets all the channels that its block holds. The pixels that a block needs lie in
// shared memory, columns sorted by phase (their remainder modulo the stride), so that neighbouring
// threads read neighbouring words for every stride. The gradients are gathers over the same kind of
// tile.
//
// Nothing is summed with atomics: a sum has one order, so results repeat bit by bit.
#include <type_traits>

#include "common/dtype.h"
#include "common/index.h"
#include "common/launch.h"
#include "ops/svconv.h"

namespace pysr {
namespace {

using Params = SvconvParams;

constexpr int kLine = 32;    // threads along a row
constexpr int kColumns = 2;  // columns per thread, kLine apart
constexpr int kWidth = kLine * kColumns;
constexpr int kRows = 4;  // rows of a block, one per line of threads
constexpr int kThreads = kLine * kRows;
constexpr int kChannels = 4;  // most that share one read of the kernels
constexpr int kTaps = 8;      // taps of one row that a thread of grad_kernels sums
constexpr int kFoldThreads = 256;
// Within what every GPU grants a block, and enough for a channel of the largest tile in doubles.
constexpr int64_t kSharedBytes = 96 * 1024;

template <class S>
PYSR_HD const S* plane_of(const void* base, const int64_t (&stride)[4], int64_t sample,
                          int64_t channel) {
  return static_cast<const S*>(base) + sample * stride[0] + channel * stride[1];
}

// Where the kernels of tap (u, v) and output row i begin.
template <class S>
__device__ const S* tap_row(const Params& p, int64_t sample, int64_t u, int64_t v, int64_t i) {
  const int64_t(&stride)[4] = p.kernels_stride;
  return static_cast<const S*>(p.kernels) + sample * stride[0] + u * stride[1] + v * stride[2] +
         i * stride[3];
}

// The pixel under a padded row and column; zero beyond the windows.
template <class S>
__device__ Accumulator<S> padded_pixel(const Params& p, const S* x, int64_t row, int64_t column) {
  if (row >= p.padded_h() || column >= p.padded_w()) return 0;
  const int64_t y = p.row(row), z = p.column(column);
  return y < 0 || z < 0 ? Accumulator<S>(0) : widen(x[y * p.x_stride[2] + z * p.x_stride[3]]);
}

// A block's tile of x: rows of `phases` parts.
struct XTile {
  int rows, part, phases;
  PYSR_HD explicit XTile(const Params& p)
      : rows(static_cast<int>(p.stride * (kRows - 1) + p.k)),
        part(static_cast<int>(kWidth + (p.k - 1) / p.stride)),
        phases(static_cast<int>(p.phases())) {}
  PYSR_HD int size() const { return rows * part * phases; }
};

// Tiles of kRows x kWidth that cover a picture, and the passes over its channels.
struct Grid {
  int64_t across, tiles;
  PYSR_HD Grid(int64_t height, int64_t width)
      : across(ceil_div(width, kWidth)), tiles(across * ceil_div(height, kRows)) {}
};

// Sums kColumns outputs of C channels per thread, over channels pass * C onwards.
template <class S, int C>
__global__ void __launch_bounds__(kThreads, 4) forward_kernel(Params p, int64_t passes) {
  using T = Accumulator<S>;
  PYSR_DYNAMIC_SHARED(T, shared);
  const int64_t ho = p.ho(), wo = p.wo();
  const Grid grid(ho, wo);
  const int64_t pass = blockIdx.x % passes, tile = blockIdx.x / passes % grid.tiles;
  const int64_t sample = blockIdx.x / passes / grid.tiles;
  const int64_t top = tile / grid.across * kRows, left = tile % grid.across * kWidth;
  const int tx = static_cast<int>(threadIdx.x), ty = static_cast<int>(threadIdx.y);
  const int k = static_cast<int>(p.k), stride = static_cast<int>(p.stride);

  const XTile shape(p);
  for (int c = 0; c < C; ++c) {
    const int64_t channel = pass * C + c;
    const S* x = plane_of<S>(p.x, p.x_stride, sample, channel);
    for (int t = ty * kLine + tx; t < shape.size(); t += kThreads) {
      const int b = t % shape.part, phase = t / shape.part % shape.phases;
      const int64_t row = stride * top + t / shape.part / shape.phases;
      const int64_t column = stride * (left + b) + phase;
      shared[c * shape.size() + t] = channel < p.c ? padded_pixel<S>(p, x, row, column) : T(0);
    }
  }
  __syncthreads();
  const int64_t i = top + ty;
  if (i >= ho) return;

  T sums[C][kColumns] = {};
  for (int u = 0; u < k; ++u) {
    const T* row = shared + (stride * ty + u) * shape.phases * shape.part + tx;
    const S* taps = tap_row<S>(p, sample, u, 0, i) + left + tx;
    for (int phase = 0; phase < shape.phases; ++phase) {
      const T* under = row + phase * shape.part;
#pragma unroll 4
      for (int v = phase; v < k; v += stride, ++under) {
#pragma unroll
        for (int e = 0; e < kColumns; ++e) {
          if (left + tx + e * kLine >= wo) continue;
          const T tap = widen(taps[v * p.kernels_stride[2] + e * kLine]);
#pragma unroll
          for (int c = 0; c < C; ++c) sums[c][e] += tap * under[c * shape.size() + e * kLine];
        }
      }
    }
  }
#pragma unroll
  for (int c = 0; c < C; ++c) {
    const int64_t channel = pass * C + c;
    if (channel >= p.c) break;
    S* out = static_cast<S*>(p.out) + ((sample * p.c + channel) * ho + i) * wo;
#pragma unroll
    for (int e = 0; e < kColumns; ++e) {
      const int64_t j = left + tx + e * kLine;
      if (j < wo) out[j] = Narrow<S>::from(sums[c][e]);
    }
  }
}

// The gradient by the padded picture, into the workspace (n * c, padded_h, padded_w). A block works
// on pixels of one phase of rows and columns: pixel (a, b) of the phase gathers output (a - u, b -
// v) under every tap (u, v) of the phase.
template <class S, int C>
__global__ void __launch_bounds__(kThreads, 4) grad_padded_kernel(Params p, int64_t passes) {
  using T = Accumulator<S>;
  PYSR_DYNAMIC_SHARED(T, shared);
  const int64_t ho = p.ho(), wo = p.wo(), padded_h = p.padded_h(), padded_w = p.padded_w();
  const Grid grid(ceil_div(padded_h, p.stride), ceil_div(padded_w, p.stride));
  int64_t rest = blockIdx.x;
  const int64_t pass = rest % passes;
  rest /= passes;
  const int64_t phase_x = rest % p.stride, phase_y = rest / p.stride % p.stride;
  rest /= p.stride * p.stride;
  const int64_t tile = rest % grid.tiles, sample = rest / grid.tiles;
  const int64_t top = tile / grid.across * kRows, left = tile % grid.across * kWidth;
  const int tx = static_cast<int>(threadIdx.x), ty = static_cast<int>(threadIdx.y);

  const int reach = static_cast<int>(ceil_div(p.k, p.stride)) - 1;
  const int rows = kRows + reach, columns = kWidth + reach;
  for (int c = 0; c < C; ++c) {
    const int64_t channel = pass * C + c;
    const S* g = plane_of<S>(p.out, p.out_stride, sample, channel);
    for (int t = ty * kLine + tx; t < rows * columns; t += kThreads) {
      const int64_t i = top + t / columns - reach, j = left + t % columns - reach;
      const bool inside = i >= 0 && i < ho && j >= 0 && j < wo && channel < p.c;
      shared[c * rows * columns + t] =
          inside ? widen(g[i * p.out_stride[2] + j * p.out_stride[3]]) : T(0);
    }
  }
  __syncthreads();
  const int64_t a = top + ty, y = p.stride * a + phase_y;
  if (y >= padded_h) return;

  T sums[C][kColumns] = {};
  const int tap_rows = static_cast<int>(phase_count(p.k, phase_y, p.stride));
  const int tap_columns = static_cast<int>(phase_count(p.k, phase_x, p.stride));
  for (int u = 0; u < tap_rows; ++u) {
    if (a - u < 0 || a - u >= ho) continue;
    const S* taps = tap_row<S>(p, sample, p.stride * u + phase_y, phase_x, a - u);
    const T* row = shared + (ty + reach - u) * columns + tx + reach;
#pragma unroll 4
    for (int v = 0; v < tap_columns; ++v) {
#pragma unroll
      for (int e = 0; e < kColumns; ++e) {
        const int64_t j = left + tx + e * kLine - v;
        if (j < 0 || j >= wo) continue;
        const T tap = widen(taps[v * p.stride * p.kernels_stride[2] + j]);
#pragma unroll
        for (int c = 0; c < C; ++c) sums[c][e] += tap * row[c * rows * columns + e * kLine - v];
      }
    }
  }
#pragma unroll
  for (int c = 0; c < C; ++c) {
    const int64_t channel = pass * C + c;
    if (channel >= p.c) break;
    T* out = static_cast<T*>(p.workspace) + ((sample * p.c + channel) * padded_h + y) * padded_w;
#pragma unroll
    for (int e = 0; e < kColumns; ++e) {
      const int64_t q = p.stride * (left + tx + e * kLine) + phase_x;
      if (q < padded_w) out[q] = sums[c][e];
    }
  }
}

// Walks, in ascending order, through the indices of the padded side that may show pixel `at` of a
// side of `length` pixels: the borders and its own. What lies k or more from both ends no border
// shows.
struct Views {
  int64_t at, length, margin;
  Padding padding;
  bool near_end;

  __device__ Views(const Params& p, int64_t at_, int64_t length_)
      : at(at_), length(length_), margin(p.margin()), padding(p.padding),
        near_end(at_ < p.k || at_ >= length_ - p.k) {}
  __device__ int64_t first() const { return near_end && margin > 0 ? 0 : margin + at; }
  __device__ int64_t next(int64_t index) const {
    if (index == margin + at) return near_end ? margin + length : INT64_MAX;
    return index + 1 == margin ? margin + at : index + 1;
  }
  __device__ bool shows(int64_t index) const {
    return shown(index - margin, length, padding) == at;
  }
};

// Each pixel gathers the padded pixels that showed it.
template <class S>
__global__ void __launch_bounds__(kFoldThreads, 3) fold_kernel(Params p) {
  using T = Accumulator<S>;
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kFoldThreads + threadIdx.x;
  if (index >= p.n * p.c * p.h * p.w) return;
  const int64_t padded_h = p.padded_h(), padded_w = p.padded_w();
  const T* padded =
      static_cast<const T*>(p.workspace) + index / (p.h * p.w) * padded_h * padded_w;
  const Views rows(p, index / p.w % p.h, p.h), columns(p, index % p.w, p.w);
  T sum = 0;
#pragma unroll 1
  for (int64_t r = rows.first(); r < padded_h; r = rows.next(r)) {
    if (!rows.shows(r)) continue;
#pragma unroll 1
    for (int64_t q = columns.first(); q < padded_w; q = columns.next(q)) {
      if (columns.shows(q)) sum += padded[r * padded_w + q];
    }
  }
  static_cast<S*>(p.x)[index] = Narrow<S>::from(sum);
}

// One pixel per thread, kTaps taps of one tap row; channels go by one at a time, so that any number
// of them is summed in one place and rounded once.
template <class S>
__global__ void __launch_bounds__(kThreads, 6) grad_kernels_kernel(Params p) {
  using T = Accumulator<S>;
  PYSR_DYNAMIC_SHARED(T, shared);
  const int64_t ho = p.ho(), wo = p.wo(), sets = ceil_div(p.k, kTaps);
  const int64_t across = ceil_div(wo, kLine), tiles = across * ceil_div(ho, kRows);
  int64_t rest = blockIdx.x;
  const int64_t tile = rest % tiles;
  rest /= tiles;
  const int64_t v = rest % sets * kTaps, u = rest / sets % p.k, sample = rest / sets / p.k;
  const int64_t top = tile / across * kRows, left = tile % across * kLine;
  const int tx = static_cast<int>(threadIdx.x), ty = static_cast<int>(threadIdx.y);
  const int64_t i = top + ty, j = left + tx;
  const bool works = i < ho && j < wo;
  const int stride = static_cast<int>(p.stride), columns = stride * (kLine - 1) + kTaps;

  T sums[kTaps] = {};
  for (int64_t channel = 0; channel < p.c; ++channel) {
    const S* x = plane_of<S>(p.x, p.x_stride, sample, channel);
    __syncthreads();  // the last channel's tile is read to the end
    for (int t = ty * kLine + tx; t < kRows * columns; t += kThreads) {
      const int64_t row = stride * (top + t / columns) + u;
      shared[t] = padded_pixel<S>(p, x, row, stride * left + v + t % columns);
    }
    __syncthreads();
    if (!works) continue;
    const S* g = plane_of<S>(p.out, p.out_stride, sample, channel);
    const T slope = widen(g[i * p.out_stride[2] + j * p.out_stride[3]]);
    const T* under = shared + ty * columns + stride * tx;
#pragma unroll
    for (int t = 0; t < kTaps; ++t) sums[t] += slope * under[t];
  }
  if (!works) return;
  S* kernels = static_cast<S*>(p.kernels) + (((sample * p.k + u) * p.k + v) * ho + i) * wo + j;
#pragma unroll
  for (int t = 0; t < kTaps; ++t) {
    if (v + t < p.k) kernels[t * ho * wo] = Narrow<S>::from(sums[t]);
  }
}

// Calls f(C, passes): every pass but the last works on C channels, as many as fit into shared
// memory with `tile` numbers each.
template <class S, class F>
cudaError_t by_channels(const Params& p, int64_t tile, F&& f) {
  const int64_t fitting = kSharedBytes / static_cast<int64_t>(sizeof(Accumulator<S>)) / tile;
  const int64_t passes = ceil_div(p.c, fitting < kChannels ? fitting : kChannels);
  switch (ceil_div(p.c, passes)) {
    case 1:
      return f(std::integral_constant<int, 1>{}, passes);
    case 2:
      return f(std::integral_constant<int, 2>{}, passes);
    case 3:
      return f(std::integral_constant<int, 3>{}, passes);
    default:
      return f(std::integral_constant<int, kChannels>{}, passes);
  }
}

template <class S>
cudaError_t forward(const Params& p, cudaStream_t stream) {
  const int64_t tile = XTile(p).size(), tiles = Grid(p.ho(), p.wo()).tiles;
  return by_channels<S>(p, tile, [&](auto channels, int64_t passes) {
    const size_t bytes = sizeof(Accumulator<S>) * static_cast<size_t>(channels * tile);
    return launch(forward_kernel<S, channels>, p.n * tiles * passes, dim3(kLine, kRows), bytes,
                  stream, p, passes);
  });
}

template <class S>
cudaError_t grad_x(const Params& p, cudaStream_t stream) {
  const int64_t s = p.stride, reach = ceil_div(p.k, s) - 1;
  const int64_t tile = (kRows + reach) * (kWidth + reach);
  const int64_t tiles = Grid(ceil_div(p.padded_h(), s), ceil_div(p.padded_w(), s)).tiles * s * s;
  const cudaError_t status = by_channels<S>(p, tile, [&](auto channels, int64_t passes) {
    const size_t bytes = sizeof(Accumulator<S>) * static_cast<size_t>(channels * tile);
    return launch(grad_padded_kernel<S, channels>, p.n * tiles * passes, dim3(kLine, kRows), bytes,
                  stream, p, passes);
  });
  if (status != cudaSuccess) return status;
  const int64_t pixels = p.n * p.c * p.h * p.w;
  return launch(fold_kernel<S>, ceil_div(pixels, kFoldThreads), dim3(kFoldThreads), 0, stream, p);
}

template <class S>
cudaError_t grad_kernels(const Params& p, cudaStream_t stream) {
  const int64_t tiles = ceil_div(p.wo(), kLine) * ceil_div(p.ho(), kRows);
  const int64_t columns = p.stride * (kLine - 1) + kTaps;
  return launch(grad_kernels_kernel<S>, p.n * p.k * ceil_div(p.k, kTaps) * tiles,
                dim3(kLine, kRows), sizeof(Accumulator<S>) * static_cast<size_t>(kRows * columns),
                stream, p);
}

}  // namespace

int svconv_cuda(const Params& p, cudaStream_t stream) {
  if (!p.valid()) return cudaErrorInvalidValue;
  return dispatch(p.dtype,
                  [&](auto type) { return forward<typename decltype(type)::type>(p, stream); });
}

int svconv_grad_x_cuda(const Params& p, cudaStream_t stream) {
  if (!p.valid() || p.workspace == nullptr) return cudaErrorInvalidValue;
  return dispatch(p.dtype,
                  [&](auto type) { return grad_x<typename decltype(type)::type>(p, stream); });
}

int svconv_grad_kernels_cuda(const Params& p, cudaStream_t stream) {
  if (!p.valid()) return cudaErrorInvalidValue;
  return dispatch(p.dtype, [&](auto type) {
    return grad_kernels<typename decltype(type)::type>(p, stream);
  });
}

}  // namespace pysr
