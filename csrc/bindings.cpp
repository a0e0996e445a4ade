// Python's view of the operators: module pysr._C, imported by pysr/_ext.py alone.
//
// A launcher's params struct lists its fields by name, and Python fills them by keyword: tensors
// arrive as addresses, sizes and strides, so that this module depends on no version of torch. What
// they mean together is checked by pysr/ops. The GIL is released while an operator runs.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "common/dtype.h"
#include "common/isa.h"
#include "cpu/memory.h"
#include "ops/basis_svconv.h"
#include "ops/blur.h"
#include "ops/conditional_residual_block.h"
#include "ops/conv_shuffle.h"
#include "ops/mixed_residual_block.h"
#include "ops/svconv.h"

#ifdef PYSR_WITH_CUDA
#include <cuda_runtime.h>

#include "cuda/obstacle.h"
#endif

namespace py = pybind11;

namespace {

void* pointer(uintptr_t address) { return reinterpret_cast<void*>(address); }

// Fills a params struct from keywords; every field must be given, and nothing else.
class Filler {
 public:
  explicit Filler(const py::dict& given) : given_(given) {}

  template <class T>
  void operator()(const char* name, T& field) {
    PyObject* const value = PyDict_GetItemString(given_.ptr(), name);
    if (value == nullptr) throw py::type_error(std::string("missing field: ") + name);
    ++used_;
    set(field, value);
  }
  void finish() const {
    if (used_ != given_.size()) throw py::type_error("more fields given than there are");
  }

 private:
  template <class T>
  static void set(T& field, py::handle value) {
    if constexpr (std::is_enum_v<T>) {
      field = static_cast<T>(value.cast<int>());
    } else {
      field = value.cast<T>();
    }
  }
  static void set(void*& field, py::handle value) { field = pointer(value.cast<uintptr_t>()); }
  template <size_t N>
  static void set(int64_t (&field)[N], py::handle value) {
    const auto sequence = value.cast<py::sequence>();
    if (sequence.size() != N) throw py::type_error("wrong number of strides");
    for (size_t i = 0; i < N; ++i) field[i] = sequence[i].cast<int64_t>();
  }

