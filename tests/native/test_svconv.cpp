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
#include "ops/svconv.h"
#include "reference.h"

using namespace pysr;

namespace {

struct Case {
  int64_t n, c, h, w, k, stride;
  Padding padding;
  bool channels_last;
};

// Sizes around the tiles, vectors and runs, pictures smaller than the kernel, strides beyond the
// kernel, more channels than share a read.
const Case kCases[] = {
    {1, 1, 1, 1, 1, 1, Padding::reflect, false},    {1, 1, 1, 1, 31, 4, Padding::reflect, false},
    {2, 1, 1, 5, 4, 2, Padding::reflect, false},    {1, 2, 3, 2, 9, 1, Padding::reflect, false},
    {1, 1, 2, 3, 7, 3, Padding::replicate, true},   {2, 3, 7, 70, 3, 1, Padding::reflect, true},
    {1, 6, 11, 17, 6, 1, Padding::zeros, false},    {1, 4, 9, 33, 5, 1, Padding::replicate, false},
    {1, 3, 21, 37, 15, 4, Padding::reflect, false}, {1, 5, 14, 19, 2, 3, Padding::none, true},
    {1, 2, 16, 20, 16, 2, Padding::none, false},    {1, 1, 9, 10, 1, 4, Padding::zeros, false},
    {1, 1, 6, 35, 31, 3, Padding::replicate, true}, {1, 1, 70, 3, 5, 1, Padding::reflect, false},
};

std::string described(const Case& c) {
  return "n=" + std::to_string(c.n) + " c=" + std::to_string(c.c) + " h=" + std::to_string(c.h) +
         " w=" + std::to_string(c.w) + " k=" + std::to_string(c.k) +
         " stride=" + std::to_string(c.stride) +
         " padding=" + std::to_string(static_cast<int>(c.padding));
}

struct Launchers {
  void (*forward)(const SvconvParams&);
  void (*grad_x)(const SvconvParams&);
  void (*grad_kernels)(const SvconvParams&);
};

const Launchers kCpu{svconv_cpu, svconv_grad_x_cpu, svconv_grad_kernels_cpu};
const Launchers kCuda{
    emulated<SvconvParams, svconv_cuda, svconv_workspace>,
    emulated<SvconvParams, svconv_grad_x_cuda, svconv_grad_x_workspace>,
    emulated<SvconvParams, svconv_grad_kernels_cuda, svconv_grad_kernels_workspace>};

// Steps of the kernels for rows of `pitch` numbers.
void kernel_strides(const SvconvParams& p, int64_t pitch, int64_t (&stride)[4]) {
  stride[3] = pitch;
  stride[2] = p.ho() * pitch;
  stride[1] = p.k * stride[2];
  stride[0] = p.k * stride[1];
}

template <class S>
void test(const Case& c, DType dtype, const Launchers& launch) {
  std::mt19937 random(static_cast<unsigned>(c.h * 100 + c.w));
  SvconvParams p{};
  p.n = c.n, p.c = c.c, p.h = c.h, p.w = c.w, p.k = c.k, p.stride = c.stride;
  p.padding = c.padding;
  p.dtype = dtype;
  p.threads = 3;
  const int64_t ho = p.ho(), wo = p.wo(), taps = c.n * c.k * c.k;
  // Read, kernels lie apart, between values that nothing may touch, and end with their last row.
  const int64_t pitch = wo + 3;
  std::vector<S> x = random_values<S>(c.n * c.c * c.h * c.w, random);
  std::vector<S> kernels = random_values<S>(taps * ho * pitch - 3, random);
  std::vector<S> g = random_values<S>(c.n * c.c * ho * wo, random);
  std::vector<S> out(g.size()), x_grad(x.size()), kernel_grad(taps * ho * wo);
  for (size_t i = 0; i < kernels.size(); ++i) {
    if (static_cast<int64_t>(i) % pitch >= wo) kernels[i] = Narrow<S>::from(NAN);
  }
  int64_t dense_x[4], dense_out[4];
  strides_of(c.c, c.h, c.w, false, dense_x);
  strides_of(c.c, ho, wo, false, dense_out);
  strides_of(c.c, c.h, c.w, c.channels_last, p.x_stride);
  strides_of(c.c, ho, wo, c.channels_last, p.out_stride);

  std::vector<double> e_out(out.size()), m_out(out.size()), e_x(x.size()), m_x(x.size());
  std::vector<double> e_k(kernel_grad.size()), m_k(kernel_grad.size());
  const int64_t margin = c.padding == Padding::none ? 0 : c.k / 2;
  for (int64_t n = 0; n < c.n; ++n)
    for (int64_t ch = 0; ch < c.c; ++ch)
      for (int64_t i = 0; i < ho; ++i)
        for (int64_t j = 0; j < wo; ++j)
          for (int64_t u = 0; u < c.k; ++u)
            for (int64_t v = 0; v < c.k; ++v) {
              const int64_t y = walked(c.stride * i + u - margin, c.h, c.padding);
              const int64_t z = walked(c.stride * j + v - margin, c.w, c.padding);
              if (y < 0 || z < 0) continue;
              const int64_t o = at(dense_out, n, ch, i, j), q = at(dense_x, n, ch, y, z);
              const int64_t row = ((n * c.k + u) * c.k + v) * ho + i, t = row * wo + j;
              const double pixel = widen(x[at(p.x_stride, n, ch, y, z)]);
              const double slope = widen(g[at(p.out_stride, n, ch, i, j)]);
              const double tap = widen(kernels[row * pitch + j]);
              e_out[o] += tap * pixel, m_out[o] += std::abs(tap * pixel);
              e_x[q] += tap * slope, m_x[q] += std::abs(tap * slope);
              e_k[t] += pixel * slope, m_k[t] += std::abs(pixel * slope);
            }

  SvconvParams run = p;
  kernel_strides(p, pitch, run.kernels_stride);
  run.x = x.data(), run.kernels = kernels.data(), run.out = out.data();
  launch.forward(run);
  compare(described(c) + ": output", out, e_out, m_out);
  run.x = x_grad.data(), run.out = g.data();
  launch.grad_x(run);
  compare(described(c) + ": gradient by x", x_grad, e_x, m_x);
  kernel_strides(p, wo, run.kernels_stride);
  run.x = x.data(), run.kernels = kernel_grad.data();
  launch.grad_kernels(run);
  compare(described(c) + ": gradient by the kernels", kernel_grad, e_k, m_k);
}

// The conversions of whole vectors: every value of a half type passes as a kernel unchanged, and
// the kernels' gradient rounds as Narrow does.
template <class S>
void test_halves(DType dtype) {
  constexpr int64_t side = 256;
  std::vector<S> x(side * side), ones(side * side, Narrow<S>::from(1.0f)), out(side * side);
  for (size_t i = 0; i < x.size(); ++i) x[i].bits = static_cast<uint16_t>(i);
  SvconvParams p{};
  p.n = p.c = p.k = p.stride = 1, p.h = p.w = side;
  p.dtype = dtype;
  p.threads = 1;
  strides_of(1, side, side, false, p.x_stride);
  strides_of(1, side, side, false, p.out_stride);
  kernel_strides(p, side, p.kernels_stride);
  const auto check_products = [&](const S factor) {
    for (size_t i = 0; i < x.size(); ++i) {
      const float got = widen(out[i]);
      const float expected = widen(Narrow<S>::from(widen(x[i]) * widen(factor)));
      if (got != expected && !(std::isnan(got) && std::isnan(expected))) {
        std::printf("half %04zx: got %.9g, expected %.9g\n", i, got, expected);
        std::exit(1);
      }
    }
  };
  p.x = ones.data(), p.kernels = x.data(), p.out = out.data();
  svconv_cpu(p);
  check_products(ones[0]);
  for (float factor : {0.3f, 3e-6f, 7e4f}) {
    std::vector<S> slope(side * side, Narrow<S>::from(factor));
    p.x = x.data(), p.kernels = out.data(), p.out = slope.data();
    svconv_grad_kernels_cpu(p);
    check_products(slope[0]);
  }
}

}  // namespace

int main(int count, char** arguments) {
  const bool cuda = count > 1 && std::strcmp(arguments[1], "cuda") == 0;
  const Launchers& launch = cuda ? kCuda : kCpu;
  for (DType dtype : {DType::float32, DType::float64, DType::bfloat16, DType::float16}) {
    dispatch(dtype, [&](auto type) {
      for (const Case& c : kCases) test<typename decltype(type)::type>(c, dtype, launch);
    });
  }
  if (!cuda) {
    test_halves<BFloat16>(DType::bfloat16);
    test_halves<Float16>(DType::float16);
  }
  try {
    svconv_cpu(SvconvParams{});
    return 7;
  } catch (const std::invalid_argument&) {
  }
  std::printf("svconv: %s: ok\n", cuda ? "cuda, emulated" : name(isa()));
}
