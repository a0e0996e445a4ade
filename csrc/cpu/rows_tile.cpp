// See rows_tile.h.
#include "cpu/rows_tile.h"
#include "cpu/vector.h"

namespace pysr {
namespace PYSR_ISA {
namespace {

// A stride known to the compiler lets it shuffle whole vectors.
template <class T, int S>
void split_by(const T* __restrict row, T* __restrict parts, ptrdiff_t part_step, ptrdiff_t count) {
  for (ptrdiff_t b = 0; b < count; ++b) {
    for (int phase = 0; phase < S; ++phase) parts[phase * part_step + b] = row[S * b + phase];
  }
}

template <class T>
void split(const T* row, T* parts, int stride, int phases, ptrdiff_t part_step, ptrdiff_t count) {
  if (phases == stride) {
    if (stride == 2) return split_by<T, 2>(row, parts, part_step, count);
    if (stride == 3) return split_by<T, 3>(row, parts, part_step, count);
    if (stride == 4) return split_by<T, 4>(row, parts, part_step, count);
  }
  for (int phase = 0; phase < phases; ++phase) {
    for (ptrdiff_t b = 0; b < count; ++b) parts[phase * part_step + b] = row[stride * b + phase];
  }
}

template <class T, int S>
void merge_by(T* __restrict row, const T* __restrict parts, ptrdiff_t part_step, ptrdiff_t count) {
  for (ptrdiff_t b = 0; b < count; ++b) {
    for (int phase = 0; phase < S; ++phase) row[S * b + phase] = parts[phase * part_step + b];
  }
}

template <class T>
void merge(T* row, const T* parts, int stride, ptrdiff_t part_step, ptrdiff_t count) {
  if (stride == 2) return merge_by<T, 2>(row, parts, part_step, count);
  if (stride == 3) return merge_by<T, 3>(row, parts, part_step, count);
  if (stride == 4) return merge_by<T, 4>(row, parts, part_step, count);
  for (int phase = 0; phase < stride; ++phase) {
    for (ptrdiff_t b = 0; b < count; ++b) row[stride * b + phase] = parts[phase * part_step + b];
  }
}

// A row split into as many parts as a vector has lanes, or merged from them, is a matrix
// transposed. Two strides whose product is that number do it block by block in two rounds of
// shuffles.
template <class T>
constexpr int kInner = kLanes<T> >= 8 ? 4 : 2;
template <class T>
constexpr int kOuter = kLanes<T> / kInner<T>;

template <class T>
void merge_lanes(T* row, const T* parts, ptrdiff_t part_step, ptrdiff_t count) {
  constexpr int lanes = kLanes<T>;
  alignas(PYSR_VECTOR_BYTES) T block[lanes * lanes];
  for (ptrdiff_t at = 0; at + lanes <= count; at += lanes) {
    for (int inner = 0; inner < kInner<T>; ++inner) {
      merge_by<T, kOuter<T>>(block + inner * kOuter<T> * lanes, parts + inner * part_step + at,
                             kInner<T> * part_step, lanes);
    }
    merge_by<T, kInner<T>>(row + at * lanes, block, kOuter<T> * lanes, kOuter<T> * lanes);
  }
  const ptrdiff_t done = count - count % lanes;
  for (ptrdiff_t b = done; b < count; ++b) {
    for (int phase = 0; phase < lanes; ++phase) {
      row[lanes * b + phase] = parts[phase * part_step + b];
    }
  }
}

template <class T>
void split_lanes(const T* row, T* parts, ptrdiff_t part_step, ptrdiff_t count) {
  constexpr int lanes = kLanes<T>;
  alignas(PYSR_VECTOR_BYTES) T block[lanes * lanes];
  for (ptrdiff_t at = 0; at + lanes <= count; at += lanes) {
    split_by<T, kInner<T>>(row + at * lanes, block, kOuter<T> * lanes, kOuter<T> * lanes);
    for (int inner = 0; inner < kInner<T>; ++inner) {
      split_by<T, kOuter<T>>(block + inner * kOuter<T> * lanes, parts + inner * part_step + at,
                             kInner<T> * part_step, lanes);
    }
  }
  const ptrdiff_t done = count - count % lanes;
  for (ptrdiff_t b = done; b < count; ++b) {
    for (int phase = 0; phase < lanes; ++phase) {
      parts[phase * part_step + b] = row[lanes * b + phase];
    }
  }
}

}  // namespace

template <class T>
RowKernels<T> row_kernels() {
  return {kLanes<T>, split<T>, merge<T>, split_lanes<T>, merge_lanes<T>};
}

template RowKernels<float> row_kernels<float>();
template RowKernels<double> row_kernels<double>();

}  // namespace PYSR_ISA
}  // namespace pysr
