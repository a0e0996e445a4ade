// conditional_residual_block on CUDA: direct convolutions from shared memory, summed in float.
//
// A thread keeps four rows of a column of pixels by eight output channels in registers, so that 18
// pixels and 72 weights read from shared memory feed 288 products. The condition enters the first
// convolution as a bias, from a table of the nine border cases. r is kept until its means are
// known; nothing is summed with atomics, so results repeat bit by bit.
#include <cmath>

#include "common/dtype.h"
#include "common/index.h"
#include "common/launch.h"
#include "ops/conditional_residual_block.h"

namespace pysr {
namespace {

using Params = ConditionalResidualBlockParams;
using Workspace = ConditionalResidualBlockWorkspace;

constexpr int kColumns = 32;  // of a block's tile, one a lane
constexpr int kRows = 4;      // of a thread
constexpr int kStrips = 2;    // of kRows rows make a tile
constexpr int kTileRows = kRows * kStrips;
constexpr int kOutputs = 8;  // channels of a thread
constexpr int kGroups = 4;   // of kOutputs channels make a block
constexpr int kBlockOutputs = kOutputs * kGroups;
constexpr int kWarps = kStrips * kGroups;
constexpr int kThreads = kColumns * kWarps;
constexpr int kDepth = 8;  // input channels in shared memory at once
constexpr int kPitch = kColumns + 2;
constexpr int kPlane = (kTileRows + 2) * kPitch;
// Weights lie as [input channel][tap][output channel], padded so that writing them, tap by tap,
// meets different banks.
constexpr int kWeightPitch = kBlockOutputs + 4;
constexpr float kSlope = 0.2f;

template <class S>
PYSR_HD float at(const void* tensor, int64_t index) {
  return widen(static_cast<const S*>(tensor)[index]);
}

__device__ float leaky(float value) { return value > 0 ? value : kSlope * value; }

// First, inner and last of `length` rows or columns; of fewer than three, those there are.
__device__ int border_case(int64_t index, int64_t length) {
  if (index == 0) return 0;
  return index < length - 1 || length < 3 ? 1 : 2;
}

// conv1's bias and the condition's share, one thread per image, case and hidden channel.
template <class S>
__global__ void __launch_bounds__(kThreads, 2) cases_kernel(Params p, Workspace place) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t hidden = p.hidden();
  if (index >= p.n * 9 * hidden) return;
  const int64_t o = index % hidden, n = index / hidden / 9;
  const int i = static_cast<int>(index / hidden % 9 / 3);
  const int j = static_cast<int>(index / hidden % 3);
  const int rows = static_cast<int>(p.h < 3 ? p.h : 3);
  const int columns = static_cast<int>(p.w < 3 ? p.w : 3);
  float sum = at<S>(p.conv1_bias, o);
  for (int64_t e = 0; e < p.d; ++e) {
    const int64_t weight = (o * hidden + p.c + e) * 9;
    float taps = 0;
    for (int u = 0; u < 3; ++u) {
      for (int v = 0; v < 3; ++v) {
        const int y = i + u - 1, x = j + v - 1;
        const bool inside = y >= 0 && y < rows && x >= 0 && x < columns;
        if (inside) taps += at<S>(p.conv1_weight, weight + u * 3 + v);
      }
    }
    sum += taps * at<S>(p.cond, n * p.d + e);
  }
  static_cast<float*>(p.workspace)[place.cases + index] = sum;
}

// The first convolution, f to hidden, or the second one, hidden to r.
template <class S, bool First>
__global__ void __launch_bounds__(kThreads, 2) convolve_kernel(Params p, Workspace place) {
  PYSR_DYNAMIC_SHARED(float, shared);
  float* const weights = shared + kDepth * kPlane;
  float* const workspace = static_cast<float*>(p.workspace);
  const int64_t hidden = p.hidden();
  const int64_t inputs = First ? p.c : hidden, outputs = First ? hidden : p.c;
  const int64_t across = ceil_div(p.w, kColumns), tiles = across * ceil_div(p.h, kTileRows);
  const int64_t chunks = ceil_div(outputs, kBlockOutputs);
  const int64_t tile = blockIdx.x % tiles;
  const int64_t chunk = blockIdx.x / tiles % chunks, n = blockIdx.x / tiles / chunks;
  const int64_t top = tile / across * kTileRows, left = tile % across * kColumns;
  const int lane = static_cast<int>(threadIdx.x), warp = static_cast<int>(threadIdx.y);
  const int thread = warp * kColumns + lane;
  const int strip = warp % kStrips * kRows, group = warp / kStrips * kOutputs;
  const S* const f = static_cast<const S*>(p.f) + n * p.f_stride[0];
  const float* const features = workspace + place.hidden + n * hidden * p.h * p.w;
  const S* const weight = static_cast<const S*>(First ? p.conv1_weight : p.conv2_weight);

  float sums[kRows][kOutputs] = {};
  for (int64_t first = 0; first < inputs; first += kDepth) {
    const int depth = static_cast<int>(inputs - first < kDepth ? inputs - first : kDepth);
    __syncthreads();  // the last channels are read to the end
    for (int t = thread; t < depth * kPlane; t += kThreads) {
      const int64_t c = first + t / kPlane;
      const int64_t y = top + t % kPlane / kPitch - 1, x = left + t % kPitch - 1;
      float value = 0;
      if (y >= 0 && y < p.h && x >= 0 && x < p.w) {
        value = First ? widen(f[c * p.f_stride[1] + y * p.f_stride[2] + x * p.f_stride[3]])
                      : features[(c * p.h + y) * p.w + x];
      }
      shared[t] = value;
    }
    for (int t = thread; t < depth * 9 * kBlockOutputs; t += kThreads) {
      const int k = t % (depth * 9), o = t / (depth * 9);
      const int64_t output = chunk * kBlockOutputs + o;
      weights[k * kWeightPitch + o] =
          output < outputs ? widen(weight[(output * hidden + first) * 9 + k]) : 0;
    }
    __syncthreads();
    for (int c = 0; c < depth; ++c) {
      const float* const plane = shared + c * kPlane + strip * kPitch + lane;
#pragma unroll
      for (int v = 0; v < 3; ++v) {
        float pixels[kRows + 2];
#pragma unroll
        for (int i = 0; i < kRows + 2; ++i) pixels[i] = plane[i * kPitch + v];
#pragma unroll
        for (int u = 0; u < 3; ++u) {
          const float* const taps = weights + (c * 9 + u * 3 + v) * kWeightPitch + group;
#pragma unroll
          for (int o = 0; o < kOutputs; ++o) {
#pragma unroll
            for (int i = 0; i < kRows; ++i) sums[i][o] += pixels[i + u] * taps[o];
          }
        }
      }
    }
  }
  const int64_t x = left + lane;
  if (x >= p.w) return;
#pragma unroll
  for (int o = 0; o < kOutputs; ++o) {
    const int64_t output = chunk * kBlockOutputs + group + o;
    if (output >= outputs) return;
    float* const out =
        workspace + (First ? place.hidden : place.r) + (n * outputs + output) * p.h * p.w + x;
    const float* const cases = workspace + place.cases + n * 9 * hidden + output;
    const float bias = First ? 0 : at<S>(p.conv2_bias, output);
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      const int64_t y = top + strip + i;
      if (y >= p.h) continue;
      const int border = border_case(y, p.h) * 3 + border_case(x, p.w);
      out[y * p.w] = First ? leaky(sums[i][o] + cases[border * hidden]) : sums[i][o] + bias;
    }
  }
}

