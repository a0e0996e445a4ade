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

}  // namespace

template <class T>
RowKernels<T> row_kernels() {
  return {kLanes<T>, split<T>, merge<T>};
}

template RowKernels<float> row_kernels<float>();
template RowKernels<double> row_kernels<double>();

}  // namespace PYSR_ISA
}  // namespace pysr
