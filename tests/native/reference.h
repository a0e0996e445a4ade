// What the native tests share: random tensors, strides, borders walked step by step, and the bound
// that a result must keep to the exact one.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <type_traits>
#include <vector>

#include "common/dtype.h"
#include "common/window.h"

struct CUstream_st;

namespace pysr {

template <class S>
std::vector<S> random_values(size_t count, std::mt19937& random) {
  std::uniform_real_distribution<double> uniform(-1, 1);
  std::vector<S> values(count);
  for (S& value : values) value = Narrow<S>::from(static_cast<Accumulator<S>>(uniform(random)));
  return values;
}

inline void strides_of(int64_t c, int64_t h, int64_t w, bool channels_last, int64_t (&stride)[4]) {
  stride[0] = c * h * w;
  stride[1] = channels_last ? 1 : h * w;
  stride[2] = channels_last ? w * c : w;
  stride[3] = channels_last ? c : 1;
}

inline int64_t at(const int64_t (&stride)[4], int64_t n, int64_t c, int64_t y, int64_t x) {
  return n * stride[0] + c * stride[1] + y * stride[2] + x * stride[3];
}

// The mirror walked step by step, unlike the arithmetic under test.
inline int64_t walked(int64_t i, int64_t length) {
  if (length == 1) return 0;
  while (i < 0 || i >= length) i = i < 0 ? -i : 2 * (length - 1) - i;
  return i;
}

// Index i of a row as each padding shows it, -1 for a zero.
inline int64_t walked(int64_t i, int64_t length, Padding padding) {
  if (i >= 0 && i < length) return i;
  if (padding == Padding::reflect) return walked(i, length);
  if (padding == Padding::replicate) return i < 0 ? 0 : length - 1;
  return -1;
}

// Unit of rounding to the nearest value of type S; 0 for the types that sums are taken in.
template <class S>
constexpr double rounding() {
  return std::is_same<S, BFloat16>::value ? 0x1p-8 : std::is_same<S, Float16>::value ? 0x1p-11 : 0;
}

// Ends the test unless every value lies within rounding of the expected one; magnitude is the sum of
// the absolute values of what was added up, deviation what roundings in between add to the error.
template <class S>
void compare(const std::string& what, const std::vector<S>& got,
             const std::vector<double>& expected, const std::vector<double>& magnitude,
             const std::vector<double>& deviation = {}) {
  // Rounding of the sum and of the stored result, relative to the sum of absolute products.
  const double sum_unit = sizeof(Accumulator<S>) == 8 ? 0x1p-52 : 0x1p-23;
  const double subnormal = std::is_same<S, Float16>::value ? 0x1p-25 : 0;
  for (size_t i = 0; i < got.size(); ++i) {
    const double bound = 32 * sum_unit * magnitude[i] + rounding<S>() * std::abs(expected[i]) +
                         subnormal + (deviation.empty() ? 0 : 4 * deviation[i]);
    const double value = widen(got[i]);
    if (!(std::abs(value - expected[i]) <= bound)) {
      std::printf("%s [%zu]: got %.9g, expected %.9g\n", what.c_str(), i, value, expected[i]);
      std::exit(1);
    }
  }
}

// A CUDA launcher as the emulator runs it, with its workspace.
template <class Params, int (*Run)(const Params&, CUstream_st*), int64_t (*Bytes)(const Params&)>
void emulated(const Params& given) {
  Params p = given;
  std::vector<unsigned char> workspace(static_cast<size_t>(Bytes(p)), 0xff);
  p.workspace = workspace.data();
  if (Run(p, nullptr) != 0) {
    std::printf("the emulated launch failed\n");
    std::exit(1);
  }
}

// Weights packed by a CUDA launcher, as the emulator runs it.
template <class Params, int (*Run)(const Params&, CUstream_st*)>
void emulated_pack(const Params& p) {
  if (Run(p, nullptr) != 0) {
    std::printf("the emulated launch failed\n");
    std::exit(1);
  }
}

// Runs a launcher twice, packing for itself and with weights packed before, and ends the test
// unless both results are the same; once where nothing is packed, and for bfloat16, which is packed
// as float16 is.
template <class S, class Params>
void launch_both_ways(const std::string& what, Params p, std::vector<S>& out,
                      void (*launch)(const Params&), int64_t (*packed_bytes)(const Params&),
                      void (*pack)(const Params&)) {
  launch(p);
  if (packed_bytes(p) == 0 || std::is_same<S, BFloat16>::value) return;
  std::vector<S> again(out.size());
  std::vector<unsigned char> packed(static_cast<size_t>(packed_bytes(p)), 0xff);
  p.packed = packed.data();
  pack(p);
  p.out = again.data();
  launch(p);
  if (std::memcmp(out.data(), again.data(), out.size() * sizeof(S)) != 0) {
    std::printf("%s: packed weights give another result\n", what.c_str());
    std::exit(1);
  }
}

}  // namespace pysr
