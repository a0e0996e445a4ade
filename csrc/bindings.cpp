// Python's view of the operators: module pysr._C, imported by pysr/_ext.py alone.
//
// Tensors arrive as addresses, shapes and strides, so that this module depends on no version of
// torch; pysr/ops checks them. The GIL is released while an operator runs.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <cstdint>
#include <stdexcept>
#include <string>

#include "common/dtype.h"
#include "common/isa.h"
#include "ops/blur_decimate.h"

#ifdef PYSR_WITH_CUDA
#include <cuda_runtime.h>
#endif

namespace py = pybind11;

namespace {

using Four = std::array<int64_t, 4>;

void* pointer(uintptr_t address) { return reinterpret_cast<void*>(address); }

#ifdef PYSR_WITH_CUDA
void throw_on_error(const char* operation, int status) {
  if (status == cudaSuccess) return;
  throw std::runtime_error(std::string(operation) +
                           ": CUDA error: " + cudaGetErrorString(static_cast<cudaError_t>(status)));
}
#endif

pysr::BlurDecimateParams blur_decimate_params(uintptr_t x, uintptr_t kernels, uintptr_t out,
                                              const Four& size, const Four& x_stride,
                                              const Four& out_stride, int64_t k, int64_t stride,
                                              int dtype) {
  pysr::BlurDecimateParams p{};
  p.x = pointer(x);
  p.kernels = pointer(kernels);
  p.out = pointer(out);
  p.n = size[0];
  p.c = size[1];
  p.h = size[2];
  p.w = size[3];
  p.k = k;
  p.stride = stride;
  for (int i = 0; i < 4; ++i) {
    p.x_stride[i] = x_stride[i];
    p.out_stride[i] = out_stride[i];
  }
  p.dtype = static_cast<pysr::DType>(dtype);
  return p;
}

template <void (*Run)(const pysr::BlurDecimateParams&)>
void blur_decimate_cpu(uintptr_t x, uintptr_t kernels, uintptr_t out, Four size, Four x_stride,
                       Four out_stride, int64_t k, int64_t stride, int dtype, int threads) {
  auto p = blur_decimate_params(x, kernels, out, size, x_stride, out_stride, k, stride, dtype);
  p.threads = threads;
  const py::gil_scoped_release release;
  Run(p);
}

#ifdef PYSR_WITH_CUDA
template <int (*Run)(const pysr::BlurDecimateParams&, CUstream_st*)>
void blur_decimate_cuda(uintptr_t x, uintptr_t kernels, uintptr_t out, Four size, Four x_stride,
                        Four out_stride, int64_t k, int64_t stride, int dtype, uintptr_t workspace,
                        uintptr_t stream) {
  auto p = blur_decimate_params(x, kernels, out, size, x_stride, out_stride, k, stride, dtype);
  p.workspace = pointer(workspace);
  const py::gil_scoped_release release;
  throw_on_error("blur_decimate", Run(p, static_cast<CUstream_st*>(pointer(stream))));
}
#endif

template <int64_t (*Bytes)(const pysr::BlurDecimateParams&)>
int64_t blur_decimate_workspace(Four size, int64_t k, int64_t stride, int dtype) {
  return Bytes(blur_decimate_params(0, 0, 0, size, {}, {}, k, stride, dtype));
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.attr("dtypes") = py::dict(
      py::arg("float32") = static_cast<int>(pysr::DType::float32),
      py::arg("float64") = static_cast<int>(pysr::DType::float64),
      py::arg("bfloat16") = static_cast<int>(pysr::DType::bfloat16),
      py::arg("float16") = static_cast<int>(pysr::DType::float16));
  m.def("isa", [] { return pysr::name(pysr::isa()); });
  m.def("supported_isa", [] { return pysr::name(pysr::supported_isa()); });

  m.def("blur_decimate_cpu", blur_decimate_cpu<pysr::blur_decimate_cpu>);
  m.def("blur_decimate_grad_x_cpu", blur_decimate_cpu<pysr::blur_decimate_grad_x_cpu>);
  m.def("blur_decimate_grad_kernels_cpu", blur_decimate_cpu<pysr::blur_decimate_grad_kernels_cpu>);
#ifdef PYSR_WITH_CUDA
  m.attr("cuda_version") = CUDART_VERSION;
  m.attr("cuda_architectures") = PYSR_CUDA_ARCHITECTURES;
  m.def("blur_decimate_cuda", blur_decimate_cuda<pysr::blur_decimate_cuda>);
  m.def("blur_decimate_grad_x_cuda", blur_decimate_cuda<pysr::blur_decimate_grad_x_cuda>);
  m.def("blur_decimate_grad_kernels_cuda",
        blur_decimate_cuda<pysr::blur_decimate_grad_kernels_cuda>);
  m.def("blur_decimate_grad_x_workspace",
        blur_decimate_workspace<pysr::blur_decimate_grad_x_workspace>);
  m.def("blur_decimate_grad_kernels_workspace",
        blur_decimate_workspace<pysr::blur_decimate_grad_kernels_workspace>);
#else
  m.attr("cuda_version") = py::none();
  m.attr("cuda_architectures") = "";
#endif
}