// Sums of r, one block per channel and part.
__global__ void __launch_bounds__(kThreads, 2) sums_kernel(Params p, Workspace place) {
  PYSR_DYNAMIC_SHARED(float, shared);
  const int64_t part = blockIdx.x % place.parts, plane = blockIdx.x / place.parts;
  const int64_t pixels = p.h * p.w;
  float* const workspace = static_cast<float*>(p.workspace);
  const float* const r = workspace + place.r + plane * pixels;
  const int thread = static_cast<int>(threadIdx.x);
  float sum = 0;
  for (int64_t t = part * kThreads + thread; t < pixels; t += place.parts * kThreads) sum += r[t];
  shared[thread] = sum;
  for (int half = kThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (thread < half) shared[thread] += shared[thread + half];
  }
  if (thread == 0) workspace[place.sums + blockIdx.x] = shared[0];
}

// Channel attention, one block per image; a gate that is given is only widened.
template <class S>
__global__ void __launch_bounds__(kThreads, 2) gates_kernel(Params p, Workspace place) {
  PYSR_DYNAMIC_SHARED(float, means);
  float* const reduced = means + p.c;
  const int64_t n = blockIdx.x, thread = threadIdx.x;
  float* const gates = static_cast<float*>(p.workspace) + place.gates + n * p.c;
  if (p.gate != nullptr) {
    for (int64_t c = thread; c < p.c; c += kThreads) gates[c] = at<S>(p.gate, n * p.c + c);
    return;
  }
  const float* const sums = static_cast<float*>(p.workspace) + place.sums + n * p.c * place.parts;
  for (int64_t c = thread; c < p.c; c += kThreads) {
    double sum = 0;
    for (int64_t part = 0; part < place.parts; ++part) sum += sums[c * place.parts + part];
    means[c] = static_cast<float>(sum / static_cast<double>(p.h * p.w));
  }
  __syncthreads();
  for (int64_t o = thread; o < p.r; o += kThreads) {
    float sum = at<S>(p.reduce_bias, o);
    for (int64_t c = 0; c < p.c; ++c) sum += at<S>(p.reduce_weight, o * p.c + c) * means[c];
    reduced[o] = leaky(sum);
  }
  __syncthreads();
  for (int64_t c = thread; c < p.c; c += kThreads) {
    float sum = at<S>(p.expand_bias, c);
    for (int64_t o = 0; o < p.r; ++o) sum += at<S>(p.expand_weight, c * p.r + o) * reduced[o];
    gates[c] = 1 / (1 + expf(-sum));
  }
}

