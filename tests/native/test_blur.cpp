// Calls the launchers without Python: the CPU kernels, or with the argument "cuda" the CUDA source
// under the emulator, against the definition written out in double. Exits non-zero on a
// disagreement.
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "common/isa.h"
#include "common/parallel.h"
#include "ops/blur.h"
#include "reference.h"

using namespace pysr;

namespace {

struct Case {
  int64_t n, c, h, w, k, stride;
  bool channels_last;
  Padding padding = Padding::reflect;
  bool per_channel = false;
};

// Sizes around the tiles and vectors (32, 4 * 16, 6 rows), pictures smaller than the kernel,
// strides beyond the kernel; then the other paddings, and kernels per channel.
const Case kCases[] = {
    {1, 1, 1, 1, 1, 1, false},   {1, 1, 1, 1, 21, 1, false},  {2, 1, 1, 5, 4, 2, false},
    {1, 2, 3, 2, 9, 1, false},   {1, 1, 2, 3, 7, 3, true},    {2, 3, 13, 70, 3, 1, true},
    {1, 1, 33, 35, 21, 1, false}, {2, 1, 37, 66, 6, 4, false}, {1, 2, 40, 29, 11, 3, true},
    {1, 1, 20, 17, 2, 5, false}, {1, 1, 9, 10, 1, 8, false},  {1, 1, 5, 34, 64, 1, false},
    {1, 1, 9, 11, 64, 8, false}, {1, 1, 66, 9, 5, 2, false},  {1, 1, 7, 130, 4, 1, false},
    {2, 3, 13, 37, 16, 1, false, Padding::reflect, true},
    {3, 2, 2, 5, 7, 1, true, Padding::replicate, true},
    {2, 2, 19, 18, 4, 3, false, Padding::replicate},
    {1, 3, 3, 17, 16, 1, true, Padding::zeros, true},
    {2, 1, 21, 66, 5, 2, false, Padding::zeros},
    {2, 3, 11, 21, 8, 1, false, Padding::none, true},
    {1, 2, 14, 9, 3, 4, true, Padding::none},
};

std::string described(const Case& c) {
  return "n=" + std::to_string(c.n) + " c=" + std::to_string(c.c) + " h=" + std::to_string(c.h) +
         " w=" + std::to_string(c.w) + " k=" + std::to_string(c.k) +
         " stride=" + std::to_string(c.stride) +
         " padding=" + std::to_string(static_cast<int>(c.padding)) +
         (c.per_channel ? ", kernels per channel" : "");
}

void test_index() {
  for (int64_t length = 1; length < 9; ++length) {
    for (int64_t i = -40; i < 40; ++i) {
      if (reflect(i, length) != walked(i, length)) std::exit(2);
    }
    for (Padding padding : {Padding::reflect, Padding::replicate, Padding::zeros, Padding::none}) {
      for (int64_t margin = 0; margin < (padding == Padding::none ? 1 : 12); ++margin) {
        for (int64_t y = 0; y < length; ++y) {
          const Preimages from(y, length, margin, 50, padding);
          int64_t next = from.first;
          for (int64_t r = 0; r < 50; ++r) {
            if (walked(r - margin, length, padding) != y) continue;
            if (next != r) std::exit(3);
            next = from.after(r);
          }
          if (next < from.end) std::exit(3);
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

struct Launchers {
  void (*forward)(const BlurParams&);
  void (*grad_x)(const BlurParams&);
  void (*grad_kernels)(const BlurParams&);
};

const Launchers kCpu{blur_cpu, blur_grad_x_cpu, blur_grad_kernels_cpu};
const Launchers kCuda{emulated<BlurParams, blur_cuda, blur_workspace>,
                      emulated<BlurParams, blur_grad_x_cuda, blur_grad_x_workspace>,
                      emulated<BlurParams, blur_grad_kernels_cuda, blur_grad_kernels_workspace>};

template <class S>
void test(const Case& c, DType dtype, const Launchers& launch) {
  using T = Accumulator<S>;
  std::mt19937 random(static_cast<unsigned>(c.h * 100 + c.w));
  BlurParams p{};
  p.n = c.n, p.c = c.c, p.h = c.h, p.w = c.w, p.k = c.k, p.stride = c.stride;
  p.padding = c.padding, p.per_channel = c.per_channel, p.dtype = dtype;
  p.threads = 3;
  const int64_t ho = p.ho(), wo = p.wo();
  std::vector<S> x = random_values<S>(c.n * c.c * c.h * c.w, random);
  std::vector<T> kernels = random_values<T>(p.kernel_count() * c.k * c.k, random);
  std::vector<S> g = random_values<S>(c.n * c.c * ho * wo, random);
  std::vector<S> out(g.size()), x_grad(x.size());
  std::vector<T> kernel_grad(kernels.size());
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
              const int64_t margin = c.padding == Padding::none ? 0 : c.k / 2;
              const int64_t y = walked(c.stride * i + u - margin, c.h, c.padding);
              const int64_t z = walked(c.stride * j + v - margin, c.w, c.padding);
              if (y < 0 || z < 0) continue;
              const int64_t o = at(dense_out, n, ch, i, j), q = at(dense_x, n, ch, y, z);
              const int64_t t = ((c.per_channel ? ch : n) * c.k + u) * c.k + v;
              const double pixel = widen(x[at(p.x_stride, n, ch, y, z)]);
              const double slope = widen(g[at(p.out_stride, n, ch, i, j)]), tap = kernels[t];
              e_out[o] += tap * pixel, m_out[o] += std::abs(tap * pixel);
              e_x[q] += tap * slope, m_x[q] += std::abs(tap * slope);
              e_k[t] += pixel * slope, m_k[t] += std::abs(pixel * slope);
            }

  BlurParams run = p;
  run.x = x.data(), run.kernels = kernels.data(), run.out = out.data();
  launch.forward(run);
  compare(described(c) + ": output", out, e_out, m_out);
  run.x = x_grad.data(), run.out = g.data();
  launch.grad_x(run);
  compare(described(c) + ": gradient by x", x_grad, e_x, m_x);
  run.x = x.data(), run.kernels = kernel_grad.data();
  launch.grad_kernels(run);
  compare(described(c) + ": gradient by the kernels", kernel_grad, e_k, m_k);
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
    blur_cpu(BlurParams{});
    return 7;
  } catch (const std::invalid_argument&) {
  }
  std::printf("blur: %s: ok\n", cuda ? "cuda, emulated" : name(isa()));
}
