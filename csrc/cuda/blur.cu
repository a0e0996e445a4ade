// blur on CUDA.
//
// Decimation is taken apart by phase: the taps whose rows and columns have the same remainders
// modulo the stride see the picture as an ordinary correlation of its every stride-th pixel. So one
// tile of shared memory, of a size that depends on k / stride alone, serves every stride, its reads
// are free of bank conflicts, and the gradients are the same loops over the same tiles. Threads
// keep a sliding window of pixels in registers: one load from shared memory feeds up to eight
// products.
//
// Nothing is summed with atomics: a sum has one order, so results repeat bit by bit.
#include "common/dtype.h"
#include "common/index.h"
#include "common/launch.h"
#include "ops/blur.h"

namespace pysr {
namespace {

using Params = BlurParams;

constexpr int kTile = static_cast<int>(blur_cuda_tile);
constexpr int kWarps = 4;
constexpr int kThreads = kTile * kWarps;
constexpr int kSumThreads = 256;  // of the kernels' gradient
constexpr int kTaps = 8;          // taps of one row that a thread sums there
constexpr int kFoldThreads = 256;
// The second number of __launch_bounds__, blocks per multiprocessor, is the most that leaves every
// kernel enough registers: left to itself, ptxas aims higher and spills.

// Output rows per thread, and of a block's tile: with doubles, the largest kernel's tile and taps
// still fit into the 99 KiB that every GPU grants.
template <class T>
constexpr int kRows = 32 / static_cast<int>(sizeof(T));
template <class T>
constexpr int kTileRows = kWarps * kRows<T>;

// Rows of shared memory are padded to an odd length, so that threads on different rows hit
// different banks.
PYSR_HD constexpr int pitch(int columns) { return columns | 1; }

// The taps of one phase: (rows, columns), every stride-th of the kernel from (row, column) on.
struct Phase {
  int row, column, rows, columns;
  PYSR_HD Phase(const Params& p, int index) {
    const int count = static_cast<int>(p.phases());
    row = index / count;
    column = index % count;
    rows = static_cast<int>(phase_count(p.k, row, p.stride));
    columns = static_cast<int>(phase_count(p.k, column, p.stride));
  }
};

template <class S>
__device__ const S* plane_of(const void* base, const int64_t (&stride)[4], int64_t plane,
                             const Params& p) {
  return static_cast<const S*>(base) + p.offset(stride, plane);
}

template <class T>
__device__ const T* kernel_of(int64_t plane, const Params& p) {
  return static_cast<const T*>(p.kernels) + p.kernel_of(plane) * p.k * p.k;
}

// What the padded picture shows.
template <class S>
__device__ Accumulator<S> shown_pixel(const S* x, int64_t row, int64_t column, const Params& p) {
  const int64_t y = p.row(row), at = p.column(column);
  return y < 0 || at < 0 ? 0 : widen(x[y * p.x_stride[2] + at * p.x_stride[3]]);
}

// sums[r] += correlation of `taps` (column by column) with the tile, for kRows<T> rows from `in`
// down.
template <class T>
__device__ void correlate(const T* in, int step, const T* taps, const Phase& phase,
                          T (&sums)[kRows<T>]) {
  constexpr int count = kRows<T>;
  for (int v = 0; v < phase.columns; ++v) {
    const T* column = in + v;
    T window[count];
#pragma unroll
    for (int r = 0; r < count - 1; ++r) window[r] = column[r * step];
    for (int u = 0; u < phase.rows; u += count) {
#pragma unroll
      for (int e = 0; e < count; ++e) {
        if (u + e < phase.rows) {
          window[(e + count - 1) % count] = column[(u + e + count - 1) * step];
          const T tap = taps[v * phase.rows + u + e];
#pragma unroll
          for (int r = 0; r < count; ++r) sums[r] += tap * window[(e + r) % count];
        }
      }
    }
  }
}

template <class S>
__global__ void __launch_bounds__(kThreads, 6) forward_kernel(Params p) {
  using T = Accumulator<S>;
  PYSR_DYNAMIC_SHARED(T, shared);
  const int64_t ho = p.ho(), wo = p.wo();
  const int64_t across = ceil_div(wo, kTile), tiles = across * ceil_div(ho, kTileRows<T>);
  const int64_t plane = blockIdx.x / tiles, tile = blockIdx.x % tiles;
  const int64_t top = tile / across * kTileRows<T>, left = tile % across * kTile;
  const S* x = plane_of<S>(p.x, p.x_stride, plane, p);
  const T* kernel = kernel_of<T>(plane, p);
  const int x0 = static_cast<int>(threadIdx.x), y0 = static_cast<int>(threadIdx.y);

  T sums[kRows<T>] = {};
  const int phases = static_cast<int>(p.phases());
  for (int index = 0; index < phases * phases; ++index) {
    const Phase phase(p, index);
    const int rows = kTileRows<T> + phase.rows - 1, columns = kTile + phase.columns - 1;
    const int step = pitch(columns);
    T* taps = shared + rows * step;
    __syncthreads();  // the last phase's tile is read to the end
    for (int r = y0; r < rows; r += kWarps) {
      const int64_t row = p.stride * (top + r) + phase.row;
      for (int q = x0; q < columns; q += kTile) {
        const int64_t column = p.stride * (left + q) + phase.column;
        shared[r * step + q] = shown_pixel(x, row, column, p);
      }
    }
    for (int t = y0 * kTile + x0; t < phase.rows * phase.columns; t += kThreads) {
      const int64_t u = p.stride * (t % phase.rows) + phase.row;
      const int64_t v = p.stride * (t / phase.rows) + phase.column;
      taps[t] = kernel[u * p.k + v];
    }
    __syncthreads();
    correlate(shared + y0 * kRows<T> * step + x0, step, taps, phase, sums);
  }
  S* out = static_cast<S*>(p.out) + plane * ho * wo;
#pragma unroll
  for (int r = 0; r < kRows<T>; ++r) {
    const int64_t i = top + y0 * kRows<T> + r, j = left + x0;
    if (i < ho && j < wo) out[i * wo + j] = Narrow<S>::from(sums[r]);
  }
}

// Tiles of one phase of the padded picture's gradient.
template <class T>
struct PaddedTiles {
  int64_t across, tiles;
  PYSR_HD explicit PaddedTiles(const Params& p)
      : across(ceil_div(ceil_div(p.padded_w(), p.stride), kTile)),
        tiles(across * ceil_div(ceil_div(p.padded_h(), p.stride), kTileRows<T>)) {}
};

// The gradient by the padded picture, into the workspace (n * c, padded_h, padded_w). Phase by
// phase it is a correlation of the zero-padded output gradient with the taps turned by 180 degrees.
template <class S>
__global__ void __launch_bounds__(kThreads, 6) grad_padded_kernel(Params p) {
  using T = Accumulator<S>;
  PYSR_DYNAMIC_SHARED(T, shared);
  const int64_t ho = p.ho(), wo = p.wo();
  const PaddedTiles<T> count(p);
  const int phases = static_cast<int>(p.phases());
  const int64_t tile = blockIdx.x % count.tiles, rest = blockIdx.x / count.tiles;
  const Phase phase(p, static_cast<int>(rest % (phases * phases)));
  const int64_t plane = rest / (phases * phases);
  const int64_t top = tile / count.across * kTileRows<T>, left = tile % count.across * kTile;
  const S* g = plane_of<S>(p.out, p.out_stride, plane, p);
  const T* kernel = kernel_of<T>(plane, p);
  const int x0 = static_cast<int>(threadIdx.x), y0 = static_cast<int>(threadIdx.y);

  const int rows = kTileRows<T> + phase.rows - 1, columns = kTile + phase.columns - 1;
  const int step = pitch(columns);
  T* taps = shared + rows * step;
  for (int r = y0; r < rows; r += kWarps) {
    const int64_t i = top + r - (phase.rows - 1);
    for (int q = x0; q < columns; q += kTile) {
      const int64_t j = left + q - (phase.columns - 1);
      const bool inside = i >= 0 && i < ho && j >= 0 && j < wo;
      shared[r * step + q] = inside ? widen(g[i * p.out_stride[2] + j * p.out_stride[3]]) : T(0);
    }
  }
  for (int t = y0 * kTile + x0; t < phase.rows * phase.columns; t += kThreads) {
    const int64_t u = p.stride * (phase.rows - 1 - t % phase.rows) + phase.row;
    const int64_t v = p.stride * (phase.columns - 1 - t / phase.rows) + phase.column;
    taps[t] = kernel[u * p.k + v];
  }
  __syncthreads();
  T sums[kRows<T>] = {};
  correlate(shared + y0 * kRows<T> * step + x0, step, taps, phase, sums);

  const int64_t padded_h = p.padded_h(), padded_w = p.padded_w();
  T* out = static_cast<T*>(p.workspace) + plane * padded_h * padded_w;
#pragma unroll
  for (int r = 0; r < kRows<T>; ++r) {
    const int64_t row = p.stride * (top + y0 * kRows<T> + r) + phase.row;
    const int64_t column = p.stride * (left + x0) + phase.column;
    if (row < padded_h && column < padded_w) out[row * padded_w + column] = sums[r];
  }
}

// A stride beyond the kernel size leaves rows and columns of the padded picture that no tap
// touches.
PYSR_HD inline bool touched(int64_t index, const Params& p) { return index % p.stride < p.k; }

// Each pixel gathers the padded pixels that showed it.
template <class S>
__global__ void __launch_bounds__(kFoldThreads, 4) fold_kernel(Params p) {
  using T = Accumulator<S>;
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kFoldThreads + threadIdx.x;
  if (index >= p.planes() * p.h * p.w) return;
  const int64_t plane = index / (p.h * p.w), y = index / p.w % p.h;
  const int64_t padded_w = p.padded_w();
  const T* padded = static_cast<const T*>(p.workspace) + plane * p.padded_h() * padded_w;
  const Preimages rows = p.rows_showing(y), columns = p.columns_showing(index % p.w);
  T sum = 0;
  for (int64_t r = rows.first; r < rows.end; r = rows.after(r)) {
    for (int64_t q = columns.first; q < columns.end; q = columns.after(q)) {
      if (touched(r, p) && touched(q, p)) sum += padded[r * padded_w + q];
    }
  }
  static_cast<S*>(p.x)[index] = Narrow<S>::from(sum);
}

// How a block of the kernels' gradient shares out one phase. A strip is kTaps taps of one tap row;
// a team of threads holds all strips of a set, and the teams split the rows of the tile among them.
struct Strips {
  int reach, per_row, in_set, sets, teams;
  PYSR_HD explicit Strips(const Params& p) {
    reach = static_cast<int>(ceil_div(p.k, p.stride));
    per_row = (reach + kTaps - 1) / kTaps;
    const int strips = reach * per_row;
    in_set = strips < kSumThreads ? strips : kSumThreads;
    sets = (strips + in_set - 1) / in_set;
    teams = kSumThreads / in_set;
    if (teams > kTile) teams = kTile;
  }
  PYSR_HD int columns() const { return kTile + per_row * kTaps - 1; }
  PYSR_HD int rows() const { return kTile + reach - 1; }
};

// Partial sums over the tiles of one part of a plane, into the workspace (n * c, parts, k, k).
template <class S>
__global__ void __launch_bounds__(kSumThreads, 2) tap_sums_kernel(Params p, int64_t parts) {
  using T = Accumulator<S>;
  PYSR_DYNAMIC_SHARED(T, shared);
  const Strips strips(p);
  const int phases = static_cast<int>(p.phases());
  int64_t rest = blockIdx.x;
  const int set = static_cast<int>(rest % strips.sets);
  rest /= strips.sets;
  const Phase phase(p, static_cast<int>(rest % (phases * phases)));
  rest /= phases * phases;
  const int64_t part = rest % parts, plane = rest / parts;

  const int thread = static_cast<int>(threadIdx.x);
  const int team = thread / strips.in_set, strip = set * strips.in_set + thread % strips.in_set;
  const int u = strip % strips.reach, v = strip / strips.reach * kTaps;
  const bool works = team < strips.teams && u < phase.rows && v < phase.columns;

  const S* x = plane_of<S>(p.x, p.x_stride, plane, p);
  const S* g = plane_of<S>(p.out, p.out_stride, plane, p);
  const int64_t ho = p.ho(), wo = p.wo(), padded_h = p.padded_h(), padded_w = p.padded_w();
  const int64_t across = ceil_div(wo, kTile), tiles = across * ceil_div(ho, kTile);
  const int step = pitch(strips.columns());
  T* slope = shared + strips.rows() * step;
  T sums[kTaps] = {};
  for (int64_t tile = part; tile < tiles; tile += parts) {
    const int64_t top = tile / across * kTile, left = tile % across * kTile;
    __syncthreads();  // the last tile is read to the end
    for (int t = thread; t < strips.rows() * strips.columns(); t += kSumThreads) {
      const int r = t / strips.columns(), q = t % strips.columns();
      const int64_t row = p.stride * (top + r) + phase.row;
      const int64_t column = p.stride * (left + q) + phase.column;
      T pixel = 0;
      if (row < padded_h && column < padded_w) {
        pixel = shown_pixel(x, row, column, p);
      }
      shared[r * step + q] = pixel;
    }
    for (int t = thread; t < kTile * kTile; t += kSumThreads) {
      const int64_t i = top + t / kTile, j = left + t % kTile;
      slope[t] =
          i < ho && j < wo ? widen(g[i * p.out_stride[2] + j * p.out_stride[3]]) : T(0);
    }
    __syncthreads();
    if (!works) continue;
    for (int i = team; i < kTile; i += strips.teams) {
      const T* row = shared + (i + u) * step + v;
      T window[kTaps];
#pragma unroll
      for (int t = 0; t < kTaps - 1; ++t) window[t] = row[t];
      for (int j = 0; j < kTile; j += kTaps) {
#pragma unroll
        for (int e = 0; e < kTaps; ++e) {
          window[(e + kTaps - 1) % kTaps] = row[j + e + kTaps - 1];
          const T factor = slope[i * kTile + j + e];
#pragma unroll
          for (int t = 0; t < kTaps; ++t) sums[t] += factor * window[(e + t) % kTaps];
        }
      }
    }
  }
  // The teams' sums are added in order by the first team; their place is free once the tile is
  // read.
  __syncthreads();
#pragma unroll
  for (int t = 0; t < kTaps; ++t) shared[t * kSumThreads + thread] = sums[t];
  __syncthreads();
  if (team > 0 || !works) return;
  T* out = static_cast<T*>(p.workspace) + (plane * parts + part) * p.k * p.k;
  for (int t = 0; t < kTaps && v + t < phase.columns; ++t) {
    T sum = 0;
    for (int other = 0; other < strips.teams; ++other) {
      sum += shared[t * kSumThreads + other * strips.in_set + thread];
    }
    out[(p.stride * u + phase.row) * p.k + p.stride * (v + t) + phase.column] = sum;
  }
}

template <class T>
__global__ void __launch_bounds__(kFoldThreads, 4) add_parts_kernel(Params p, int64_t parts) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kFoldThreads + threadIdx.x;
  const int64_t taps = p.k * p.k;
  if (index >= p.kernel_count() * taps) return;
  double sum = 0;
  for (int64_t sharer = 0; sharer < p.sharers(); ++sharer) {
    const int64_t plane = p.sharer(index / taps, sharer);
    const T* from = static_cast<const T*>(p.workspace) + plane * parts * taps + index % taps;
    for (int64_t part = 0; part < parts; ++part) sum += from[part * taps];
  }
  static_cast<T*>(p.kernels)[index] = static_cast<T>(sum);
}

// Shared memory of correlate's tile and taps, for the first phase, which is the largest.
template <class T>
size_t tile_bytes(const Params& p) {
  const Phase phase(p, 0);
  const int tile = (kTileRows<T> + phase.rows - 1) * pitch(kTile + phase.columns - 1);
  return sizeof(T) * static_cast<size_t>(tile + phase.rows * phase.columns);
}

template <class S>
cudaError_t forward(const Params& p, cudaStream_t stream) {
  using T = Accumulator<S>;
  const int64_t tiles = ceil_div(p.ho(), kTileRows<T>) * ceil_div(p.wo(), kTile);
  return launch(forward_kernel<S>, p.planes() * tiles, dim3(kTile, kWarps), tile_bytes<T>(p), stream,
                p);
}

template <class S>
cudaError_t grad_x(const Params& p, cudaStream_t stream) {
  using T = Accumulator<S>;
  const int64_t blocks = p.planes() * p.phases() * p.phases() * PaddedTiles<T>(p).tiles;
  const cudaError_t status = launch(grad_padded_kernel<S>, blocks, dim3(kTile, kWarps),
                                    tile_bytes<T>(p), stream, p);
  if (status != cudaSuccess) return status;
  const int64_t pixels = p.planes() * p.h * p.w;
  return launch(fold_kernel<S>, ceil_div(pixels, kFoldThreads), dim3(kFoldThreads), 0, stream, p);
}

template <class S>
cudaError_t grad_kernels(const Params& p, cudaStream_t stream) {
  const Strips strips(p);
  const int64_t parts = blur_parts(p);
  const int tile = strips.rows() * pitch(strips.columns()) + kTile * kTile;
  const int teams = kTaps * kSumThreads;
  const size_t bytes = sizeof(Accumulator<S>) * static_cast<size_t>(tile > teams ? tile : teams);
  const int64_t blocks = p.planes() * parts * p.phases() * p.phases() * strips.sets;
  const cudaError_t status =
      launch(tap_sums_kernel<S>, blocks, dim3(kSumThreads), bytes, stream, p, parts);
  if (status != cudaSuccess) return status;
  return launch(add_parts_kernel<Accumulator<S>>,
                ceil_div(p.kernel_count() * p.k * p.k, kFoldThreads), dim3(kFoldThreads), 0, stream,
                p, parts);
}

}  // namespace

int blur_cuda(const Params& p, cudaStream_t stream) {
  if (!p.valid()) return cudaErrorInvalidValue;
  return dispatch(p.dtype,
                  [&](auto type) { return forward<typename decltype(type)::type>(p, stream); });
}

int blur_grad_x_cuda(const Params& p, cudaStream_t stream) {
  if (!p.valid() || p.workspace == nullptr) return cudaErrorInvalidValue;
  return dispatch(p.dtype,
                  [&](auto type) { return grad_x<typename decltype(type)::type>(p, stream); });
}

int blur_grad_kernels_cuda(const Params& p, cudaStream_t stream) {
  if (!p.valid() || p.workspace == nullptr) return cudaErrorInvalidValue;
  return dispatch(p.dtype, [&](auto type) {
    return grad_kernels<typename decltype(type)::type>(p, stream);
  });
}

}  // namespace pysr
