// Rows taken apart by phase (their columns' remainder modulo the stride) and put together again.
// Compiled once per instruction set from rows_tile.cpp; only plain structs cross over, since an
// inline function of the standard library compiled there with AVX would be merged by the linker
// with the copy that every machine runs.
#pragma once

#include <cstddef>

namespace pysr {

template <class T>
struct RowKernels {
  int lanes;
  // row[stride * b + phase] <-> parts[phase * part_step + b], for b below count.
  void (*split)(const T* row, T* parts, int stride, int phases, ptrdiff_t part_step,
                ptrdiff_t count);
  void (*merge)(T* row, const T* parts, int stride, ptrdiff_t part_step, ptrdiff_t count);
  // The same with a stride of `lanes`, and as many phases.
  void (*split_lanes)(const T* row, T* parts, ptrdiff_t part_step, ptrdiff_t count);
  void (*merge_lanes)(T* row, const T* parts, ptrdiff_t part_step, ptrdiff_t count);
};

namespace baseline {
template <class T>
RowKernels<T> row_kernels();
}
namespace avx2 {
template <class T>
RowKernels<T> row_kernels();
}
namespace avx512 {
template <class T>
RowKernels<T> row_kernels();
}

}  // namespace pysr
