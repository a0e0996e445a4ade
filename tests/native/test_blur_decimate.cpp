// Calls the launchers without Python: the CPU kernels, or with the argument "cuda" the CUDA source
// under the emulator, against the definition written out in double. Exits non-zero on a
// disagreement.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <stdexcept>
#include <type_traits>
#include <vector>

#include "common/isa.h"
#include "common/parallel.h"
#include "ops/blur_decimate.h"

using namespace pysr;

namespace {

struct Case {
  int64_t n, c, h, w, k, stride;
  bool channels_last;
};

// Sizes around the tiles and vectors (32, 4 * 16, 6 rows), pictures smaller than the kernel,
// strides beyond the kernel.
const Case kCases[] = {
    {1, 1, 1, 1, 1, 1, false},   {1, 1, 1, 1, 21, 1, false},  {2, 1, 1, 5, 4, 2, false},
    {1, 2, 3, 2, 9, 1, false},   {1, 1, 2, 3, 7, 3, true},    {2, 3, 13, 70, 3, 1, true},
    {1, 1, 33, 35, 21, 1, false}, {2, 1, 37, 66, 6, 4, false}, {1, 2, 40, 29, 11, 3, true},
    {1, 1, 20, 17, 2, 5, false}, {1, 1, 9, 10, 1, 8, false},  {1, 1, 5, 34, 64, 1, false},
    {1, 1, 9, 11, 64, 8, false}, {1, 1, 66, 9, 5, 2, false},  {1, 1, 7, 130, 4, 1, false},
};

void fail(const Case& c, const char* what, double got, double expected) {
  std::printf("n=%d c=%d h=%d w=%d k=%d stride=%d: %s: got %.9g, expected %.9g\n", int(c.n),
              int(c.c), int(c.h), int(c.w), int(c.k), int(c.stride), what, got, expected);
  std::exit(1);
}

template <class S>
std::vector<S> random_values(size_t count, std::mt19937& random) {
  std::uniform_real_distribution<double> uniform(-1, 1);
  std::vector<S> values(count);
  for (S& value : values) value = Narrow<S>::from(static_cast<Accumulator<S>>(uniform(random)));
  return values;
}

void strides_of(int64_t c, int64_t h, int64_t w, bool channels_last, int64_t (&stride)[4]) {
  stride[0] = c * h * w;
  stride[1] = channels_last ? 1 : h * w;
  stride[2] = channels_last ? w * c : w;
  stride[3] = channels_last ? c : 1;
}

int64_t at(const int64_t (&stride)[4], int64_t n, int64_t c, int64_t y, int64_t x) {
  return n * stride[0] + c * stride[1] + y * stride[2] + x * stride[3];
}

// The mirror walked step by step, unlike the arithmetic under test.
int64_t walked(int64_t i, int64_t length) {
  if (length == 1) return 0;
  while (i < 0 || i >= length) i = i < 0 ? -i : 2 * (length - 1) - i;
  return i;
}

void test_index() {
  for (int64_t length = 1; length < 9; ++length) {
    for (int64_t i = -40; i < 40; ++i) {
      if (reflect(i, length) != walked(i, length)) std::exit(2);
    }
    for (int64_t margin = 0; margin < 12; ++margin) {
      for (int64_t y = 0; y < length; ++y) {
        const Preimages from(y, margin, length);
        for (int64_t r = 0; r < 50; ++r) {
          const bool listed = (r - from.direct) % from.period == 0 ||
                              (r - from.mirrored) % from.period == 0;
          const bool reached = r >= from.direct || r >= from.mirrored;
          if ((listed && reached) != (walked(r - margin, length) == y)) std::exit(3);
        }
      }
    }
  }
}

void test_parallel() {
  std::vector<int> seen(1000, 0);
  parallel_for(1000, 3, [&](int64_t item, int worker) { seen[item] += worker < 3; });
  for (int count : seen) {
    if (count != 1) std::exit(4);
  }
  try {
    parallel_for(100, 3, [](int64_t item, int) {
      if (item == 50) throw std::runtime_error("item 50");
    });
    std::exit(5);
  } catch (const std::runtime_error&) {
  }
}

template <class S>
void compare(const Case& c, const char* what, const std::vector<S>& got,
             const std::vector<double>& expected, const std::vector<double>& magnitude) {
  // Rounding of the sum and of the stored result, relative to the sum of absolute products.
  const double sum_unit = sizeof(Accumulator<S>) == 8 ? 0x1p-52 : 0x1p-23;
  constexpr bool is_bfloat16 = std::is_same<S, BFloat16>::value;
  constexpr bool is_float16 = std::is_same<S, Float16>::value;
  const double unit = is_bfloat16 ? 0x1p-8 : is_float16 ? 0x1p-11 : 0;
  const double subnormal = is_float16 ? 0x1p-25 : 0;
  for (size_t i = 0; i < got.size(); ++i) {
    const double bound = 32 * sum_unit * magnitude[i] + unit * std::abs(expected[i]) + subnormal;
    const double value = widen(got[i]);
    if (!(std::abs(value - expected[i]) <= bound)) fail(c, what, value, expected[i]);
  }
}

struct Launchers {
  void (*forward)(const BlurDecimateParams&);
  void (*grad_x)(const BlurDecimateParams&);
  void (*grad_kernels)(const BlurDecimateParams&);
};

template <int (*Run)(const BlurDecimateParams&, CUstream_st*),
          int64_t (*Bytes)(const BlurDecimateParams&)>
void emulated(const BlurDecimateParams& p) {
  BlurDecimateParams with = p;
  std::vector<unsigned char> workspace(Bytes(p), 0xff);
  with.workspace = workspace.data();
  if (Run(with, nullptr) != 0) std::exit(6);
}
int64_t no_workspace(const BlurDecimateParams&) { return 0; }

const Launchers kCpu{blur_decimate_cpu, blur_decimate_grad_x_cpu, blur_decimate_grad_kernels_cpu};
const Launchers kCuda{emulated<blur_decimate_cuda, no_workspace>,
                      emulated<blur_decimate_grad_x_cuda, blur_decimate_grad_x_workspace>,
                      emulated<blur_decimate_grad_kernels_cuda,
                               blur_decimate_grad_kernels_workspace>};

template <class S>
void test(const Case& c, DType dtype, const Launchers& launch) {
  std::mt19937 random(static_cast<unsigned>(c.h * 100 + c.w));
  BlurDecimateParams p{};
  p.n = c.n, p.c = c.c, p.h = c.h, p.w = c.w, p.k = c.k, p.stride = c.stride;
  p.dtype = dtype;
  p.threads = 3;
  const int64_t ho = p.ho(), wo = p.wo();
  std::vector<S> x = random_values<S>(c.n * c.c * c.h * c.w, random);
  std::vector<S> kernels = random_values<S>(c.n * c.k * c.k, random);
  std::vector<S> g = random_values<S>(c.n * c.c * ho * wo, random);
  std::vector<S> out(g.size()), x_grad(x.size()), kernel_grad(kernels.size());
  int64_t dense_x[4], dense_out[4];
  strides_of(c.c, c.h, c.w, false, dense_x);
  strides_of(c.c, ho, wo, false, dense_out);
  strides_of(c.c, c.h, c.w, c.channels_last, p.x_stride);
  strides_of(c.c, ho, wo, c.channels_last, p.out_stride);

  std::vector<double> e_out(out.size()), m_out(out.size()), e_x(x.size()), m_x(x.size());
  std::vector<double> e_k(kernels.size()), m_k(kernels.size());
  for (int64_t n = 0; n < c.n; ++n)
    for (int64_t ch = 0; ch < c.c; ++ch)
      for (int64_t i = 0; i < ho; ++i)
        for (int64_t j = 0; j < wo; ++j)
          for (int64_t u = 0; u < c.k; ++u)
            for (int64_t v = 0; v < c.k; ++v) {
              const int64_t y = walked(c.stride * i + u - c.k / 2, c.h);
              const int64_t z = walked(c.stride * j + v - c.k / 2, c.w);
              const int64_t o = at(dense_out, n, ch, i, j), q = at(dense_x, n, ch, y, z);
              const int64_t t = (n * c.k + u) * c.k + v;
              const double pixel = widen(x[at(p.x_stride, n, ch, y, z)]);
              const double slope = widen(g[at(p.out_stride, n, ch, i, j)]), tap = widen(kernels[t]);
              e_out[o] += tap * pixel, m_out[o] += std::abs(tap * pixel);
              e_x[q] += tap * slope, m_x[q] += std::abs(tap * slope);
              e_k[t] += pixel * slope, m_k[t] += std::abs(pixel * slope);
            }

  BlurDecimateParams run = p;
  run.x = x.data(), run.kernels = kernels.data(), run.out = out.data();
  launch.forward(run);
  compare(c, "output", out, e_out, m_out);
  run.x = x_grad.data(), run.out = g.data();
  launch.grad_x(run);
  compare(c, "gradient by x", x_grad, e_x, m_x);
  run.x = x.data(), run.kernels = kernel_grad.data();
  launch.grad_kernels(run);
  compare(c, "gradient by the kernels", kernel_grad, e_k, m_k);
}

}  // namespace

int main(int count, char** arguments) {
  const bool cuda = count > 1 && std::strcmp(arguments[1], "cuda") == 0;
  const Launchers& launch = cuda ? kCuda : kCpu;
  test_index();
  test_parallel();
  for (DType dtype : {DType::float32, DType::float64, DType::bfloat16, DType::float16}) {
    dispatch(dtype, [&](auto type) {
      for (const Case& c : kCases) test<typename decltype(type)::type>(c, dtype, launch);
    });
  }
  try {
    blur_decimate_cpu(BlurDecimateParams{});
    return 7;
  } catch (const std::invalid_argument&) {
  }
  std::printf("blur_decimate: %s: ok\n", cuda ? "cuda, emulated" : name(isa()));
}