  const py::dict& given_;
  size_t used_ = 0;
};

template <class Params>
Params params(const py::kwargs& given) {
  Params p{};
  Filler filler(given);
  p.fields(filler);
  filler.finish();
  return p;
}

template <class Params>
void add_cpu(py::module_& m, const char* name, void (*run)(const Params&)) {
  m.def((std::string(name) + "_cpu").c_str(), [run](int threads, const py::kwargs& given) {
    auto p = params<Params>(given);
    p.threads = threads;
    const py::gil_scoped_release release;
    run(p);
  }, py::arg("threads"));
}

// name_packed_cpu gives the bytes that name_pack_cpu fills at the address `packed`.
template <class Params>
void add_pack_cpu(py::module_& m, const char* name, int64_t (*bytes)(const Params&),
                  void (*pack)(const Params&)) {
  m.def((std::string(name) + "_packed_cpu").c_str(),
        [bytes](const py::kwargs& given) { return bytes(params<Params>(given)); });
  add_cpu(m, (std::string(name) + "_pack").c_str(), pack);
}

#ifdef PYSR_WITH_CUDA
// name_workspace gives the bytes that name_cuda needs at the address `workspace`.
template <class Params>
void add_cuda(py::module_& m, const char* name, int (*run)(const Params&, CUstream_st*),
              int64_t (*workspace)(const Params&)) {
  m.def((std::string(name) + "_workspace").c_str(),
        [workspace](const py::kwargs& given) { return workspace(params<Params>(given)); });
  m.def((std::string(name) + "_cuda").c_str(),
        [run, name = std::string(name)](uintptr_t workspace, uintptr_t stream,
                                        const py::kwargs& given) {
          auto p = params<Params>(given);
          p.workspace = pointer(workspace);
          const py::gil_scoped_release release;
          const int status = run(p, static_cast<CUstream_st*>(pointer(stream)));
          if (status == cudaSuccess) return;
          const char* reason = cudaGetErrorString(static_cast<cudaError_t>(status));
          throw std::runtime_error(name + ": CUDA error: " + reason);
        },
        py::arg("workspace"), py::arg("stream"));
}

template <class Params>
void add_pack_cuda(py::module_& m, const char* name, int64_t (*bytes)(const Params&),
                   int (*pack)(const Params&, CUstream_st*)) {
  m.def((std::string(name) + "_packed_cuda").c_str(),
        [bytes](const py::kwargs& given) { return bytes(params<Params>(given)); });
  add_cuda<Params>(m, (std::string(name) + "_pack").c_str(), pack,
                   [](const Params&) -> int64_t { return 0; });
}
#define PYSR_ADD(name) \
  add_cpu(m, #name, pysr::name##_cpu), add_cuda(m, #name, pysr::name##_cuda, pysr::name##_workspace)
#define PYSR_ADD_PACK(name)                                              \
  add_pack_cpu(m, #name, pysr::name##_packed_cpu, pysr::name##_pack_cpu), \
      add_pack_cuda(m, #name, pysr::name##_packed_cuda, pysr::name##_pack_cuda)
#else
#define PYSR_ADD(name) add_cpu(m, #name, pysr::name##_cpu)
#define PYSR_ADD_PACK(name) \
  add_pack_cpu(m, #name, pysr::name##_packed_cpu, pysr::name##_pack_cpu)
#endif

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.attr("dtypes") = py::dict(
      py::arg("float32") = static_cast<int>(pysr::DType::float32),
      py::arg("float64") = static_cast<int>(pysr::DType::float64),
      py::arg("bfloat16") = static_cast<int>(pysr::DType::bfloat16),
      py::arg("float16") = static_cast<int>(pysr::DType::float16));
  m.attr("paddings") = py::dict(
      py::arg("reflect") = static_cast<int>(pysr::Padding::reflect),
      py::arg("replicate") = static_cast<int>(pysr::Padding::replicate),
      py::arg("zeros") = static_cast<int>(pysr::Padding::zeros),
      py::arg("none") = static_cast<int>(pysr::Padding::none));
  m.def("release_memory", [] { pysr::CallMemory::release(); });
  m.def("isa", [] { return pysr::name(pysr::isa()); });
  m.def("isas", [] {
    std::vector<std::string> usable;
    for (int each = static_cast<int>(pysr::supported_isa()); each >= 0; --each) {
      usable.push_back(pysr::name(static_cast<pysr::Isa>(each)));
    }
    return usable;
  });
#ifdef PYSR_WITH_CUDA
  m.attr("cuda_version") = CUDART_VERSION;
  m.attr("cuda_architectures") = PYSR_CUDA_ARCHITECTURES;
  m.def("cuda_obstacle", pysr::cuda_obstacle);
#else
  m.attr("cuda_version") = py::none();
  m.attr("cuda_architectures") = "";
#endif

  PYSR_ADD(basis_svconv);
  PYSR_ADD(basis_svconv_grad_x);
  PYSR_ADD(basis_svconv_grad_coefficients);
  PYSR_ADD(basis_svconv_grad_bases);
  PYSR_ADD(blur);
  PYSR_ADD(blur_grad_x);
  PYSR_ADD(blur_grad_kernels);
  PYSR_ADD(conditional_residual_block);
  PYSR_ADD_PACK(conditional_residual_block);
  PYSR_ADD(conv_shuffle);
  PYSR_ADD_PACK(conv_shuffle);
  add_cpu(m, "conv_shuffle_grad_weight", pysr::conv_shuffle_grad_weight_cpu);
  add_cpu(m, "mixed_residual_block", pysr::mixed_residual_block_cpu);
  add_cpu(m, "mixed_residual_block_grad", pysr::mixed_residual_block_grad_cpu);
  m.def("mixed_residual_block_hidden", pysr::mixed_residual_block_hidden);
  PYSR_ADD(svconv);
  PYSR_ADD(svconv_grad_x);
  PYSR_ADD(svconv_grad_kernels);
}
