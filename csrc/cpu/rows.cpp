#include "cpu/rows.h"

#include "common/isa.h"

namespace pysr {

template <class T>
RowKernels<T> row_kernels() {
  PYSR_PICK_ISA(row_kernels<T>());
}

template RowKernels<float> row_kernels<float>();
template RowKernels<double> row_kernels<double>();

}  // namespace pysr
