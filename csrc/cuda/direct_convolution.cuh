// A zero-padded convolution in float, straight from shared memory, for the operators that have one.
//
// A thread keeps four rows of a column of pixels by eight output channels in registers, so that
// 18 pixels and 72 weights read from shared memory feed 288 products, for 3 x 3 taps.
#pragma once

#include <cstdint>

#include "common/index.h"
#include "common/launch.h"

namespace pysr {

constexpr int kDirectColumns = 32;  // of a block's tile, one a lane
constexpr int kDirectRows = 4;      // of a thread
constexpr int kDirectStrips = 2;    // of kDirectRows rows make a tile
constexpr int kDirectTileRows = kDirectRows * kDirectStrips;
constexpr int kDirectOutputs = 8;  // channels of a thread
constexpr int kDirectGroups = 4;   // of kDirectOutputs channels make a block
constexpr int kDirectBlockOutputs = kDirectOutputs * kDirectGroups;
constexpr int kDirectWarps = kDirectStrips * kDirectGroups;
constexpr int kDirectThreads = kDirectColumns * kDirectWarps;
constexpr int kDirectDepth = 8;  // input channels in shared memory at once

template <int Side>
struct DirectShape {
  static constexpr int pitch = kDirectColumns + Side - 1;
  static constexpr int plane = (kDirectTileRows + Side - 1) * pitch;
  static constexpr int taps = Side * Side;
  // Weights lie as [input channel][tap][output channel], padded so that writing them, tap by tap,
  // meets different banks.
  static constexpr int weight_pitch = kDirectBlockOutputs + 4;
  static constexpr size_t bytes = sizeof(float) * kDirectDepth * (plane + taps * weight_pitch);
};

// weight is (outputs, weight_inputs, Side, Side), of whose inputs the first ones are convolved.
struct DirectConvolution {
  const float* weight;
  int64_t weight_inputs, inputs, outputs, n, h, w;

  int64_t blocks() const {
    return n * ceil_div(w, kDirectColumns) * ceil_div(h, kDirectTileRows) *
           ceil_div(outputs, kDirectBlockOutputs);
  }
};

// What a block of (kDirectColumns, kDirectWarps) threads does: input(n, c, y, x) gives a pixel,
// output(n, o, y, x, sum) takes a sum.
template <int Side, class Input, class Output>
__device__ void convolve_direct(const DirectConvolution& p, float* shared, Input&& input,
                                Output&& output) {
  using Shape = DirectShape<Side>;
  float* const weights = shared + kDirectDepth * Shape::plane;
  const int64_t across = ceil_div(p.w, kDirectColumns);
  const int64_t tiles = across * ceil_div(p.h, kDirectTileRows);
  const int64_t chunks = ceil_div(p.outputs, kDirectBlockOutputs);
  const int64_t tile = blockIdx.x % tiles;
  const int64_t chunk = blockIdx.x / tiles % chunks, n = blockIdx.x / tiles / chunks;
  const int64_t top = tile / across * kDirectTileRows, left = tile % across * kDirectColumns;
  const int lane = static_cast<int>(threadIdx.x), warp = static_cast<int>(threadIdx.y);
  const int thread = warp * kDirectColumns + lane;
  const int strip = warp % kDirectStrips * kDirectRows;
  const int group = warp / kDirectStrips * kDirectOutputs;

  float sums[kDirectRows][kDirectOutputs] = {};
  for (int64_t first = 0; first < p.inputs; first += kDirectDepth) {
    const int64_t rest = p.inputs - first;
    const int depth = static_cast<int>(rest < kDirectDepth ? rest : kDirectDepth);
    __syncthreads();  // the last channels are read to the end
    for (int t = thread; t < depth * Shape::plane; t += kDirectThreads) {
      const int64_t y = top + t % Shape::plane / Shape::pitch - Side / 2;
      const int64_t x = left + t % Shape::pitch - Side / 2;
      const bool inside = y >= 0 && y < p.h && x >= 0 && x < p.w;
      shared[t] = inside ? input(n, first + t / Shape::plane, y, x) : 0;
    }
    for (int t = thread; t < depth * Shape::taps * kDirectBlockOutputs; t += kDirectThreads) {
      const int k = t % (depth * Shape::taps), o = t / (depth * Shape::taps);
      const int64_t out = chunk * kDirectBlockOutputs + o;
      weights[k * Shape::weight_pitch + o] =
          out < p.outputs ? p.weight[(out * p.weight_inputs + first) * Shape::taps + k] : 0;
    }
    __syncthreads();
    for (int c = 0; c < depth; ++c) {
      const float* const plane = shared + c * Shape::plane + strip * Shape::pitch + lane;
#pragma unroll
      for (int v = 0; v < Side; ++v) {
        float pixels[kDirectRows + Side - 1];
#pragma unroll
        for (int i = 0; i < kDirectRows + Side - 1; ++i) pixels[i] = plane[i * Shape::pitch + v];
#pragma unroll
        for (int u = 0; u < Side; ++u) {
          const float* const taps =
              weights + (c * Shape::taps + u * Side + v) * Shape::weight_pitch + group;
#pragma unroll
          for (int o = 0; o < kDirectOutputs; ++o) {
#pragma unroll
            for (int i = 0; i < kDirectRows; ++i) sums[i][o] += pixels[i + u] * taps[o];
          }
        }
      }
    }
  }
  const int64_t x = left + lane;
  if (x >= p.w) return;
#pragma unroll
  for (int o = 0; o < kDirectOutputs; ++o) {
    const int64_t out = chunk * kDirectBlockOutputs + group + o;
    if (out >= p.outputs) return;
#pragma unroll
    for (int i = 0; i < kDirectRows; ++i) {
      const int64_t y = top + strip + i;
      if (y < p.h) output(n, out, y, x, sums[i][o]);
    }
  }
}

}  // namespace pysr