template <class S>
__global__ void __launch_bounds__(kThreads, 2) residual_kernel(Params p, Workspace place) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t pixels = p.h * p.w, plane = index / pixels;
  if (plane >= p.n * p.c) return;
  const int64_t n = plane / p.c, c = plane % p.c, y = index % pixels / p.w, x = index % p.w;
  const float* const workspace = static_cast<const float*>(p.workspace);
  const float change = workspace[place.gates + plane] * workspace[place.r + index];
  const auto offset = [=](const int64_t(&stride)[4]) {
    return n * stride[0] + c * stride[1] + y * stride[2] + x * stride[3];
  };
  static_cast<S*>(p.out)[offset(p.out_stride)] =
      Narrow<S>::from(at<S>(p.f, offset(p.f_stride)) + change);
}

template <class S>
cudaError_t run(const Params& p, cudaStream_t stream) {
  const Workspace place(p);
  const dim3 line(kThreads), warps(kColumns, kWarps);
  const size_t tile = sizeof(float) * (kDepth * kPlane + kDepth * 9 * kWeightPitch);
  const int64_t tiles = p.n * ceil_div(p.w, kColumns) * ceil_div(p.h, kTileRows);
  const auto chunks = [](int64_t outputs) { return ceil_div(outputs, kBlockOutputs); };

  cudaError_t status = launch(cases_kernel<S>, ceil_div(p.n * 9 * p.hidden(), kThreads), line, 0,
                              stream, p, place);
  if (status != cudaSuccess) return status;
  status = launch(convolve_kernel<S, true>, tiles * chunks(p.hidden()), warps, tile, stream, p,
                  place);
  if (status != cudaSuccess) return status;
  status = launch(convolve_kernel<S, false>, tiles * chunks(p.c), warps, tile, stream, p, place);
  if (status != cudaSuccess) return status;
  if (p.gate == nullptr) {
    status = launch(sums_kernel, p.n * p.c * place.parts, line, sizeof(float) * kThreads, stream, p,
                    place);
    if (status != cudaSuccess) return status;
  }
  const size_t widths = sizeof(float) * static_cast<size_t>(p.c + p.r);
  status = launch(gates_kernel<S>, p.n, line, widths, stream, p, place);
  if (status != cudaSuccess) return status;
  return launch(residual_kernel<S>, ceil_div(p.n * p.c * p.h * p.w, kThreads), line, 0, stream, p,
                place);
}

}  // namespace

int conditional_residual_block_cuda(const Params& p, cudaStream_t stream) {
  if (!p.valid() || p.workspace == nullptr) return cudaErrorInvalidValue;
  return dispatch_float(p.dtype,
                        [&](auto type) { return run<typename decltype(type)::type>(p, stream); });
}

}  // namespace pysr
