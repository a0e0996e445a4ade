// Which lane of a warp holds which element of the matrices of mma.m16n8k16, and how the weights of
// a convolution lie so that every lane finds its own side by side. Plain functions, so that the
// packing, the emulator and the tests speak of the same map.
#pragma once

#include <cstdint>

#include "common/host_device.h"
#include "common/index.h"

namespace pysr {

constexpr int kLanes = 32;

// Element i of a lane's part of a matrix (PTX ISA, "Matrix Fragments for mma.m16n8k16 with floating
// point type"). Halves lie two a register, i = 0 in the lower part of the first one.
struct Element {
  int row, column;
};
// A: 16 pixels by 16 input channels, i < 8.
PYSR_HD constexpr Element a_element(int lane, int i) {
  return {lane / 4 + i / 2 % 2 * 8, lane % 4 * 2 + i % 2 + i / 4 * 8};
}
// B: 16 input channels by 8 columns, i < 4.
PYSR_HD constexpr Element b_element(int lane, int i) {
  return {lane % 4 * 2 + i % 2 + i / 2 * 8, lane / 4};
}
// C: 16 pixels by 8 columns, i < 4.
PYSR_HD constexpr Element c_element(int lane, int i) {
  return {lane / 4 + i / 2 * 8, lane % 4 * 2 + i % 2};
}

// Input channels are stored and loaded in planes of 8 (16 bytes) and multiplied two planes at once.
constexpr int kPlane = 8;
constexpr int kPlanes = 2;
// A block's columns are halved between two groups of warps.
constexpr int kSides = 2;

// How the columns of a convolution (its output channels) are split: into blocks of
// kSides * tiles * 8, where one side is what a warp computes. As few padded columns as possible,
// then as wide as possible; `most` is what registers or shared memory allow.
PYSR_HD inline int tiles_for(int64_t columns, int most) {
  int best = 1;
  int64_t least = INT64_MAX;
  for (int tiles = 1; tiles <= most; ++tiles) {
    const int64_t padded = round_up(columns, kSides * 8 * tiles);
    if (padded <= least) best = tiles, least = padded;
  }
  return best;
}

// The weights of a convolution in the order in which they are read: block of columns, two planes
// of inputs, tap, side, tile, lane, and the lane's four halves of B. Columns and planes are padded
// with 0.
struct PackedWeights {
  int64_t inputs[2];      // channels of the one or two pictures convolved; each starts a plane
  int64_t weight_inputs;  // channels that the weight tensor has
  int64_t outputs;
  int shuffle;  // columns are ordered by subpixel, then by channel after the shuffle
  int taps;
  int tiles;

  PYSR_HD int64_t planes() const {
    return ceil_div(inputs[0], kPlane) + ceil_div(inputs[1], kPlane);
  }
  PYSR_HD int64_t steps() const { return ceil_div(planes(), kPlanes); }
  PYSR_HD int block_columns() const { return kSides * tiles * 8; }
  PYSR_HD int64_t blocks() const { return ceil_div(outputs, block_columns()); }
  PYSR_HD int64_t step_halves() const { return int64_t{taps} * kSides * tiles * kLanes * 4; }
  PYSR_HD int64_t halves() const { return blocks() * steps() * step_halves(); }

  // Channel of the weight tensor that channel `offset` of a plane stands for, or -1.
  PYSR_HD int64_t input_at(int64_t plane, int offset) const {
    const int64_t first = ceil_div(inputs[0], kPlane);
    const int part = plane >= first;
    const int64_t channel = (plane - (part ? first : 0)) * kPlane + offset;
    if (channel >= inputs[part]) return -1;
    return channel + (part ? inputs[0] : 0);
  }
  PYSR_HD int64_t output_at(int64_t column) const {
    if (column >= outputs) return -1;
    const int64_t subpixels = int64_t{shuffle} * shuffle, channels = outputs / subpixels;
    return column % channels * subpixels + column / channels;
  }
  // Where in the weight tensor (outputs, weight_inputs, taps) a packed half comes from, or -1.
  PYSR_HD int64_t source(int64_t index) const {
    const Element b = b_element(static_cast<int>(index / 4 % kLanes), static_cast<int>(index % 4));
    index /= 4 * kLanes;
    const int tile = static_cast<int>(index % tiles);
    index /= tiles;
    const int side = static_cast<int>(index % kSides);
    index /= kSides;
    const int64_t tap = index % taps, step = index / taps % steps(), block = index / taps / steps();
    const int64_t input = input_at(step * kPlanes + b.row / kPlane, b.row % kPlane);
    const int64_t output =
        output_at(block * block_columns() + (side * tiles + tile) * 8 + b.column);
    return input < 0 || output < 0 ? -1 : (output * weight_inputs + input) * taps + tap;
  }
};

}  // namespace pysr
