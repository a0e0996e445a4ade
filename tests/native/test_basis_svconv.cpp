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
#include "ops/basis_svconv.h"
#include "reference.h"

using namespace pysr;

namespace {

struct Case {
  int64_t n, c, h, w, m, k, stride;
  Padding padding;
  bool channels_last;
};

// Sizes around the tiles, vectors and blocks of taps, pictures smaller than the kernel, strides
// beyond it, the most bases.
const Case kCases[] = {
    {1, 1, 1, 1, 1, 1, 1, Padding::reflect, false},
    {1, 2, 3, 2, 2, 9, 1, Padding::reflect, false},
    {2, 3, 5, 19, 8, 4, 2, Padding::reflect, true},
    {1, 4, 9, 70, 3, 5, 1, Padding::replicate, true},
    {1, 1, 5, 34, 2, 31, 3, Padding::zeros, false},
    {2, 1, 9, 10, 9, 1, 4, Padding::reflect, false},
    {1, 1, 19, 33, 32, 3, 1, Padding::none, false},
    {1, 2, 18, 9, 5, 8, 4, Padding::replicate, false},
};

std::string described(const Case& c) {
  return "n=" + std::to_string(c.n) + " c=" + std::to_string(c.c) + " h=" + std::to_string(c.h) +
         " w=" + std::to_string(c.w) + " m=" + std::to_string(c.m) + " k=" + std::to_string(c.k) +
         " stride=" + std::to_string(c.stride) +
         " padding=" + std::to_string(static_cast<int>(c.padding));
}

struct Launchers {
  void (*forward)(const BasisSvconvParams&);
  void (*grad_x)(const BasisSvconvParams&);
  void (*grad_coefficients)(const BasisSvconvParams&);
  void (*grad_bases)(const BasisSvconvParams&);
};

const Launchers kCpu{basis_svconv_cpu, basis_svconv_grad_x_cpu, basis_svconv_grad_coefficients_cpu,
                     basis_svconv_grad_bases_cpu};
const Launchers kCuda{
    emulated<BasisSvconvParams, basis_svconv_cuda, basis_svconv_workspace>,
    emulated<BasisSvconvParams, basis_svconv_grad_x_cuda, basis_svconv_grad_x_workspace>,
    emulated<BasisSvconvParams, basis_svconv_grad_coefficients_cuda,
             basis_svconv_grad_coefficients_workspace>,
    emulated<BasisSvconvParams, basis_svconv_grad_bases_cuda, basis_svconv_grad_bases_workspace>};

// Sums, and sums of absolute values, of what every number is made of.
struct Expected {
  std::vector<double> sum, magnitude;
  explicit Expected(size_t count) : sum(count), magnitude(count) {}
  void add(int64_t at, double product) {
    sum[at] += product, magnitude[at] += std::abs(product);
  }
};

template <class S>
void test(const Case& c, DType dtype, const Launchers& launch) {
  std::mt19937 random(static_cast<unsigned>(c.h * 100 + c.w));
  BasisSvconvParams p{};
  p.n = c.n, p.c = c.c, p.m = c.m, p.h = c.h, p.w = c.w, p.k = c.k, p.stride = c.stride;
  p.padding = c.padding;
  p.dtype = dtype;
  p.threads = 3;
  const int64_t ho = p.ho(), wo = p.wo(), margin = p.margin();
  std::vector<S> x = random_values<S>(c.n * c.c * c.h * c.w, random);
  std::vector<S> coefficients = random_values<S>(c.n * c.m * ho * wo, random);
  std::vector<S> bases = random_values<S>(c.m * c.k * c.k, random);
  std::vector<S> g = random_values<S>(c.n * c.c * ho * wo, random);
  int64_t dense_x[4], dense_out[4], dense_coefficients[4];
  strides_of(c.c, c.h, c.w, false, dense_x);
  strides_of(c.c, ho, wo, false, dense_out);
  strides_of(c.m, ho, wo, false, dense_coefficients);
  strides_of(c.c, c.h, c.w, c.channels_last, p.x_stride);
  strides_of(c.c, ho, wo, c.channels_last, p.out_stride);

  Expected by_out(g.size()), by_x(x.size()), by_coefficients(coefficients.size());
  Expected by_bases(bases.size());
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
              const double pixel = widen(x[at(p.x_stride, n, ch, y, z)]);
              const double slope = widen(g[at(p.out_stride, n, ch, i, j)]);
              for (int64_t m = 0; m < c.m; ++m) {
                const int64_t a = at(dense_coefficients, n, m, i, j), t = (m * c.k + u) * c.k + v;
                const double coefficient = widen(coefficients[a]), tap = widen(bases[t]);
                by_out.add(o, coefficient * tap * pixel);
                by_x.add(q, coefficient * tap * slope);
                by_coefficients.add(a, tap * pixel * slope);
                by_bases.add(t, coefficient * pixel * slope);
              }
            }

  const auto check = [&](const char* what, void (*run)(const BasisSvconvParams&),
                         void* BasisSvconvParams::*written, const Expected& expected) {
    std::vector<S> got(expected.sum.size());
    BasisSvconvParams given = p;
    given.x = x.data(), given.coefficients = coefficients.data();
    given.bases = bases.data(), given.out = g.data();
    given.*written = got.data();
    run(given);
    compare(described(c) + ": " + what, got, expected.sum, expected.magnitude);
  };
  check("output", launch.forward, &BasisSvconvParams::out, by_out);
  check("gradient by x", launch.grad_x, &BasisSvconvParams::x, by_x);
  check("gradient by the coefficients", launch.grad_coefficients,
        &BasisSvconvParams::coefficients, by_coefficients);
  check("gradient by the bases", launch.grad_bases, &BasisSvconvParams::bases, by_bases);
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
  try {
    basis_svconv_cpu(BasisSvconvParams{});
    return 7;
  } catch (const std::invalid_argument&) {
  }
  std::printf("basis_svconv: %s: ok\n", cuda ? "cuda, emulated" : name(isa()));
}
