// basis_svconv on CUDA.
//
// A thread keeps the coefficients of its output pixels in registers, builds their kernels tap by
// tap and uses each tap up at once. Only one tap row's pixels and bases are in shared memory at a
// time, so that the largest kernels and strides fit. The gradient by the picture is gathered, phase
// by phase: where rows and columns have the same remainders modulo the stride, windows are dense.
//
// Nothing is summed with atomics: a sum has one order, so results repeat bit by bit.
#include "common/dtype.h"
#include "common/index.h"
#include "common/launch.h"
#include "ops/basis_svconv.h"

namespace pysr {
namespace {

using Params = BasisSvconvParams;

constexpr int kColumns = 32;  // of a block's tile, one per thread of a warp
constexpr int kWarps = 8;
constexpr int kThreads = kColumns * kWarps;
constexpr int kPixels = 2;  // output rows of a thread
constexpr int kRows = kWarps * kPixels;
constexpr int kChannels = 3;  // worked on at once
constexpr int kMixed = 8;     // bases mixed at once by the gradient by x

constexpr int kSumRows = static_cast<int>(basis_svconv_cuda_rows);  // of the bases' gradient
constexpr int kSumThreads = kSumRows * kColumns;
static_assert(kColumns == basis_svconv_cuda_columns, "a warp spans a tile");
constexpr int kSumPitch = kSumThreads + 1;  // odd: neighbouring taps lie in different banks
constexpr int kSums = static_cast<int>(Params::max_bases * Params::max_size + kSumThreads - 1) /
                      kSumThreads;  // of a thread
constexpr int kFoldThreads = 256;
// The second number of __launch_bounds__, blocks per multiprocessor, is the most that leaves every
// kernel enough registers: left to itself, ptxas aims higher and spills.

PYSR_HD inline int staged_columns(const Params& p) {
  return static_cast<int>(p.stride * (kColumns - 1) + p.k);
}

// A tile of output pixels of one sample.
struct Tile {
  int64_t n, top, left;
  PYSR_HD Tile(const Params& p, int64_t index, int rows) {
    const int64_t across = ceil_div(p.wo(), kColumns), down = ceil_div(p.ho(), rows);
    n = index / (across * down);
    top = index / across % down * rows;
    left = index % across * kColumns;
  }
};

template <class S>
__device__ const S* plane_of(const void* base, const int64_t (&stride)[4], int64_t n, int64_t c) {
  return static_cast<const S*>(base) + n * stride[0] + c * stride[1];
}

// The pixels under tap row u of a tile's windows, as (kChannels, rows, staged_columns), from
// channel c on.
template <class S, class T>
__device__ void stage_pixels(const Params& p, const Tile& tile, int rows, int64_t c, int u,
                             T* pixels, int thread, int threads) {
  const int columns = staged_columns(p);
  for (int t = thread; t < kChannels * rows * columns; t += threads) {
    const int q = t % columns, r = t / columns % rows, e = t / columns / rows;
    const int64_t y = p.row(p.stride * (tile.top + r) + u);
    const int64_t x = p.column(p.stride * tile.left + q);
    T pixel = 0;
    if (c + e < p.c && y >= 0 && x >= 0) {
      pixel = widen(plane_of<S>(p.x, p.x_stride, tile.n, c + e)[y * p.x_stride[2] +
                                                                x * p.x_stride[3]]);
    }
    pixels[t] = pixel;
  }
}

// Tap row u of the bases as (k, M), zeros from p.m on.
template <class S, class T, int M>
__device__ void stage_taps(const Params& p, int u, T* taps, int thread, int threads) {
  const S* bases = static_cast<const S*>(p.bases);
  for (int t = thread; t < p.k * M; t += threads) {
    const int m = t % M, v = t / M;
    taps[t] = m < p.m ? widen(bases[(m * p.k + u) * p.k + v]) : T(0);
  }
}

// Number i, j of a plane of out, or zero beyond it.
template <class S>
__device__ Accumulator<S> slope_at(const Params& p, int64_t n, int64_t c, int64_t i, int64_t j) {
  if (c >= p.c || i < 0 || i >= p.ho() || j < 0 || j >= p.wo()) return 0;
  return widen(
      plane_of<S>(p.out, p.out_stride, n, c)[i * p.out_stride[2] + j * p.out_stride[3]]);
}

PYSR_HD inline int64_t coefficient_index(const Params& p, int64_t n, int64_t m, int64_t i,
                                         int64_t j) {
  return ((n * p.m + m) * p.ho() + i) * p.wo() + j;
}

template <class S>
__device__ Accumulator<S> coefficient_at(const Params& p, int64_t n, int64_t m, int64_t i,
                                         int64_t j) {
  if (m >= p.m || i < 0 || i >= p.ho() || j < 0 || j >= p.wo()) return 0;
  return widen(static_cast<const S*>(p.coefficients)[coefficient_index(p, n, m, i, j)]);
}

// M: the most bases.
template <class S, int M>
__global__ void __launch_bounds__(kThreads, 1) forward_kernel(Params p) {
  using T = Accumulator<S>;
  PYSR_DYNAMIC_SHARED(T, shared);
  const Tile tile(p, blockIdx.x, kRows);
  const int x0 = static_cast<int>(threadIdx.x), y0 = static_cast<int>(threadIdx.y);
  const int thread = y0 * kColumns + x0, columns = staged_columns(p);
  T* const taps = shared;
  T* const pixels = taps + p.k * M;
  const int64_t j = tile.left + x0;

  T coefficients[kPixels][M];
#pragma unroll
  for (int r = 0; r < kPixels; ++r) {
#pragma unroll
    for (int m = 0; m < M; ++m) {
      coefficients[r][m] = coefficient_at<S>(p, tile.n, m, tile.top + y0 + r * kWarps, j);
    }
  }
  for (int64_t c = 0; c < p.c; c += kChannels) {
    T sums[kPixels][kChannels] = {};
    for (int u = 0; u < p.k; ++u) {
      __syncthreads();  // the last tap row is read to the end
      stage_taps<S, T, M>(p, u, taps, thread, kThreads);
      stage_pixels<S>(p, tile, kRows, c, u, pixels, thread, kThreads);
      __syncthreads();
      for (int v = 0; v < p.k; ++v) {
        T kernel[kPixels] = {};
#pragma unroll
        for (int m = 0; m < M; ++m) {
          const T tap = taps[v * M + m];
#pragma unroll
          for (int r = 0; r < kPixels; ++r) kernel[r] += coefficients[r][m] * tap;
        }
        const T* pixel = pixels + y0 * columns + p.stride * x0 + v;
#pragma unroll
        for (int r = 0; r < kPixels; ++r) {
#pragma unroll
          for (int e = 0; e < kChannels; ++e) {
            sums[r][e] += kernel[r] * pixel[(e * kRows + r * kWarps) * columns];
          }
        }
      }
    }
#pragma unroll
    for (int r = 0; r < kPixels; ++r) {
      const int64_t i = tile.top + y0 + r * kWarps;
#pragma unroll
      for (int e = 0; e < kChannels; ++e) {
        if (c + e < p.c && i < p.ho() && j < p.wo()) {
          static_cast<S*>(p.out)[((tile.n * p.c + c + e) * p.ho() + i) * p.wo() + j] =
              Narrow<S>::from(sums[r][e]);
        }
      }
    }
  }
}

template <class S, int M>
__global__ void __launch_bounds__(kThreads, 1) grad_coefficients_kernel(Params p) {
  using T = Accumulator<S>;
  PYSR_DYNAMIC_SHARED(T, shared);
  const Tile tile(p, blockIdx.x, kRows);
  const int x0 = static_cast<int>(threadIdx.x), y0 = static_cast<int>(threadIdx.y);
  const int thread = y0 * kColumns + x0, columns = staged_columns(p);
  T* const taps = shared;
  T* const pixels = taps + p.k * M;
  const int64_t j = tile.left + x0;

  T sums[kPixels][M] = {};
  for (int64_t c = 0; c < p.c; c += kChannels) {
    T slopes[kPixels][kChannels];
#pragma unroll
    for (int r = 0; r < kPixels; ++r) {
#pragma unroll
      for (int e = 0; e < kChannels; ++e) {
        slopes[r][e] = slope_at<S>(p, tile.n, c + e, tile.top + y0 + r * kWarps, j);
      }
    }
    for (int u = 0; u < p.k; ++u) {
      __syncthreads();  // the last tap row is read to the end
      stage_taps<S, T, M>(p, u, taps, thread, kThreads);
      stage_pixels<S>(p, tile, kRows, c, u, pixels, thread, kThreads);
      __syncthreads();
      for (int v = 0; v < p.k; ++v) {
        T kernel_slope[kPixels] = {};
        const T* pixel = pixels + y0 * columns + p.stride * x0 + v;
#pragma unroll
        for (int r = 0; r < kPixels; ++r) {
#pragma unroll
          for (int e = 0; e < kChannels; ++e) {
            kernel_slope[r] += slopes[r][e] * pixel[(e * kRows + r * kWarps) * columns];
          }
        }
#pragma unroll
        for (int m = 0; m < M; ++m) {
          const T tap = taps[v * M + m];
#pragma unroll
          for (int r = 0; r < kPixels; ++r) sums[r][m] += kernel_slope[r] * tap;
        }
      }
    }
  }
#pragma unroll
  for (int r = 0; r < kPixels; ++r) {
    const int64_t i = tile.top + y0 + r * kWarps;
#pragma unroll
    for (int m = 0; m < M; ++m) {
      if (m < p.m && i < p.ho() && j < p.wo()) {
        static_cast<S*>(p.coefficients)[coefficient_index(p, tile.n, m, i, j)] =
            Narrow<S>::from(sums[r][m]);
      }
    }
  }
}

// Tap row u of the bases' gradient, over the tiles of one part, into the workspace (parts, m, k,
// k). Each thread first takes its pixel's part in the gradient by the kernels, then sums products
// with the coefficients over all pixels for its share of taps and bases.
template <class S>
__global__ void __launch_bounds__(kSumThreads, 4) grad_bases_kernel(Params p, int64_t parts) {
  using T = Accumulator<S>;
  PYSR_DYNAMIC_SHARED(T, shared);
  const int u = static_cast<int>(blockIdx.x % p.k), k = static_cast<int>(p.k);
  const int64_t part = blockIdx.x / p.k, pieces = basis_svconv_cuda_pieces(p);
  const int thread = static_cast<int>(threadIdx.x), columns = staged_columns(p);
  const int x0 = thread % kColumns, y0 = thread / kColumns;
  T* const slopes = shared;  // of the kernels, (k, pixels)
  T* const coefficients = slopes + k * kSumPitch;  // (m, pixels)
  T* const pixels = coefficients + p.m * kSumPitch;

  T sums[kSums] = {};
  for (int64_t piece = part * pieces / parts; piece < (part + 1) * pieces / parts; ++piece) {
    const Tile tile(p, piece, kSumRows);
    const int64_t i = tile.top + y0, j = tile.left + x0;
    __syncthreads();  // the last tile is read to the end
    for (int v = 0; v < k; ++v) slopes[v * kSumPitch + thread] = 0;
    for (int m = 0; m < p.m; ++m) {
      coefficients[m * kSumPitch + thread] = coefficient_at<S>(p, tile.n, m, i, j);
    }
    for (int64_t c = 0; c < p.c; c += kChannels) {
      __syncthreads();  // the last channels are read to the end
      stage_pixels<S>(p, tile, kSumRows, c, u, pixels, thread, kSumThreads);
      __syncthreads();
      T slope[kChannels];
#pragma unroll
      for (int e = 0; e < kChannels; ++e) slope[e] = slope_at<S>(p, tile.n, c + e, i, j);
      for (int v = 0; v < k; ++v) {
        const T* pixel = pixels + y0 * columns + p.stride * x0 + v;
        T sum = 0;
#pragma unroll
        for (int e = 0; e < kChannels; ++e) sum += slope[e] * pixel[e * kSumRows * columns];
        slopes[v * kSumPitch + thread] += sum;
      }
    }
    __syncthreads();
#pragma unroll
    for (int t = 0; t < kSums; ++t) {
      const int own = t * kSumThreads + thread;
      if (own >= p.m * k) break;
      const T* slope = slopes + own % k * kSumPitch;
      const T* coefficient = coefficients + own / k * kSumPitch;
      T sum = 0;
      for (int pixel = 0; pixel < kSumThreads; ++pixel) sum += slope[pixel] * coefficient[pixel];
      sums[t] += sum;
    }
  }
  T* out = static_cast<T*>(p.workspace) + part * p.m * k * k;
#pragma unroll
  for (int t = 0; t < kSums; ++t) {
    const int own = t * kSumThreads + thread;
    if (own < p.m * k) out[(own / k * k + u) * k + own % k] = sums[t];
  }
}

template <class S>
__global__ void __launch_bounds__(kFoldThreads, 2) add_parts_kernel(Params p, int64_t parts) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kFoldThreads + threadIdx.x;
  const int64_t taps = p.m * p.k * p.k;
  if (index >= taps) return;
  const auto* from = static_cast<const Accumulator<S>*>(p.workspace);
  double sum = 0;
  for (int64_t part = 0; part < parts; ++part) sum += from[part * taps + index];
  static_cast<S*>(p.bases)[index] = Narrow<S>::from(static_cast<Accumulator<S>>(sum));
}

// A tile of one phase of the padded picture: rows stride * a + row and columns stride * b + column.
struct PaddedTile {
  int64_t n, top, left;  // in a and b
  int row, column;
  PYSR_HD static int64_t across(const Params& p) {
    return ceil_div(ceil_div(p.padded_w(), p.stride), kColumns);
  }
  PYSR_HD static int64_t down(const Params& p) {
    return ceil_div(ceil_div(p.padded_h(), p.stride), kWarps);
  }
  PYSR_HD PaddedTile(const Params& p, int64_t index) {
    const int64_t phases = p.phases();
    left = index % across(p) * kColumns, index /= across(p);
    top = index % down(p) * kWarps, index /= down(p);
    column = static_cast<int>(index % phases), index /= phases;
    row = static_cast<int>(index % phases), n = index / phases;
  }
};

// The gradient by the padded picture, into the workspace (n, c, padded_h, padded_w): a pixel
// gathers from the outputs whose windows hold it, kMixed bases at a time.
template <class S>
__global__ void __launch_bounds__(kThreads, 1) grad_padded_kernel(Params p) {
  using T = Accumulator<S>;
  PYSR_DYNAMIC_SHARED(T, shared);
  const PaddedTile tile(p, blockIdx.x);
  const int tap_rows = static_cast<int>(phase_count(p.k, tile.row, p.stride));
  const int tap_columns = static_cast<int>(phase_count(p.k, tile.column, p.stride));
  const int x0 = static_cast<int>(threadIdx.x), y0 = static_cast<int>(threadIdx.y);
  const int thread = y0 * kColumns + x0, columns = kColumns + tap_columns - 1;
  const int plane = kWarps * columns;
  T* const taps = shared;  // (tap_columns, kMixed)
  T* const coefficients = taps + tap_columns * kMixed;
  T* const slopes = coefficients + kMixed * plane;
  const S* bases = static_cast<const S*>(p.bases);
  const int64_t row = p.stride * (tile.top + y0) + tile.row;
  const int64_t column = p.stride * (tile.left + x0) + tile.column;

  for (int64_t c = 0; c < p.c; c += kChannels) {
    T sums[kChannels] = {};
    for (int64_t m = 0; m < p.m; m += kMixed) {
      for (int du = 0; du < tap_rows; ++du) {
        __syncthreads();  // the last tap row is read to the end
        for (int t = thread; t < tap_columns * kMixed; t += kThreads) {
          const int64_t basis = m + t % kMixed, u = p.stride * du + tile.row;
          const int64_t v = p.stride * (t / kMixed) + tile.column;
          taps[t] = basis < p.m ? widen(bases[(basis * p.k + u) * p.k + v]) : T(0);
        }
        for (int t = thread; t < plane; t += kThreads) {
          const int64_t i = tile.top + t / columns - du;
          const int64_t j = tile.left + t % columns - (tap_columns - 1);
          for (int e = 0; e < kMixed; ++e) {
            coefficients[e * plane + t] = coefficient_at<S>(p, tile.n, m + e, i, j);
          }
          for (int e = 0; e < kChannels; ++e) {
            slopes[e * plane + t] = slope_at<S>(p, tile.n, c + e, i, j);
          }
        }
        __syncthreads();
        for (int dv = 0; dv < tap_columns; ++dv) {
          const int at = y0 * columns + x0 + tap_columns - 1 - dv;
          T kernel = 0;
#pragma unroll
          for (int e = 0; e < kMixed; ++e) {
            kernel += coefficients[e * plane + at] * taps[dv * kMixed + e];
          }
#pragma unroll
          for (int e = 0; e < kChannels; ++e) sums[e] += kernel * slopes[e * plane + at];
        }
      }
    }
    if (row >= p.padded_h() || column >= p.padded_w()) continue;
#pragma unroll
    for (int e = 0; e < kChannels; ++e) {
      if (c + e < p.c) {
        static_cast<T*>(p.workspace)[((tile.n * p.c + c + e) * p.padded_h() + row) * p.padded_w() +
                                     column] = sums[e];
      }
    }
  }
}

// Calls f for the padded indices that show pixel y of a row of `length`, in ascending order but for
// those that a stride beyond the kernel size leaves untouched.
template <class F>
__device__ void for_showing(const Params& p, int64_t y, int64_t length, int64_t padded, F&& f) {
  const int64_t margin = p.margin();
  const auto visit = [&](int64_t r) {
    if (r % p.stride < p.k && shown(r - margin, length, p.padding) == y) f(r);
  };
  const int64_t left = margin < padded ? margin : padded;
  for (int64_t r = 0; r < left; ++r) visit(r);
  if (y + margin < padded) visit(y + margin);
  for (int64_t r = margin + length; r < padded; ++r) visit(r);
}

// Each pixel gathers the padded pixels that show it.
template <class S>
__global__ void __launch_bounds__(kFoldThreads, 2) fold_kernel(Params p) {
  using T = Accumulator<S>;
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kFoldThreads + threadIdx.x;
  if (index >= p.n * p.c * p.h * p.w) return;
  const int64_t plane = index / (p.h * p.w), y = index / p.w % p.h, x = index % p.w;
  const int64_t padded_h = p.padded_h(), padded_w = p.padded_w();
  const T* padded = static_cast<const T*>(p.workspace) + plane * padded_h * padded_w;
  T sum = 0;
  for_showing(p, y, p.h, padded_h, [&](int64_t r) {
    for_showing(p, x, p.w, padded_w, [&](int64_t q) { sum += padded[r * padded_w + q]; });
  });
  static_cast<S*>(p.x)[index] = Narrow<S>::from(sum);
}

// Calls f(Size<M>{}) with the M that p's bases fit into.
template <int N>
struct Size {
  static constexpr int value = N;
};
template <class F>
cudaError_t with_bases(const Params& p, F&& f) {
  if (p.m <= 8) return f(Size<8>{});
  return f(Size<static_cast<int>(Params::max_bases)>{});
}

template <class S>
size_t staged_bytes(const Params& p, int most_bases) {
  const int64_t count = p.k * most_bases + kChannels * kRows * staged_columns(p);
  return sizeof(Accumulator<S>) * static_cast<size_t>(count);
}

int64_t tile_count(const Params& p) {
  return p.n * ceil_div(p.ho(), kRows) * ceil_div(p.wo(), kColumns);
}

template <class S>
cudaError_t forward(const Params& p, cudaStream_t stream) {
  return with_bases(p, [&](auto most) {
    constexpr int M = decltype(most)::value;
    return launch(forward_kernel<S, M>, tile_count(p), dim3(kColumns, kWarps),
                  staged_bytes<S>(p, M), stream, p);
  });
}

template <class S>
cudaError_t grad_coefficients(const Params& p, cudaStream_t stream) {
  return with_bases(p, [&](auto most) {
    constexpr int M = decltype(most)::value;
    return launch(grad_coefficients_kernel<S, M>, tile_count(p), dim3(kColumns, kWarps),
                  staged_bytes<S>(p, M), stream, p);
  });
}

template <class S>
cudaError_t grad_x(const Params& p, cudaStream_t stream) {
  const int64_t reach = ceil_div(p.k, p.stride);
  const int64_t count =
      reach * kMixed + (kMixed + kChannels) * kWarps * (kColumns + reach - 1);
  const int64_t tiles = PaddedTile::down(p) * PaddedTile::across(p);
  const int64_t blocks = p.n * p.phases() * p.phases() * tiles;
  const cudaError_t status =
      launch(grad_padded_kernel<S>, blocks, dim3(kColumns, kWarps),
             sizeof(Accumulator<S>) * static_cast<size_t>(count), stream, p);
  if (status != cudaSuccess) return status;
  return launch(fold_kernel<S>, ceil_div(p.n * p.c * p.h * p.w, kFoldThreads), dim3(kFoldThreads),
                0, stream, p);
}

template <class S>
cudaError_t grad_bases(const Params& p, cudaStream_t stream) {
  const int64_t parts = basis_svconv_parts(basis_svconv_cuda_pieces(p));
  const int64_t count = (p.k + p.m) * kSumPitch + kChannels * kSumRows * staged_columns(p);
  const cudaError_t status =
      launch(grad_bases_kernel<S>, parts * p.k, dim3(kSumThreads),
             sizeof(Accumulator<S>) * static_cast<size_t>(count), stream, p, parts);
  if (status != cudaSuccess) return status;
  return launch(add_parts_kernel<S>, ceil_div(p.m * p.k * p.k, kFoldThreads), dim3(kFoldThreads),
                0, stream, p, parts);
}

}  // namespace

int basis_svconv_cuda(const Params& p, cudaStream_t stream) {
  if (!p.valid()) return cudaErrorInvalidValue;
  return dispatch(p.dtype,
                  [&](auto type) { return forward<typename decltype(type)::type>(p, stream); });
}

int basis_svconv_grad_x_cuda(const Params& p, cudaStream_t stream) {
  if (!p.valid() || p.workspace == nullptr) return cudaErrorInvalidValue;
  return dispatch(p.dtype,
                  [&](auto type) { return grad_x<typename decltype(type)::type>(p, stream); });
}

int basis_svconv_grad_coefficients_cuda(const Params& p, cudaStream_t stream) {
  if (!p.valid()) return cudaErrorInvalidValue;
  return dispatch(p.dtype, [&](auto type) {
    return grad_coefficients<typename decltype(type)::type>(p, stream);
  });
}

int basis_svconv_grad_bases_cuda(const Params& p, cudaStream_t stream) {
  if (!p.valid() || p.workspace == nullptr) return cudaErrorInvalidValue;
  return dispatch(p.dtype,
                  [&](auto type) { return grad_bases<typename decltype(type)::type>(p, stream); });
}

}  // namespace pysr
